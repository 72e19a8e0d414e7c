"""The energy networks of MDSM (Li, Chen & Sommer, arXiv 1910.07762).

Pre-activation residual blocks with ELU, no normalization, a head quadratic in its features.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from ebm_jax.networks.convolution import Conv
from ebm_jax.networks.resolution import average_pool, check_can_halve, patches
from ebm_jax.settings import setting

_kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # +-1 / sqrt(fan_in)


def _bias_init(fan_in: int) -> nn.initializers.Initializer:
    """Uniform on +-1 / sqrt(fan_in)."""
    bound = 1 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


class MdsmBlock(nn.Module):
    """shortcut(x) + pool(conv2(elu(conv1(elu(x))))), the shortcut 1 x 1 on the pooled input.

    conv1 has no bias. *quirk*: the shortcut is a convolution also where the channels stay.
    """

    features: int
    pool: bool
    formulation: str
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [batch, H, W, c_in] -> [batch, H, W, features], or half of H and W with `pool`."""
        channels = x.shape[-1]
        options = {
            "kernel_init": _kernel_init,
            "formulation": self.formulation,
            "dtype": self.dtype,
        }
        h = Conv(channels, use_bias=False, name="conv1", **options)(nn.elu(x))
        h = Conv(self.features, bias_init=_bias_init(9 * channels), name="conv2", **options)(
            nn.elu(h)
        )
        if self.pool:
            x, h = average_pool(x), average_pool(h)
        shortcut = Conv(
            self.features,
            kernel_size=1,
            bias_init=_bias_init(channels),
            name="conv_shortcut",
            **options,
        )
        return shortcut(x) + h


class MdsmResNet(nn.Module):
    """E(x) = (w1 h + b1)(w2 h + b2) + wq h^2 + bq of the features h of residual blocks.

    Fields:
      image_size: height and width in pixels; channels: of the images. Settings: see the fields.
      formulation, dtype: see `ebm_jax.networks.convolution`; energies are float32.
    Raises:
      ValueError: an image size that cannot be halved that often, or a condition.
    """

    image_size: int
    channels: int = 3
    width: int = setting(128, 'channels of the first convolution, "F"', at_least=1)
    multipliers: tuple[int, ...] = setting(
        (2, 4, 8), "of the width, per stage; each stage halves the image first", at_least=1
    )
    num_blocks: int = setting(3, "per stage: 3 is Res18, 2 is Res12", at_least=1)
    patch_size: int = setting(1, "side of the squares of pixels that are channels", at_least=1)
    formulation: str = "auto"
    dtype: DTypeLike = jnp.float32
    remat: bool = False

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one input."""
        return self.image_size, self.image_size, self.channels

    @property
    def last_size(self) -> int:
        """Height and width of the features under the head, which ties the weights to one size."""
        return self.image_size // self.patch_size // 2 ** len(self.multipliers)

    @nn.compact
    def __call__(self, x: jax.Array, condition: None = None) -> jax.Array:
        """Energies [batch], float32, of images x [batch, image_size, image_size, channels]."""
        if condition is not None:
            raise ValueError("the network is unconditional: leave its condition out, or None")
        check_can_halve(self.image_size, len(self.multipliers), self.patch_size)
        options = {"formulation": self.formulation, "dtype": self.dtype}
        x = Conv(
            self.width,
            kernel_init=_kernel_init,
            bias_init=_bias_init(9 * self.channels * self.patch_size**2),
            name="conv_in",
            **options,
        )(patches(x, self.patch_size))
        block = nn.remat(MdsmBlock) if self.remat else MdsmBlock
        for i, multiplier in enumerate(self.multipliers):
            for j in range(self.num_blocks):
                name = f"stage_{i}_block_{j}"
                x = block(self.width * multiplier, pool=j == 0, name=name, **options)(x)
        h = x.reshape(x.shape[0], -1).astype(jnp.float32)

        def form(name: str, features: jax.Array) -> jax.Array:
            init = _bias_init(features.shape[-1])
            dense = nn.Dense(1, kernel_init=_kernel_init, bias_init=init, name=name)
            return dense(features)[:, 0]

        return form("linear_1", h) * form("linear_2", h) + form("quadratic", h**2)


def res18(*, width: int = 128, **fields) -> MdsmResNet:
    """Three blocks per stage; F = 128 on CIFAR-10 (62.3 M parameters)."""
    return MdsmResNet(width=width, **dict[str, Any](image_size=32) | fields)


def res12(*, width: int = 64, **fields) -> MdsmResNet:
    """Two blocks per stage; F = 64 on MNIST and Fashion-MNIST, padded to 32 x 32."""
    defaults: dict[str, Any] = {"image_size": 32, "channels": 1, "num_blocks": 2}
    return MdsmResNet(width=width, **defaults | fields)
