"""Curves, histograms, tables and densities as pictures, by matplotlib.

Without a display and without matplotlib's global state; it is imported where it is used, so that
importing this module costs nothing. Pictures are uint8 [height, width, 3], as `image_grids` gives.
"""

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ebm_jax.io.image_grids import save_image

_LETTER = 0.6 * 9 / 72  # inches, the width of one of 9 points
_MOST_INSIDE = 5  # names of curves in a panel
_MOST_TICKS = 6  # of a logarithmic axis that are written out


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
    highest = max(density.max() for _, density in panels)
    count = len(panels) + (samples is not None)
    figure, axes = _figure(count)
    for axis, (title, density) in zip(axes, panels, strict=False):
        axis.imshow(density, origin="lower", extent=extent, vmin=0.0, vmax=highest, cmap="viridis")
        axis.set_title(title)
    if samples is not None:
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
      text: lines under all, in letters of one width; those that are too long go on below.

    Returns:
      uint8 [height, width, 3].
    """
    from matplotlib.figure import Figure

    size = 4.6  # inches, of one grid
    fits = int(0.96 * size * len(grids) / _LETTER)
    text = [part for line in text for part in _wrapped(line, fits)]
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
            axis.bar(place, values, width, label=name)
            axis.set_xticks(np.arange(len(values)))
        axis.set_ylim(top=1.3 * axis.get_ylim()[1])  # room for the legend
        _label(axis, x_label, y_label, legend=True)
    if text:
        rows[-1].text(0.02, 0.98, "\n".join(text), va="top", family="monospace", fontsize=9)
    return _rendered(figure)


def _wrapped(line: str, width: int) -> list[str]:
    """A line of text as lines of at most so many letters."""
    return textwrap.wrap(line, width, subsequent_indent="    ") or [""]


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
        axis.plot(x, values, label=name)
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
    figure, (axis,) = _panels(1, (6.4, 4.2), below=0.5)
    for name, values in series.items():
        axis.plot(first + np.arange(len(values)), values, label=name)
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
    figure, axes = _panels(len(panels), (5.2, 3.8), columns=columns)
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
    figure, axes = _panels(len(panels), (4.4, 4.0), columns=columns)
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
    figure, axes = _panels(len(panels), (4.6, 3.2), columns=3, below=0.8)
    for axis, (x_label, values) in zip(axes, panels.items(), strict=True):
        _histograms(axis, values)
        _label(axis, x_label, "density", legend=False)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=min(4, 2 * len(panels)), fontsize=8
    )
    return _rendered(figure)


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


def _figure(panels: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(4.6 * panels, 4.4), dpi=120, layout="constrained")
    return figure, figure.subplots(1, panels, squeeze=False)[0]


def _panels(
    number: int, size: tuple[float, float], *, columns: int | None = None, below: float = 0.0
) -> tuple[Any, Any]:
    """A figure of so many panels, each of that size in inches.

    columns: of panels; all are beside each other if None. below: room under all of them.
    """
    from matplotlib.figure import Figure

    columns = min(columns or number, number)
    rows = math.ceil(number / columns)
    whole = (size[0] * columns, size[1] * rows + below)
    figure = Figure(figsize=whole, dpi=120, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
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
