"""The residual energy network of diffusion recovery likelihood (Gao et al. 2020, appendix B)."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from ebm_jax.networks.activations import leaky_relu
from ebm_jax.networks.convolution import Conv
from ebm_jax.networks.prepared import prepared
from ebm_jax.networks.resolution import average_pool, check_can_halve, patches
from ebm_jax.settings import setting


def _uniform_init(scale: float = 1.0) -> nn.initializers.Initializer:
    return nn.initializers.variance_scaling(scale, "fan_avg", "uniform")


def level_embedding(level: jax.Array | None, size: int) -> jax.Array:
    """Sinusoids of a level: sines then cosines, frequencies exp(-log(10000) k / (size / 2 - 1)).

    Args:
      level: [] or [batch]. size: even, at least 4.
    Returns:
      [1 or batch, size].
    Raises:
      ValueError: for no level, which a method without noise levels gives.
    """
    if level is None:
        raise ValueError(
            "condition: expected a noise level, got none: a method without levels wants a network "
            "without them, such as mdsm_resnet"
        )
    half = size // 2
    frequency = jnp.exp(-math.log(10_000) / (half - 1) * jnp.arange(half, dtype=jnp.float32))
    angle = jnp.atleast_1d(level).astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)


class ResidualBlock(nn.Module):
    """Pre-activation block: conv(lrelu(conv(lrelu(x)) + projection)) * gain + shortcut(x).

    The projection [batch, features] is that of the level. The shortcut is a 3 x 3 convolution where
    the channel count changes, else the identity. The second convolution starts at (almost) zero.
    """

    features: int
    formulation: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array, level_features: jax.Array) -> jax.Array:
        """x [batch, H, W, c_in], level_features [batch, size] -> [batch, H, W, features]."""
        options = {"formulation": self.formulation, "dtype": self.dtype}
        projection = prepared(
            self,
            "projection",
            lambda: nn.Dense(self.features, kernel_init=_uniform_init(), name="temb_proj")(
                leaky_relu(level_features)
            ).astype(self.dtype)[:, None, None, :],
        )
        h = Conv(self.features, kernel_init=_uniform_init(), name="conv1", **options)(leaky_relu(x))
        h = leaky_relu(h + projection)
        h = Conv(
            self.features, use_gain=True, kernel_init=_uniform_init(1e-10), name="conv2", **options
        )(h)
        if x.shape[-1] != self.features:
            x = Conv(self.features, kernel_init=_uniform_init(), name="conv_shortcut", **options)(x)
        return x + h


class RecoveryResNet(nn.Module):
    """E(y, t) = -F(y, t) of the published code: residual blocks, ReLU, sum pool, level-wise head.

    Per resolution `num_blocks` residual blocks of width * multiplier channels, then a 2 x 2 mean
    pool (not after the last). Head: sum over space of the rectified features, dotted with a vector
    that depends on the level. No normalization layer; spectral norm is applied outside, see
    `ebm_jax.networks.spectral_norm`, and the level scale 1 / s_t^2 too, see `networks.bind`.

    Fields:
      image_size: height and width in pixels; channels: of the images. Settings: see the fields.
      formulation: of the convolutions, see `ebm_jax.networks.convolution`.
      dtype: of activations and kernels inside the network; parameters and energies are float32.
    Raises:
      ValueError: where image_size, in patches, cannot be halved len(multipliers) - 1 times, or for
        an odd width.
    """

    image_size: int
    channels: int = 3
    width: int = setting(128, 'channels of the first resolution, "ch"; even', at_least=4)
    multipliers: tuple[int, ...] = setting((1, 2, 2, 2), "of the width, per resolution", at_least=1)
    num_blocks: int = setting(8, 'residual blocks per resolution, "N"', at_least=1)
    patch_size: int = setting(1, "side of the squares of pixels that are channels", at_least=1)
    formulation: str = "auto"
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one input."""
        return self.image_size, self.image_size, self.channels

    @staticmethod
    def spectral_norm_mode(path: tuple[str, ...]) -> str | None:
        """Every kernel is normalized but the head's; a block's second one is capped only."""
        if path[-1] != "kernel" or path[-2] == "temb_dense_2":
            return None
        return "cap" if path[-2] == "conv2" else "unit"

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None) -> jax.Array:
        """Energies of images at noise levels.

        Args:
          x: y_t [batch, image_size, image_size, channels]. condition: level t, int [] or [batch].
        Returns:
          E [batch], float32.
        """
        if self.width < 4 or self.width % 2:
            raise ValueError(f"width: expected an even number >= 4, got {self.width}")
        check_can_halve(self.image_size, len(self.multipliers) - 1, self.patch_size)

        def level_features() -> jax.Array:  # shared by all layers, so computed once
            embedding = level_embedding(condition, self.width)
            hidden = leaky_relu(dense[0](embedding))
            return dense[1](hidden)

        dense = [
            nn.Dense(4 * self.width, kernel_init=_uniform_init(), name=f"temb_dense_{i}")
            for i in range(2)
        ]
        features = prepared(self, "level_features", level_features)
        x = Conv(
            self.width,
            kernel_init=_uniform_init(),
            formulation=self.formulation,
            dtype=self.dtype,
            name="conv_in",
        )(patches(x, self.patch_size))
        block = nn.remat(ResidualBlock) if self.remat else ResidualBlock
        for i, multiplier in enumerate(self.multipliers):
            for j in range(self.num_blocks):
                x = block(
                    self.width * multiplier,
                    formulation=self.formulation,
                    dtype=self.dtype,
                    name=f"resolution_{i}_block_{j}",
                )(x, features)
            if i + 1 < len(self.multipliers):
                x = average_pool(x)
        pooled = jnp.sum(nn.relu(x).astype(jnp.float32), axis=(1, 2))
        head = prepared(
            self,
            "head",
            lambda: nn.Dense(pooled.shape[-1], kernel_init=_uniform_init(), name="temb_dense_2")(
                leaky_relu(features)
            ),
        )
        return -jnp.sum(pooled * head, axis=-1)
