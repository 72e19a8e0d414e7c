"""Preprocessing of examples on the device: scaling, dequantization, flips, padding.

All functions are pure and work under jit, vmap and pmap. Random ones take one key per example,
from `example_keys`, so that an example's draw depends on its index in the global batch and not on
the number of devices that share the batch.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

ArrayT = TypeVar("ArrayT", jax.Array, np.ndarray)  # of the device, or of the host


def example_keys(rng_key: jax.Array, example_index: jax.Array | np.ndarray) -> jax.Array:
    """One key per example: `fold_in(rng_key, example_index[i])`.

    Args:
        rng_key: one key.
        example_index: int `[batch]`, index of each example in the global batch.

    Returns:
        Keys `[batch]` (`[batch, 2]` for raw uint32 keys).
    """
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(rng_key, example_index)


def intensity_scale(low: float, high: float, *, dequantized: bool = False) -> tuple[float, float]:
    """(scale, offset) with `scale_images(k) = scale k + offset`, for use in blocks on the host."""
    if dequantized:
        return (high - low) / 256, low + (high - low) / 512
    return (high - low) / 255, low


def scale_images(images: ArrayT, low: float, high: float, *, dequantized: bool = False) -> ArrayT:
    """Map uint8 intensities 0..255 to float32 model units linearly; shape and kind are kept.

    Without dequantization 0 becomes `low` and 255 becomes `high`: `[-1, 1]` gives `x / 127.5 - 1`,
    `[0, 1]` gives `x / 255`.

    Args:
        dequantized: for models of dequantized data, to whom intensity k is the cell
            `low + (high - low) [k, k + 1) / 256`: it becomes the middle of its cell, which is the
            mean of `dequantize`.
    """
    if dequantized:
        return low + (high - low) * ((images.astype(jnp.float32) + 0.5) / 256.0)
    return images.astype(jnp.float32) / (255.0 / (high - low)) + low


def unscale_images(
    images: jax.Array, low: float, high: float, *, dequantized: bool = False
) -> jax.Array:
    """Map model units to uint8 intensities, the inverse of `scale_images`, clipped to 0..255.

    Args:
        dequantized: for models of dequantized data: the cell that a value lies in, `floor(256 u)`
            with `u = (x - low) / (high - low)`, the inverse of `dequantize` for every draw. Else
            the nearest intensity, `round(255 u)`.
    """
    unit = (jnp.clip(images, low, high) - low) / (high - low)
    if dequantized:
        return jnp.minimum(jnp.floor(256.0 * unit), 255.0).astype(jnp.uint8)
    return jnp.round(255.0 * unit).astype(jnp.uint8)


def scale_points(points, value_range: tuple[float, float], low: float, high: float):
    """Map points of the plane [..., 2] linearly, `value_range` to `[low, high]` on both axes."""
    stored_low, stored_high = value_range
    return low + (points - stored_low) * ((high - low) / (stored_high - stored_low))


def unscale_points(points, value_range: tuple[float, float], low: float, high: float):
    """Inverse of `scale_points`; nothing is clipped."""
    return scale_points(points, (low, high), *value_range)


def scale_stored(
    x: np.ndarray,
    value_range: tuple[float, float],
    low: float,
    high: float,
    *,
    dequantized: bool = False,
) -> np.ndarray:
    """Stored examples, uint8 or points, in float64 model units on the host, not mirrored.

    Args:
        value_range: of the data set's points. dequantized: as in `scale_images`.
    """
    if x.dtype == np.uint8:
        scale, offset = intensity_scale(low, high, dequantized=dequantized)
        return scale * x + offset
    return scale_points(x.astype(np.float64), value_range, low, high)


def dequantize(
    keys: jax.Array, images: jax.Array | np.ndarray, low: float, high: float
) -> jax.Array:
    """Uniform dequantization: `low + (high - low) (x + u) / 256`, u uniform on [0, 1).

    A density of these values bounds the probability of the intensities themselves: with d values
    per image, bits per dimension are at most `NLL / (d ln 2) + log2(256 / (high - low))`: 8 more on
    [0, 1], 7 more on [-1, 1] (Theis, van den Oord and Bethge, arXiv 1511.01844, section 3.1).

    Args:
        keys: one key per example, `[batch]`.
        images: uint8 `[batch, height, width, channels]`.
        low: value of the lower edge of intensity 0's cell.
        high: value of the upper edge of intensity 255's cell.

    Returns:
        float32 of the shape of `images`, between `low` and `high`.
    """
    noise = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:]))(keys)
    return low + (high - low) * ((noise + images.astype(jnp.float32)) / 256.0)


def random_flip(keys: jax.Array, images: jax.Array | np.ndarray) -> jax.Array:
    """Mirror each image left to right with probability 1/2.

    Args:
        keys: one key per example, `[batch]`.
        images: `[batch, height, width, channels]`, any dtype.
    """
    flip = jax.vmap(jax.random.bernoulli)(keys)
    return jnp.where(flip[:, None, None, None], images[:, :, ::-1, :], images)


def pad_images(images, size: int, value: float = 0):
    """Pad images to `size` x `size` with `value`, the image in the center.

    Where the margin is odd, the extra row or column goes below or to the right.

    Args:
        images: NumPy or jax array `[..., height, width, channels]`; the result is of the same kind.
        size: height and width wanted, in pixels.
        value: constant outside the image.

    Raises:
        ValueError: if an image is larger than `size`.
    """
    height, width = images.shape[-3:-1]
    if size < max(height, width):
        raise ValueError(f"images of {height}x{width} cannot be padded to {size}x{size}")
    widths = [(0, 0)] * (images.ndim - 3)
    widths += [((size - n) // 2, (size - n + 1) // 2) for n in (height, width)] + [(0, 0)]
    array_library = np if isinstance(images, np.ndarray) else jnp
    return array_library.pad(images, widths, constant_values=value)
