"""One convolution, three ways to compute it, the same parameters and the same values.

'native':  XLA's own convolution, forwards and backwards. Best on accelerators.
'flipped': XLA's forward convolution, and for the gradient in x a forward one, its kernel flipped
           beforehand. On CPU XLA's backward-input convolution runs at a fifth of its speed
           inside a loop; a forward one does not.
'dense':   one matrix product with the convolution written out as a [H W C, H' W' C'] matrix. On CPU
           the fastest for images of a few pixels.

`choose_formulation` picks by platform and size ('auto'); docs/performance.md has the measurements.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import DTypeLike

from ebm_jax.networks.prepared import prepared

FORMULATIONS = ("auto", "native", "flipped", "dense")
_DIMENSIONS = ("NHWC", "HWIO", "NHWC")
_MAX_DENSE_BYTES = 2**30  # of one layer's matrix: 32x32 images of 128 channels would have 69 GB
_MAX_DENSE_PIXELS = 4  # on CPU a 4x4 image takes more than twice as long as a matrix product


class PreparedKernel(NamedTuple):
    """A kernel in the form that one formulation wants; the fields it does not use are None."""

    kernel: jax.Array | None  # [kh, kw, c_in, c_out]
    reverse: jax.Array | None  # flipped in space, input and output channels exchanged
    matrix: jax.Array | None  # [H W c_in, H' W' c_out]


def choose_formulation(
    formulation: str, kernel_size: int, image_shape: tuple[int, int], stride: int
) -> str:
    """'auto' resolved for this platform and size; 'native' for a 'flipped' that does not apply.

    A strided convolution, or one with an even kernel, cannot be flipped. Other names stay.

    Raises:
      ValueError: for a name that is not in FORMULATIONS.
    """
    if formulation not in FORMULATIONS:
        raise ValueError(
            f"formulation: expected one of {', '.join(FORMULATIONS)}, got {formulation!r}"
        )
    can_flip = stride == 1 and kernel_size % 2 == 1
    if formulation == "flipped" and not can_flip:
        formulation = "native"  # one such layer in a network that asks for 'flipped' elsewhere
    if formulation != "auto":
        return formulation
    if jax.default_backend() != "cpu":
        return "native"
    if image_shape[0] * image_shape[1] <= _MAX_DENSE_PIXELS:
        return "dense"
    return "flipped" if can_flip else "native"


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Zeros before and after so that size becomes ceil(size / stride), the smaller half before."""
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


def dense_matrix(kernel: jax.Array, image_shape: tuple[int, int], stride: int = 1) -> jax.Array:
    """The 'SAME' convolution of images of one size as a matrix [H W c_in, H' W' c_out].

    Raises:
      ValueError: for a matrix too large, with its size.
    """
    kernel_size = kernel.shape[:2]
    num_inputs = math.prod(image_shape) * kernel.shape[2]
    num_outputs = math.prod(-(-size // stride) for size in image_shape) * kernel.shape[3]
    if (size := num_inputs * num_outputs * kernel.dtype.itemsize) > _MAX_DENSE_BYTES:
        raise ValueError(
            f"formulation: expected dense matrices of at most {_MAX_DENSE_BYTES:,} bytes, got "
            f"{size:,} ({num_inputs:,} x {num_outputs:,}) for {image_shape[0]} x {image_shape[1]} "
            "images: use auto, native or flipped"
        )

    def taps(size: int, k: int) -> np.ndarray:
        """[size, size'] which tap of the kernel joins an input to an output position; k is none."""
        before, _ = same_padding(size, k, stride)
        outputs = np.arange(-(-size // stride)) * stride - before
        tap = np.arange(size)[:, None] - outputs[None, :]
        return np.where((tap >= 0) & (tap < k), tap, k)

    rows, columns = (taps(n, k) for n, k in zip(image_shape, kernel_size, strict=True))
    padded = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))
    # [H, W, H', W', c_in, c_out]: the tap that joins each input to each output position
    blocks = padded[rows[:, None, :, None], columns[None, :, None, :]]
    height, width, out_height, out_width, c_in, c_out = blocks.shape
    blocks = blocks.transpose(0, 1, 4, 2, 3, 5)
    return blocks.reshape(height * width * c_in, out_height * out_width * c_out)


def prepare_kernel(
    kernel: jax.Array, image_shape: tuple[int, int], *, formulation: str = "auto", stride: int = 1
) -> PreparedKernel:
    """Everything about a kernel [k, k, c_in, c_out] that does not depend on the images."""
    kernel_size, *_ = kernel.shape
    how = choose_formulation(formulation, kernel_size, image_shape, stride)
    if how == "dense":
        return PreparedKernel(None, None, dense_matrix(kernel, image_shape, stride))
    if how == "flipped" and kernel_size > 1:
        return PreparedKernel(kernel, kernel[::-1, ::-1].swapaxes(2, 3), None)
    return PreparedKernel(kernel, None, None)


def _native(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
    if kernel.shape[:2] == (1, 1) and stride == 1:
        return x @ kernel[0, 0]
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=_DIMENSIONS
    )


@jax.custom_vjp
def _flipped(x: jax.Array, kernel: jax.Array, reverse: jax.Array) -> jax.Array:
    return _native(x, kernel)


def _flipped_forward(x, kernel, reverse):
    # Not `_native`: gradients of gradients come through here, and would be XLA's slow ones.
    return _flipped(x, kernel, reverse), (x, kernel, reverse)


def _flipped_backward(residuals, cotangent):
    x, kernel, reverse = residuals
    _, kernel_vjp = jax.vjp(lambda k: _native(x, k), kernel)
    # The value does not depend on `reverse`; its own gradient (second derivatives) comes through
    # the gradient in x, where it is the kernel.
    return _flipped(cotangent, reverse, kernel), *kernel_vjp(cotangent), jnp.zeros_like(reverse)


_flipped.defvjp(_flipped_forward, _flipped_backward)


def convolve(x: jax.Array, weights: PreparedKernel, *, stride: int = 1) -> jax.Array:
    """'SAME' convolution of x [batch, H, W, c_in] -> [batch, ceil(H / stride), .., c_out]."""
    if weights.matrix is not None:
        batch, height, width, _ = x.shape
        out = -(-height // stride), -(-width // stride)
        return (x.reshape(batch, -1) @ weights.matrix).reshape(batch, *out, -1)
    assert weights.kernel is not None  # as there is no matrix
    if weights.reverse is not None:
        return _flipped(x, weights.kernel, weights.reverse)
    return _native(x, weights.kernel, stride)


class Conv(nn.Module):
    """'SAME' convolution with an optional bias and per-channel output gain: gain (W * x + b)?

    Fields: features c_out; kernel_size; stride; use_bias; use_gain: a learned factor per output
    channel, initially 1, applied after the bias; kernel_init, bias_init; formulation: see the
    module; dtype: of the computation (the parameters are float32).
    """

    features: int
    kernel_size: int = 3
    stride: int = 1
    use_bias: bool = True
    use_gain: bool = False
    kernel_init: nn.initializers.Initializer = nn.initializers.lecun_normal()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    formulation: str = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x [batch, H, W, c_in] -> [batch, ceil(H / stride), ceil(W / stride), features]."""

        def prepare() -> PreparedKernel:
            shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
            kernel = self.param("kernel", self.kernel_init, shape)
            return prepare_kernel(
                kernel.astype(self.dtype),
                (x.shape[1], x.shape[2]),
                formulation=self.formulation,
                stride=self.stride,
            )

        x = x.astype(self.dtype)
        x = convolve(x, prepared(self, "kernel", prepare), stride=self.stride)
        if self.use_bias:
            x = x + self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        if self.use_gain:
            x = x * self.param("gain", nn.initializers.ones, (self.features,)).astype(self.dtype)
        return x
