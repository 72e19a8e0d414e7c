"""A smooth residual energy network, scaled and shifted by its condition (FiLM)."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from ebm_jax.networks.convolution import Conv
from ebm_jax.networks.prepared import prepared
from ebm_jax.networks.recovery_resnet import level_embedding
from ebm_jax.networks.resolution import average_pool, check_can_halve, patches
from ebm_jax.settings import setting


class FilmBlock(nn.Module):
    """shortcut(x) + conv2(swish((1 + scale) conv1(swish(x)) + shift)), all 3 x 3.

    Scale and shift, [1 or batch, features] each, are dense in the condition's features (Perez et
    al. 2018, arXiv 1709.07871). The shortcut is a 1 x 1 convolution where the channel count
    changes. The second convolution starts at zero, so that a block starts as its shortcut.
    """

    features: int
    formulation: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, condition_features: jax.Array) -> jax.Array:
        """x [batch, H, W, c_in], condition_features [1 or batch, size] -> [.., features]."""
        options = {"formulation": self.formulation, "dtype": self.dtype}
        film = prepared(
            self,
            "film",
            lambda: nn.Dense(2 * self.features, name="film")(condition_features).astype(self.dtype)[
                :, None, None, :
            ],
        )
        scale, shift = jnp.split(film, 2, axis=-1)
        h = Conv(self.features, name="conv1", **options)(nn.swish(x))
        h = nn.swish((1 + scale) * h + shift)
        h = Conv(self.features, kernel_init=nn.initializers.zeros, name="conv2", **options)(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, kernel_size=1, name="conv_shortcut", **options)(x)
        return x + h


class FilmResNet(nn.Module):
    """E(x, c) = <v(c), sum over space of swish(h(x, c))> / sqrt(positions) + sqrt(d) b(c).

    For objectives that fit the *gradient* of an energy, in x or in c too, as dual score matching
    does: swish has derivatives of every order, where a rectifier's gradient is constant in pieces.
    From level to level energies differ in scale, as 1 / noise^2, which v(c) and the blocks' scales
    can follow, and in their constant, which b(c) holds; sqrt(d) lets it move as d values want.

    Per resolution `num_blocks` blocks of width * multiplier channels, then a 2 x 2 mean pool (not
    after the last). A condition is a number (a level, or any real one, such as log t), which enters
    by sinusoids, or a vector.

    Fields:
      image_size: height and width in pixels; channels: of the images. Settings: see the fields.
      formulation: of the convolutions, see `ebm_jax.networks.convolution`.
      dtype: of activations and kernels inside the network; parameters and energies are float32.
    Raises:
      ValueError: where image_size, in patches, cannot be halved len(multipliers) - 1 times.
    """

    image_size: int
    channels: int = 3
    width: int = setting(64, "channels of the first resolution; even", at_least=4)
    multipliers: tuple[int, ...] = setting((1, 2), "of the width, per resolution", at_least=1)
    num_blocks: int = setting(2, "residual blocks per resolution", at_least=1)
    patch_size: int = setting(1, "side of the squares of pixels that are channels", at_least=1)
    formulation: str = "auto"
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one input."""
        return self.image_size, self.image_size, self.channels

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None) -> jax.Array:
        """Energies of images.

        Args:
          x: [batch, image_size, image_size, channels]. condition: numbers, int or float [] or
            [batch]; vectors, float [1 or batch, k].
        Returns:
          E [batch], float32.
        """
        check_can_halve(self.image_size, len(self.multipliers) - 1, self.patch_size)

        def condition_features() -> jax.Array:  # shared by all layers, so computed once
            is_number = condition is None or jnp.ndim(condition) < 2
            vectors = level_embedding(condition, self.width) if is_number else condition
            return nn.swish(nn.Dense(4 * self.width, name="condition")(vectors))

        features = prepared(self, "condition_features", condition_features)
        options = {"formulation": self.formulation, "dtype": self.dtype}
        block = nn.remat(FilmBlock) if self.remat else FilmBlock
        h = Conv(self.width, name="conv_in", **options)(patches(x, self.patch_size))
        for i, multiplier in enumerate(self.multipliers):
            for j in range(self.num_blocks):
                name = f"resolution_{i}_block_{j}"
                h = block(self.width * multiplier, name=name, **options)(h, features)
            if i + 1 < len(self.multipliers):
                h = average_pool(h)
        positions = h.shape[1] * h.shape[2]
        pooled = jnp.sum(nn.swish(h).astype(jnp.float32), axis=(1, 2)) / math.sqrt(positions)
        head = prepared(self, "head", lambda: nn.Dense(pooled.shape[-1], name="head")(features))
        constant = prepared(
            self,
            "constant",
            lambda: nn.Dense(1, kernel_init=nn.initializers.zeros, name="constant")(features)[:, 0],
        )
        return jnp.sum(pooled * head, axis=-1) + math.sqrt(math.prod(self.input_shape)) * constant
