"""Masks of hidden pixels, for inpainting."""

import pathlib

import numpy as np

NAMES = ("lower_half", "centre")


def hidden_pixels(mask: str, shape: tuple[int, ...]) -> np.ndarray:
    """The pixels that a mask hides.

    Args:
      mask: 'lower_half'; 'centre', the square of half the height and width in the middle; or the
        path of a .png (gray) or .npy, in which what is not zero is hidden.
      shape: (height, width, channels) of the images.
    Returns:
      bool [height, width, 1].
    Raises:
      ValueError: for another name, a file that cannot be read, is of another height and width, or
        hides nothing.
    """
    height, width, _ = shape
    hidden = np.zeros((height, width), bool)
    if mask == "lower_half":
        hidden[height // 2 :] = True
    elif mask == "centre":
        top, left = height // 4, width // 4
        hidden[top : top + height // 2, left : left + width // 2] = True
    elif mask.endswith((".png", ".npy")):
        hidden = _from_file(pathlib.Path(mask), (height, width))
    else:
        raise ValueError(
            f"expected mask {', '.join(NAMES)} or the path of a .png or .npy, got {mask!r}"
        )
    if not hidden.any():
        raise ValueError(f"mask: expected values other than 0, got none in {mask}")
    return hidden[..., None]


def _from_file(path: pathlib.Path, size: tuple[int, int]) -> np.ndarray:
    from PIL import Image

    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as picture:
                values = np.asarray(picture.convert("L"))
    except (OSError, ValueError) as error:
        raise ValueError(f"the mask {path} cannot be read: {error}") from error
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.shape != size:
        raise ValueError(
            f"the mask {path} has the shape {values.shape} and the images are {size[0]} x "
            f"{size[1]}: give one of shape {size}"
        )
    return values != 0
