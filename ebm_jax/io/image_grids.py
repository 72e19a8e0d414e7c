"""Images put side by side, and as files: uint8 arrays by NumPy, lettering and bytes by Pillow.

Pillow is imported where it is used, so that importing this module costs nothing.
"""

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ebm_jax.io.files import write_atomically

_MIN_TILE = 48  # pixels; a digit of 8 x 8 is then legible
_MARGIN = 16  # pixels around labelled grids


def image_grid(
    images: np.ndarray,
    columns: int | None = None,
    padding: int = 2,
    *,
    min_tile: int = _MIN_TILE,
) -> np.ndarray:
    """Puts images side by side, row by row, on white.

    Small images are enlarged by a whole factor, each pixel becoming a square, until the shorter
    side has at least `min_tile` pixels.

    Args:
      images: uint8 [n, height, width, channels], channels 1 or 3.
      columns: images per row; about as many as rows if None.
      padding: pixels between images and around them.
      min_tile: least side of an image in the grid, in pixels; 1 keeps the size.

    Returns:
      uint8 [grid height, grid width, channels].

    Raises:
      ValueError: for another shape or type, or no images.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or len(images) == 0:
        raise ValueError(
            f"images have shape {images.shape}; give [n, height, width, 1 or 3], at least one"
        )
    if images.dtype != np.uint8:
        raise ValueError(f"images are {images.dtype}; give uint8, 0 to 255")
    number, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(number)) if columns is None else columns
    if columns < 1 or padding < 0:
        raise ValueError(f"columns is {columns} and padding {padding}; give at least 1 and 0")
    factor = max(1, math.ceil(min_tile / min(height, width)))
    images = images.repeat(factor, axis=1).repeat(factor, axis=2)
    cell_height, cell_width = height * factor + padding, width * factor + padding
    rows, columns = math.ceil(number / columns), min(columns, number)
    shape = (rows * cell_height + padding, columns * cell_width + padding, channels)
    grid = np.full(shape, 255, np.uint8)  # white
    for i, image in enumerate(images):
        top = (i // columns) * cell_height + padding
        left = (i % columns) * cell_width + padding
        grid[top : top + height * factor, left : left + width * factor] = image
    return grid


def side_by_side(
    generated: np.ndarray, real: np.ndarray, titles: tuple[str, str] = ("generated", "real")
) -> np.ndarray:
    """Two grids (from `image_grid`) beside each other on white, each under its title.

    Returns:
      uint8 [height, width, 3].
    """
    from PIL import Image, ImageDraw, ImageFont

    grids = [np.broadcast_to(grid, (*grid.shape[:2], 3)) for grid in (generated, real)]
    font = ImageFont.load_default(size=18)
    title_height = 30
    widths = [
        max(grid.shape[1], math.ceil(font.getlength(title)))
        for grid, title in zip(grids, titles, strict=True)
    ]
    height = max(grid.shape[0] for grid in grids) + title_height + 2 * _MARGIN
    picture = Image.new("RGB", (sum(widths) + 3 * _MARGIN, height), "white")
    draw = ImageDraw.Draw(picture)
    left = _MARGIN
    for grid, title, width in zip(grids, titles, widths, strict=True):
        draw.text((left, _MARGIN), title, fill=(0, 0, 0), font=font)
        picture.paste(Image.fromarray(grid), (left, _MARGIN + title_height))
        left += width + _MARGIN
    return np.asarray(picture)


def columns_picture(columns: Mapping[str, np.ndarray], *, min_tile: int = 80) -> np.ndarray:
    """Columns of images, each under its title; row i is the i-th of every column.

    Args:
      columns: by title, uint8 [n, height, width, 1 or 3] of one size.
    Returns:
      uint8 [height, width, 3].
    """
    from PIL import Image, ImageDraw, ImageFont

    grids = [image_grid(images, 1, min_tile=min_tile) for images in columns.values()]
    height, width = grids[0].shape[:2]
    font = ImageFont.load_default(size=12)
    titles = [_wrapped(title, lambda text: font.getlength(text) <= width) for title in columns]
    line = 15  # pixels
    top = line * max(len(lines) for lines in titles) + 6
    picture = Image.new("RGB", (width * len(grids), top + height), "white")
    draw = ImageDraw.Draw(picture)
    for i, (grid, lines) in enumerate(zip(grids, titles, strict=True)):
        for j, text in enumerate(reversed(lines)):
            draw.text((i * width + 3, top - line * (j + 1) - 3), text, fill=(0, 0, 0), font=font)
        colors = np.broadcast_to(grid, (*grid.shape[:2], 3))
        picture.paste(Image.fromarray(colors), (i * width, top))
    return np.asarray(picture)


def lines_tile(
    lines: Sequence[np.ndarray],
    *,
    extent: tuple[float, float, float, float],
    size: int,
    text: str = "",
) -> np.ndarray:
    """Lines in the plane in a square, the first ones darker, with a text in its corner.

    Args:
      lines: each [points, 2], y upwards.
      extent: (x from, x to, y from, y to); what is beyond is cut off.
      size: of the square, pixels.
    Returns:
      uint8 [size, size, 3].
    """
    from PIL import Image, ImageDraw, ImageFont

    fine = 3  # drawn so many times as large and shrunk, as Pillow's lines have jagged edges
    picture = Image.new("L", (fine * size, fine * size), "white")
    draw = ImageDraw.Draw(picture)
    left, right, bottom, top = extent
    for i, line in reversed(list(enumerate(lines))):
        points = np.asarray(line, np.float64)
        x = (points[:, 0] - left) / (right - left) * fine * size
        y = (top - points[:, 1]) / (top - bottom) * fine * size
        far = 10.0 * fine * size  # keeps what is far off, or not finite, from Pillow
        places = np.clip(np.nan_to_num(np.stack([x, y], axis=1)), -far, far)
        shade = round(160 * i / max(len(lines) - 1, 1))
        draw.line([tuple(place) for place in places], fill=shade, width=2 * fine)
    shrunk = picture.resize((size, size), Image.Resampling.LANCZOS).convert("RGB")
    if text:
        ImageDraw.Draw(shrunk).text((4, 2), text, fill=(0, 0, 0), font=ImageFont.load_default(11))
    return np.asarray(shrunk)


def _wrapped(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Words put on lines that fit; a word that does not has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def save_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes uint8 [height, width, 1 or 3] to a PNG, replacing the file in one step."""
    write_atomically(path, png(image))


def png(image: np.ndarray) -> bytes:
    """uint8 [height, width, 1 or 3] as the bytes of a PNG file."""
    from PIL import Image

    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] not in (1, 3):
        raise ValueError(
            f"image is {image.dtype} {image.shape}; give uint8 [height, width, 1 or 3]"
        )
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(content, "PNG")
    return content.getvalue()


def gif(frames: Sequence[np.ndarray], *, milliseconds: int) -> bytes:
    """uint8 [height, width, 3] each as the bytes of an endless film, so long each."""
    from PIL import Image

    content = io.BytesIO()
    images = [
        Image.fromarray(frame).convert("P", palette=Image.Palette.ADAPTIVE) for frame in frames
    ]
    images[0].save(
        content, "GIF", save_all=True, append_images=images[1:], duration=milliseconds, loop=0
    )
    return content.getvalue()
