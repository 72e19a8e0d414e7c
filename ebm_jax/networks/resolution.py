"""Changes of an image's resolution that the networks share."""

import jax


def average_pool(x: jax.Array) -> jax.Array:
    """2 x 2 mean with stride 2: [batch, H, W, C] -> [batch, H / 2, W / 2, C]."""
    batch, height, width, channels = x.shape
    return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean((2, 4))


def patches(x: jax.Array, patch_size: int) -> jax.Array:
    """Squares of pixels as channels: [batch, H, W, C] -> [batch, H / p, W / p, p p C].

    A convolution over them sees all that one over pixels would, at 1 / p^2 of the cost.
    """
    if patch_size == 1:
        return x
    batch, height, width, channels = x.shape
    p = patch_size
    x = x.reshape(batch, height // p, p, width // p, p * channels).swapaxes(2, 3)
    return x.reshape(batch, height // p, width // p, p * p * channels)


def check_can_halve(image_size: int, times: int, patch_size: int = 1) -> None:
    """Raises ValueError where an image in patches cannot be halved that often."""
    smallest = patch_size * 2**times
    if image_size % smallest:
        fits = smallest * max(1, round(image_size / smallest))
        of_patches = f" in patches of {patch_size}" if patch_size > 1 else ""
        raise ValueError(
            f"image_size: expected one that can be halved {times} times{of_patches}, such as "
            f"{fits}, or fewer multipliers, got {image_size}"
        )
