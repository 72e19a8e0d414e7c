"""The energy networks of IGEBM (Du & Mordatch 2019, arXiv 1903.08689), as published in code.

What sets them apart: a convolution's bias is added to its *input*, before the zero padding, so that
padded border pixels are 0 and not the bias; no convolution has a bias on its output; a residual
block activates after the sum and the pooling; its shortcut, where the channel count changes, is a
3 x 3 convolution. A label chooses the input biases and the gain of a block's second convolution.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike

from ebm_jax.networks.activations import leaky_relu
from ebm_jax.networks.convolution import Conv
from ebm_jax.networks.labels import label_weights
from ebm_jax.networks.prepared import prepared
from ebm_jax.networks.resolution import average_pool, check_can_halve, patches
from ebm_jax.settings import setting

ACTIVATIONS = {"leaky_relu": leaky_relu, "relu": nn.relu, "swish": nn.swish}
DROPOUT_RATE = 0.5  # of the published training program; its masks are an input, see IgebmResNet

_normal = nn.initializers.normal(1.0)  # its scale is divided out by the spectral norm


def _activation(name: str):
    if name not in ACTIVATIONS:
        raise ValueError(f"activation: expected one of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def class_vector(
    module: nn.Module,
    name: str,
    features: int,
    weights: jax.Array | None,
    init: nn.initializers.Initializer = nn.initializers.zeros,
) -> jax.Array:
    """A learned vector per class, mixed by `weights` [batch, classes]; a single one if it is None.

    Returns:
      [1 or batch, 1, 1, features], computed once per energy.
    """

    def compute() -> jax.Array:
        if weights is None:
            return module.param(name, init, (features,))[None, None, None, :]
        table = module.param(name, init, (weights.shape[-1], features))
        mixed = jnp.dot(weights, table, precision=jax.lax.Precision.HIGHEST)
        return mixed[:, None, None, :]

    return prepared(module, name, compute)


def class_gain(module: nn.Module, features: int, weights: jax.Array | None) -> jax.Array:
    """Gain per channel, [1 or batch, 1, 1, features]: y G + o for a label, a plain g without."""
    gain = class_vector(module, "gain", features, weights, nn.initializers.ones)
    if weights is None:
        return gain
    return gain + module.param("gain_offset", nn.initializers.zeros, (features,))


class IgebmBlock(nn.Module):
    """act(pool(gain * conv2(act(conv1(x + b1)) + b2) + shortcut(x))), all convolutions 3 x 3.

    The second convolution starts at 1e-10, so that a block starts as its shortcut.
    """

    features: int
    pool: bool
    activation: str
    formulation: str
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self, x: jax.Array, weights: jax.Array | None, keep_mask: jax.Array | None
    ) -> jax.Array:
        """x [batch, H, W, c_in] -> [batch, H, W, features], or half of H and W with `pool`."""
        act = _activation(self.activation)
        options = {"use_bias": False, "formulation": self.formulation, "dtype": self.dtype}
        in_bias_1 = class_vector(self, "in_bias_1", x.shape[-1], weights).astype(self.dtype)
        in_bias_2 = class_vector(self, "in_bias_2", self.features, weights).astype(self.dtype)
        gain = class_gain(self, self.features, weights).astype(self.dtype)
        h = Conv(self.features, kernel_init=_normal, name="conv1", **options)(x + in_bias_1)
        if keep_mask is not None:
            h = h * keep_mask.astype(self.dtype) / (1 - DROPOUT_RATE)
        second_init = nn.initializers.normal(1e-10)
        h = Conv(self.features, kernel_init=second_init, name="conv2", **options)(
            act(h) + in_bias_2
        )
        if x.shape[-1] != self.features:
            x = Conv(self.features, kernel_init=_normal, name="conv_shortcut", **options)(x)
        h = gain * h + x
        return act(average_pool(h) if self.pool else h)


class IgebmResNet(nn.Module):
    """E(x), or E(x, y) given a label: residual blocks, a final activation, sum pool, one dense.

    A stage is some blocks of width * multiplier channels, the first of which halves the image.
    `resnet32_large` and the other functions below give the papers' sizes.

    Fields:
      image_size: height and width in pixels; channels: of the images.
      final_activation: applied to what the last block has
        activated already; so the published conditional large network has slope .04 there.
      formulation, dtype: see `ebm_jax.networks.convolution`; energies are float32.
      num_outputs: 1: energies [batch]; more: [batch, num_outputs], logits of a plain classifier of
        this size, which evaluation compares the energies with.
    Raises:
      ValueError: an image size that cannot be halved that often, multipliers and num_blocks of
        different lengths, an unknown activation, or as `label_weights`.
    """

    image_size: int
    channels: int = 3
    width: int = setting(128, '"F", which the multipliers are of', at_least=1)
    first_width: int = setting(0, "channels of the first convolution; 0: the width", at_least=0)
    multipliers: tuple[int, ...] = setting(
        (1, 2, 4), "of the width, per stage; each stage halves the image first", at_least=1
    )
    num_blocks: tuple[int, ...] = setting((3, 3, 3), "residual blocks per stage", at_least=1)
    num_classes: int | None = setting(None, "of the label; 0: unconditional", at_least=0)
    label_size: int = setting(
        0, "values in a label that is a vector; 0: classes, or none", at_least=0
    )
    activation: str = setting("leaky_relu", "of slope .2, or others", one_of=tuple(ACTIVATIONS))
    first_block_activation: str = setting(
        "", "of the first block; '': as the others", one_of=("", *ACTIVATIONS)
    )
    final_activation: str = setting(
        "relu", "before the sum over the image", one_of=tuple(ACTIVATIONS)
    )
    patch_size: int = setting(1, "side of the squares of pixels that are channels", at_least=1)
    formulation: str = "auto"
    dtype: DTypeLike = jnp.float32
    remat: bool = False
    num_outputs: int = 1

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one input."""
        return self.image_size, self.image_size, self.channels

    @property
    def mask_shapes(self) -> list[tuple[int, int, int]]:
        """(height, width, channels) of every block's dropout mask, in the order of the blocks."""
        size = self.image_size // self.patch_size
        return [
            (side, side, self.width * multiplier)
            for stage, (multiplier, count) in enumerate(
                zip(self.multipliers, self.num_blocks, strict=True)
            )
            for block in range(count)
            for side in [size >> (stage + (block > 0))]
        ]

    @staticmethod
    def spectral_norm_mode(path: tuple[str, ...]) -> str | None:
        """Every convolution is normalized, a block's second one only lowered; the head is not."""
        if path[-1] != "kernel" or path[-2] == "head":
            return None
        return "cap" if path[-2] == "conv2" else "unit"

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        condition: jax.Array | None = None,
        *,
        keep_masks: Sequence[jax.Array] | None = None,
    ) -> jax.Array:
        """Energies of images.

        Args:
          x: [batch, image_size, image_size, channels].
          condition: classes, int [] or [batch], or weights [batch, num_classes]; values
            [batch, label_size]; None: no label.
          keep_masks: dropout of the published training program: per block a 0/1 array
            [batch, *mask_shapes[i]] on the first convolution's output; None: no dropout.
        Returns:
          E [batch], float32.
        """
        if len(self.multipliers) != len(self.num_blocks):
            raise ValueError(
                f"{len(self.multipliers)} multipliers and {len(self.num_blocks)} num_blocks: "
                "write one of each per stage"
            )
        check_can_halve(self.image_size, len(self.multipliers), self.patch_size)
        weights = label_weights(condition, self.num_classes, self.label_size)
        options = {"formulation": self.formulation, "dtype": self.dtype}
        x = Conv(
            self.first_width or self.width,
            use_bias=False,
            kernel_init=_normal,
            name="conv_in",
            **options,
        )(patches(x, self.patch_size))
        x = _activation(self.activation)(x)
        masks = iter(keep_masks or [None] * sum(self.num_blocks))
        block = nn.remat(IgebmBlock) if self.remat else IgebmBlock
        for i, (multiplier, count) in enumerate(
            zip(self.multipliers, self.num_blocks, strict=True)
        ):
            for j in range(count):
                first = i == j == 0 and self.first_block_activation
                x = block(
                    self.width * multiplier,
                    pool=j == 0,
                    activation=first or self.activation,
                    name=f"stage_{i}_block_{j}",
                    **options,
                )(x, weights, next(masks))
        x = _activation(self.final_activation)(x)
        pooled = jnp.sum(x.astype(jnp.float32), axis=(1, 2))
        return _head(pooled, self.num_outputs)


class IgebmConvNet(nn.Module):
    """E(x) or E(x, y) by strided convolutions: the networks for MNIST and dSprites.

    A 3 x 3 convolution, one 4 x 4 convolution of stride 2 per multiplier, a dense layer of 2 F, the
    head. Every one but the head is spectrally normalized. With a label, y B is added to the input
    of every strided convolution and the output of number `gain_layer` is multiplied by y G + o.

    Fields:
      image_size, channels: of the images. Settings: see the fields.
      formulation, dtype: see `ebm_jax.networks.convolution`; energies are float32.
      num_outputs: 1: energies [batch]; more: [batch, num_outputs], logits of a plain classifier of
        this size, which evaluation compares the energies with.
    Raises:
      ValueError: an unknown activation, or as `label_weights`.
    """

    image_size: int
    channels: int = 1
    width: int = setting(64, 'channels of the strided convolutions, "F"', at_least=1)
    first_width: int = setting(64, "channels of the first convolution", at_least=1)
    multipliers: tuple[int, ...] = setting(
        (1, 2, 4), "of the width, per convolution that halves the image", at_least=1
    )
    num_classes: int | None = setting(None, "of the label; 0: unconditional", at_least=0)
    label_size: int = setting(
        0, "values in a label that is a vector; 0: classes, or none", at_least=0
    )
    gain_layer: int = setting(2, "strided convolution with a gain per class, from 0", at_least=0)
    activation: str = setting("leaky_relu", "of slope .2, or others", one_of=tuple(ACTIVATIONS))
    formulation: str = "auto"
    dtype: DTypeLike = jnp.float32
    num_outputs: int = 1

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one input."""
        return self.image_size, self.image_size, self.channels

    @property
    def last_size(self) -> int:
        """Height and width of the last convolution's output."""
        return math.ceil(self.image_size / 2 ** len(self.multipliers))

    @staticmethod
    def spectral_norm_mode(path: tuple[str, ...]) -> str | None:
        """Every kernel but the head's."""
        return "unit" if path[-1] == "kernel" and path[-2] != "head" else None

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """Energies of images.

        Args:
          x: [batch, image_size, image_size, channels].
          condition: classes, int [] or [batch], or weights [batch, num_classes]; values
            [batch, label_size]; None: no label.
        Returns:
          E [batch], float32.
        """
        act = _activation(self.activation)
        weights = label_weights(condition, self.num_classes, self.label_size)
        options = {
            "use_bias": False,
            "kernel_init": _normal,
            "formulation": self.formulation,
            "dtype": self.dtype,
        }
        x = act(Conv(self.first_width, name="conv_in", **options)(x))
        for i, multiplier in enumerate(self.multipliers):
            if weights is not None:
                bias = class_vector(self, f"in_bias_{i}", x.shape[-1], weights)
                x = x + bias.astype(self.dtype)
            features = self.width * multiplier
            x = Conv(features, kernel_size=4, stride=2, name=f"conv_{i}", **options)(x)
            if weights is not None and i == self.gain_layer:
                x = x * class_gain(self, features, weights).astype(self.dtype)
            x = act(x)
        flat = x.reshape(x.shape[0], -1)
        hidden = act(nn.Dense(2 * self.width, kernel_init=_normal, name="dense")(flat))
        return _head(hidden, self.num_outputs)


def _head(features: jax.Array, num_outputs: int) -> jax.Array:
    """[batch, features] -> [batch], or [batch, n]; the one kernel without spectral norm."""
    init = nn.initializers.glorot_uniform()
    outputs = nn.Dense(num_outputs, kernel_init=init, name="head")(features)
    return outputs[:, 0] if num_outputs == 1 else outputs


def resnet32_large(num_classes: int | None = None, *, width: int = 128, **fields) -> IgebmResNet:
    """Nine blocks of F, 2F and 4F channels; F = 128 on CIFAR-10 unconditional (18.6 M parameters).

    *quirk*: the published final activation is ReLU without a label, leaky ReLU with one.
    """
    final_activation = "relu" if num_classes is None else "leaky_relu"
    defaults: dict[str, Any] = {"image_size": 32, "final_activation": final_activation}
    return IgebmResNet(width=width, num_classes=num_classes, **defaults | fields)


def resnet32(num_classes: int | None = None, *, width: int = 128, **fields) -> IgebmResNet:
    """Six blocks of F, F, then 2F channels; F = 128 on CIFAR-10 conditional (5.3 M parameters)."""
    defaults: dict[str, Any] = {"image_size": 32, "multipliers": (1, 2, 2), "num_blocks": (2, 2, 2)}
    return IgebmResNet(width=width, num_classes=num_classes, **defaults | fields)


def imagenet32(num_classes: int = 1000, *, width: int = 256, **fields) -> IgebmResNet:
    """Nine blocks of F, 2F and 4F channels after a first convolution of 128 (89.6 M parameters).

    *quirk*: the published final activation is ReLU, unlike that of `resnet32_large` with a label.
    """
    defaults: dict[str, Any] = {"image_size": 32, "first_width": 128}
    return IgebmResNet(width=width, num_classes=num_classes, **defaults | fields)


def imagenet128(num_classes: int = 1000, *, width: int = 64, **fields) -> IgebmResNet:
    """Six blocks of 64 to 512 channels, five of which halve the image, swish (21.2 M parameters).

    *quirk*: the first block has leaky ReLU, as the published one is not told of the activation.
    """
    defaults: dict[str, Any] = {
        "image_size": 128,
        "multipliers": (1, 2, 4, 8, 8),
        "num_blocks": (1, 1, 1, 1, 2),
        "activation": "swish",
        "first_block_activation": "leaky_relu",
        "final_activation": "swish",
    }
    return IgebmResNet(width=width, num_classes=num_classes, **defaults | fields)


def mnist_net(*, width: int = 64, **fields) -> IgebmConvNet:
    """Three strided convolutions of F, 2F and 4F channels, unconditional, leaky ReLU."""
    return IgebmConvNet(width=width, **dict[str, Any](image_size=28) | fields)


def dsprites_net(num_classes: int = 3, *, width: int = 64, **fields) -> IgebmConvNet:
    """Four strided convolutions of F, 2F, 2F and 2F channels, one network per factor, swish.

    num_classes: 3 shapes, or the number of values that a continuous factor is written with.
    """
    defaults: dict[str, Any] = {
        "image_size": 64,
        "first_width": 32,
        "multipliers": (1, 2, 2, 2),
        "activation": "swish",
    }
    return IgebmConvNet(width=width, num_classes=num_classes, **defaults | fields)
