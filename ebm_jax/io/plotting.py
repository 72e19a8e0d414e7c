"""Pictures of samples and densities, as PNG files.

Grids are plain uint8 arrays, put together with NumPy; lettering and files by Pillow; curves and
densities by matplotlib without a display and without its global state. Both are imported where they
are used, so that importing this module costs nothing.
"""

import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.io.files import write_atomically

_MIN_TILE = 48  # pixels; a digit of 8 x 8 is then legible
_BACKGROUND = 255
_MARGIN = 16  # pixels around labelled grids
_MOST_INSIDE = 5  # names of curves in a panel
_MOST_TICKS = 6  # of a logarithmic axis that are written out


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
    grid = np.full(shape, _BACKGROUND, np.uint8)
    for i, image in enumerate(images):
        top = (i // columns) * cell_height + padding
        left = (i % columns) * cell_width + padding
        grid[top : top + height * factor, left : left + width * factor] = image
    return grid


def save_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes uint8 [height, width, 1 or 3] to a PNG, replacing the file in one step."""
    write_atomically(path, png(image))


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
    picture = Image.new("RGB", (sum(widths) + 3 * _MARGIN, height), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(picture)
    left = _MARGIN
    for grid, title, width in zip(grids, titles, widths, strict=True):
        draw.text((left, _MARGIN), title, fill=(0, 0, 0), font=font)
        picture.paste(Image.fromarray(np.ascontiguousarray(grid)), (left, _MARGIN + title_height))
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
    picture = Image.new("RGB", (width * len(grids), top + height), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(picture)
    for i, (grid, lines) in enumerate(zip(grids, titles, strict=True)):
        for j, text in enumerate(reversed(lines)):
            draw.text((i * width + 3, top - line * (j + 1) - 3), text, fill=(0, 0, 0), font=font)
        colors = np.ascontiguousarray(np.broadcast_to(grid, (*grid.shape[:2], 3)))
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
    picture = Image.new("RGB", (fine * size, fine * size), (_BACKGROUND,) * 3)
    draw = ImageDraw.Draw(picture)
    left, right, bottom, top = extent
    for i, line in reversed(list(enumerate(lines))):
        points = np.asarray(line, np.float64)
        x = (points[:, 0] - left) / (right - left) * fine * size
        y = (top - points[:, 1]) / (top - bottom) * fine * size
        far = 10.0 * fine * size  # keeps what is far off, or not finite, from Pillow
        places = np.clip(np.nan_to_num(np.stack([x, y], axis=1)), -far, far)
        shade = min(160, round(160 * i / max(len(lines) - 1, 1)))
        draw.line([tuple(place) for place in places], fill=(shade,) * 3, width=2 * fine)
    shrunk = picture.resize((size, size), Image.Resampling.LANCZOS)
    if text:
        ImageDraw.Draw(shrunk).text((4, 2), text, fill=(0, 0, 0), font=ImageFont.load_default(11))
    return np.asarray(shrunk)


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


def density_picture(
    log_density: np.ndarray,
    true_log_density: np.ndarray | None = None,
    samples: np.ndarray | None = None,
    *,
    extent: tuple[float, float, float, float],
) -> np.ndarray:
    """A learned density in the plane, the true one and samples, beside each other.

    Both densities are normalized over the grid by their sum, and share one color scale.

    Args:
      log_density: learned log p up to a constant, [ny, nx]; row i at the i-th y, from below.
      true_log_density: [ny, nx] as well, or None.
      samples: [n, 2], or None.
      extent: (x from, x to, y from, y to) of the grid.

    Returns:
      uint8 [height, width, 3], as `image_grid` and `side_by_side` give.
    """
    panels: list[tuple[str, np.ndarray]] = [("learned density", _normalized(log_density))]
    if true_log_density is not None:
        panels.append(("true density", _normalized(true_log_density)))
    highest = max(float(density.max()) for _, density in panels)
    count = len(panels) + (samples is not None)
    figure, axes = _figure(count)
    for axis, (title, density) in zip(axes, panels, strict=False):
        axis.imshow(density, origin="lower", extent=extent, vmin=0.0, vmax=highest, cmap="viridis")
        axis.set_title(title)
    if samples is not None:
        samples = np.asarray(samples)
        axes[-1].plot(samples[:, 0], samples[:, 1], ".", markersize=1.5, color="black")
        axes[-1].set_title(f"{len(samples)} samples")
        axes[-1].set_aspect("equal")
    for axis in axes:
        axis.set_xlim(extent[:2])
        axis.set_ylim(extent[2:])
    return _rendered(figure)


def grids_picture(
    grids: Mapping[str, np.ndarray],
    *,
    bars: Mapping[str, Sequence[float] | np.ndarray] | None = None,
    x_label: str = "",
    y_label: str = "",
    text: Sequence[str] = (),
) -> np.ndarray:
    """Titled grids of images (from `image_grid`) side by side, figures on them below.

    Args:
      grids: by title, uint8 [height, width, 1 or 3].
      bars: by name, one bar per index 0, 1, ... under the grids; the same number for each name.
      x_label, y_label: of the bars.
      text: lines under all, in letters of one width.

    Returns:
      uint8 [height, width, 3].
    """
    from matplotlib.figure import Figure

    size = 4.6  # inches, of one grid
    heights = [size, *([2.2] if bars else []), *([0.17 * len(text) + 0.1] if text else [])]
    figure = Figure(figsize=(size * len(grids), sum(heights)), dpi=120, layout="constrained")
    rows = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = rows[0].subplots(1, len(grids), squeeze=False)[0]
    for axis, (title, grid) in zip(axes, grids.items(), strict=True):
        axis.imshow(np.broadcast_to(grid, (*grid.shape[:2], 3)), interpolation="antialiased")
        axis.set_title(title)
        axis.set_axis_off()
    if bars:
        axis = rows[1].subplots()
        width = 0.8 / len(bars)
        for i, (name, values) in enumerate(bars.items()):
            place = np.arange(len(values)) + (i - (len(bars) - 1) / 2) * width
            axis.bar(place, np.asarray(values), width, label=name)
            axis.set_xticks(np.arange(len(values)))
        axis.set_ylim(top=1.3 * axis.get_ylim()[1])  # room for the legend
        _label(axis, x_label, y_label, legend=True)
    if text:
        rows[-1].text(0.02, 0.98, "\n".join(text), va="top", family="monospace", fontsize=9)
    return _rendered(figure)


def line_figure(
    path: str | os.PathLike,
    x: Sequence[float] | np.ndarray,
    lines: Mapping[str, Sequence[float] | np.ndarray],
    *,
    x_label: str,
    y_label: str,
    log_y: bool = False,
) -> None:
    """Draws named curves over one x axis to a PNG."""
    figure, (axis,) = _figure(1)
    for name, values in lines.items():
        axis.plot(np.asarray(x), np.asarray(values), label=name)
    if log_y:
        axis.set_yscale("log")
    _label(axis, x_label, y_label, legend=len(lines) > 1)
    _save_figure(path, figure)


def series_picture(
    series: Mapping[str, Sequence[float] | np.ndarray],
    *,
    x_label: str,
    y_label: str,
    first: int = 0,
    log_y: bool = False,
) -> np.ndarray:
    """Named series over first, first + 1, .., without marks: uint8 [height, width, 3]."""
    figure, (axis,) = _panels(1, 1, (6.4, 4.2), below=0.5)
    for name, values in series.items():
        axis.plot(first + np.arange(len(values)), np.asarray(values), label=name)
    if log_y:
        axis.set_yscale("log")
    _label(axis, x_label, y_label, legend=False)
    if len(series) > 1:
        figure.legend(loc="outside lower center", ncols=2, fontsize=9)
    return _rendered(figure)


class Curves(NamedTuple):
    """A panel of named curves over common x. errors: of some of them, one standard error each."""

    title: str
    x: Sequence[float] | np.ndarray
    lines: Mapping[str, Sequence[float] | np.ndarray]
    errors: Mapping[str, Sequence[float] | np.ndarray] = {}
    x_label: str = ""
    y_label: str = ""
    log_x: bool = False


def curves_picture(panels: Sequence[Curves], *, columns: int = 2) -> np.ndarray:
    """Panels of curves beside each other, uint8 [height, width, 3]."""
    figure, axes = _panels(len(panels), columns, (5.2, 3.8))
    for axis, panel in zip(axes, panels, strict=True):
        for name, values in panel.lines.items():
            error = panel.errors.get(name)
            axis.errorbar(panel.x, values, error, marker="o", markersize=3, capsize=3, label=name)
        if panel.log_x:
            axis.set_xscale("log")
            if len(panel.x) <= _MOST_TICKS:  # else powers of ten and what lies between
                axis.set_xticks(panel.x, [f"{x:,g}" for x in panel.x])
                axis.minorticks_off()
        axis.set_title(panel.title, fontsize=10)
        is_crowded = len(panel.lines) > _MOST_INSIDE
        _label(axis, panel.x_label, panel.y_label, legend=len(panel.lines) > 1 and not is_crowded)
        if is_crowded:  # beside the curves, which it would hide
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    return _rendered(figure)


def shares_picture(
    panels: Mapping[str, np.ndarray],
    *,
    x_label: str,
    y_label: str,
    first: int = 1,
    columns: int = 3,
) -> np.ndarray:
    """Tables of shares as colors with their values, in percent, uint8 [height, width, 3].

    Args:
      panels: by title, [rows, columns] of values from 0 to 1; row 0 is above.
      x_label: of the columns. first: the number of the first row and column. columns: of panels.
    """
    figure, axes = _panels(len(panels), columns, (4.4, 4.0))
    for axis, (title, shares) in zip(axes, panels.items(), strict=True):
        shares = np.asarray(shares)
        axis.imshow(shares, vmin=0.0, vmax=1.0, cmap="Blues")
        for (row, column), share in np.ndenumerate(shares):
            color = "white" if share > 0.6 else "black"
            text = f"{100 * share:.0f}"
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
        axis.set_xticks(np.arange(shares.shape[1]), first + np.arange(shares.shape[1]))
        axis.set_yticks(np.arange(shares.shape[0]), first + np.arange(shares.shape[0]))
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
    return _rendered(figure)


def histograms_picture(
    panels: Mapping[str, Mapping[str, Sequence[float] | np.ndarray]],
) -> np.ndarray:
    """Panels of histograms over common bins, each a density, three panels beside each other.

    The range of a panel is that of the middle 98 % of its values, so that a few far ones do not
    press the others into one bar; what lies beyond, and what is not finite, is not drawn. The
    legend gives the numbers of finite values. The first two are filled, the others outlined.

    Args:
      panels: {label of the x axis: {name: values}}, the same names in each.
    Returns:
      uint8 [height, width, 3].
    """
    figure, axes = _panels(len(panels), 3, (4.6, 3.2), below=0.8)
    for axis, (x_label, values) in zip(axes, panels.items(), strict=True):
        _histograms(axis, values)
        _label(axis, x_label, "density", legend=False)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(4, 2 * len(panels)), fontsize=8
    )
    return _rendered(figure)


def _wrapped(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Words put on lines that fit; a word that does not has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and fits(f"{lines[-1]} {word}"):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _histograms(axis: Any, values: Mapping[str, Any]) -> None:
    arrays = {name: np.asarray(v, np.float64) for name, v in values.items()}
    finite = {name: v[np.isfinite(v)] for name, v in arrays.items()}
    middle = np.quantile(np.concatenate(list(finite.values())), [0.01, 0.99])
    smallest = min(len(v) for v in finite.values())
    edges = np.histogram_bin_edges(middle, int(np.clip(2 * np.sqrt(smallest), 10, 60)))
    for i, (name, v) in enumerate(finite.items()):
        drawn = {"alpha": 0.5} if i < 2 else {"histtype": "step", "linewidth": 1.3}
        weights = np.full(len(v), 1 / max(len(v), 1) / (edges[1] - edges[0]))
        axis.hist(v, edges, weights=weights, **drawn, label=f"{name} ({len(v)})")


def _normalized(log_density: np.ndarray) -> np.ndarray:
    log_density = np.asarray(log_density, np.float64)
    density = np.exp(log_density - log_density.max())
    return density / density.sum()


def _figure(panels: int) -> tuple[Any, list[Any]]:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(4.6 * panels, 4.4), dpi=120, layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def _panels(
    number: int, columns: int, size: tuple[float, float], *, below: float = 0.0
) -> tuple[Any, list[Any]]:
    """A figure of so many panels, each of that size in inches; below: room under all of them."""
    from matplotlib.figure import Figure

    rows, columns = math.ceil(number / columns), min(columns, number)
    whole = (size[0] * columns, size[1] * rows + below)
    figure = Figure(figsize=whole, dpi=120, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for axis in axes[number:]:
        axis.set_axis_off()
    return figure, axes[:number]


def _label(axis: Any, x_label: str, y_label: str, *, legend: bool) -> None:
    axis.set_xlabel(x_label)
    axis.set_ylabel(y_label)
    axis.grid(alpha=0.3)
    if legend:
        axis.legend()


def _save_figure(path: str | os.PathLike, figure: Any) -> None:
    save_image(path, _rendered(figure))


def _rendered(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


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
