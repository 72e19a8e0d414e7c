"""What stands in charts: data, titles, limits, scales and sizes, as matplotlib has them."""

import re

import matplotlib
import numpy as np
import pytest
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ebm_jax.io import charts

GRID = np.full((50, 60, 1), 9, np.uint8)


@pytest.fixture(autouse=True)
def figures(monkeypatch):
    """Functions return the figure itself, laid out, in place of its pixels.

    A user's own choice of colors changes nothing.
    """

    def rendered(figure):
        assert isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine)
        figure.draw_without_rendering()
        return figure

    monkeypatch.setattr(charts, "_rendered", rendered)
    monkeypatch.setitem(matplotlib.rcParams, "image.cmap", "gray")


def labels_of(axis):
    return axis.get_title(), axis.get_xlabel(), axis.get_ylabel()


def legend_of(of):
    legend = of.get_legend() if hasattr(of, "get_legend") else of.legends[0]
    return legend and [text.get_text() for text in legend.get_texts()]


def is_gridded(axis):
    line = axis.get_xgridlines()[0]
    return line.get_visible() and line.get_alpha() == 0.3


def same(found, expected):
    np.testing.assert_allclose(np.asarray(found, float), expected, rtol=1e-12, atol=1e-15)


def test_densities_are_normalized_and_share_their_colors():
    """exp(log p) over its sum; the colors end at the highest value of both."""
    learned, true = np.log([[1.0, 3.0]]) + 700, np.log([[1.0, 1.0], [1.0, 7.0]])
    extent = (-2.0, 2.0, -1.0, 3.0)
    points = np.array([[0.5, 1.5], [-1.0, 2.0], [1.0, 0.0]])
    figure = charts.density_picture(learned, true, points, extent=extent)
    same(figure.get_size_inches(), (3 * 4.6, 4.4))
    assert figure.dpi == 120
    assert [axis.get_title() for axis in figure.axes] == [
        "learned density", "true density", "3 samples",
    ]  # fmt: skip
    for axis, expected in zip(figure.axes[:2], ([[0.25, 0.75]], [[0.1, 0.1], [0.1, 0.7]]),
                              strict=True):  # fmt: skip
        (image,) = axis.images
        same(image.get_array(), expected)
        same(image.get_clim(), (0, 0.75))
        assert tuple(image.get_extent()) == extent
        assert image.origin == "lower"
        assert image.get_cmap().name == "viridis"
    (dots,) = figure.axes[2].lines
    same(dots.get_xydata(), points)
    assert (dots.get_marker(), dots.get_linestyle(), dots.get_color()) == (".", "None", "black")
    assert dots.get_markersize() == 1.5
    assert figure.axes[2].get_aspect() == 1
    for axis in figure.axes:
        assert (*axis.get_xlim(), *axis.get_ylim()) == extent
    alone = charts.density_picture(learned, extent=extent)
    assert [axis.get_title() for axis in alone.axes] == ["learned density"]


def test_grids_with_bars_and_text():
    figure = charts.grids_picture(
        {"left": GRID, "right": GRID + 1},
        bars={"a": [1.0, 2.0, 4.0], "b": np.array([3.0, 1.0, 0.5])},
        x_label="level",
        y_label="share",
        text=("one", "two"),
    )
    same(figure.get_size_inches(), (2 * 4.6, 4.6 + 2.2 + 2 * 0.17 + 0.1))
    assert figure.dpi == 120
    left, right, bars = figure.axes
    for axis, title, value in ((left, "left", 9), (right, "right", 10)):
        assert axis.get_title() == title
        assert axis.images[0].get_interpolation() == "antialiased"
        np.testing.assert_array_equal(axis.images[0].get_array(), np.full((50, 60, 3), value))
        assert not axis.axison
    same([bar.get_height() for bar in bars.patches], [1, 2, 4, 3, 1, 0.5])
    middles = [bar.get_x() + bar.get_width() / 2 for bar in bars.patches]
    same(middles, [-0.2, 0.8, 1.8, 0.2, 1.2, 2.2])  # two bars of width .4 about each index
    same([bar.get_width() for bar in bars.patches], [0.4] * 6)
    same(bars.get_xticks(), [0, 1, 2])
    same(bars.get_ylim()[1], 1.3 * 1.05 * 4)  # matplotlib leaves a margin of 5 %
    assert labels_of(bars) == ("", "level", "share")
    assert legend_of(bars) == ["a", "b"]
    assert is_gridded(bars)
    heights = [part.bbox.height for part in figure.subfigs]
    same(np.array(heights) / heights[1], np.array([4.6, 2.2, 0.44]) / 2.2)
    (text,) = figure.subfigs[-1].texts
    assert (text.get_text(), text.get_position()) == ("one\ntwo", (0.02, 0.98))
    assert (text.get_va(), text.get_family(), text.get_fontsize()) == ("top", ["monospace"], 9)


def test_grids_alone_take_no_other_room():
    figure = charts.grids_picture({"left": GRID})
    same(figure.get_size_inches(), (4.6, 4.6))
    assert len(figure.axes) == len(figure.subfigs) == 1
    lettered = charts.grids_picture({"left": GRID}, text=["one"])
    assert [t.get_text() for t in lettered.subfigs[1].texts] == ["one"]


def test_long_lines_of_text_stay_within_the_picture():
    line = "  a table  keeps its columns, " + "and what is longer than the picture is wide " * 4
    figure = charts.grids_picture({"left": GRID}, text=["", line.rstrip()])
    (text,) = figure.subfigs[1].texts
    first, *wrapped = text.get_text().split("\n")
    assert first == ""
    assert wrapped[0].startswith("  a table  keeps")
    assert len(wrapped) > 2
    assert all(re.match(" {4}[a-z]", line) for line in wrapped[1:])
    figure.canvas.draw()
    assert text.get_window_extent().x1 < figure.bbox.x1
    same(figure.get_size_inches(), (4.6, 4.6 + 0.17 * (1 + len(wrapped)) + 0.1))


@pytest.mark.parametrize(("number", "fits"), [(1, 58), (2, 117)])
def test_as_many_letters_as_fit_in_a_line(number, fits):
    """Of .6 of 9 points, in 96 % of the width of the grids; a longer word is cut."""
    short, last = " ".join("d" * (fits // 2)), "e" * (2 + fits % 2)
    words = ["a" * fits, "b" * fits + "c", f"{short} {last}"]
    figure = charts.grids_picture(dict.fromkeys("xy"[:number], GRID), text=words)
    (text,) = figure.subfigs[1].texts
    assert text.get_text().split("\n") == [
        "a" * fits, "b" * fits, "    c", short, f"    {last}",
    ]  # fmt: skip


def test_a_figure_of_lines(tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(charts, "save_image", lambda path, figure: saved.append((path, figure)))
    for lines, log_y in (({"a": [1, 2], "b": (3, 5)}, True), ({"a": [1.0, 2.0]}, False)):
        charts.line_figure(
            tmp_path / "x.png", [10, 20], lines, x_label="x", y_label="y", log_y=log_y
        )
        path, figure = saved.pop()
        (axis,) = figure.axes
        assert path == tmp_path / "x.png"
        for line, (name, values) in zip(axis.lines, lines.items(), strict=True):
            assert line.get_label() == name
            same(line.get_xydata(), np.transpose([[10, 20], values]))
        assert axis.get_yscale() == ("log" if log_y else "linear")
        assert labels_of(axis) == ("", "x", "y")
        assert legend_of(axis) == (["a", "b"] if len(lines) == 2 else None)


def test_series_are_counted_from_the_first():
    figure = charts.series_picture(
        {"a": [5.0, 6.0, 7.0], "b": [1.0]}, x_label="x", y_label="y", first=3, log_y=True
    )
    (axis,) = figure.axes
    same(figure.get_size_inches(), (6.4, 4.2 + 0.5))
    same(axis.lines[0].get_xydata(), [[3, 5], [4, 6], [5, 7]])
    same(axis.lines[1].get_xydata(), [[3, 1]])
    assert axis.get_yscale() == "log"
    assert axis.get_legend() is None
    (legend,) = figure.legends
    assert legend_of(figure) == ["a", "b"]
    assert legend._ncols == 2
    assert legend.get_texts()[0].get_fontsize() == 9
    assert legend.get_window_extent().y1 < axis.get_window_extent().y0
    assert labels_of(axis) == ("", "x", "y")
    alone = charts.series_picture({"a": [5.0, 6.0]}, x_label="x", y_label="y")
    same(alone.axes[0].lines[0].get_xydata(), [[0, 5], [1, 6]])
    assert alone.axes[0].get_yscale() == "linear"
    assert not alone.legends


def test_panels_of_curves():
    """Errors of one standard error; a legend for several, beside them when they are many."""
    many = {f"c{i}": [i, i] for i in range(7)}
    figure = charts.curves_picture(
        [
            charts.Curves("first", [1, 10], {"a": [1.0, 2.0], "b": [3.0, 4.0]},
                            {"b": [0.5, 0.25]}, x_label="x", y_label="y", log_x=True),
            charts.Curves("second", [0, 1], many),
            charts.Curves("third", [0, 1], {"alone": [0, 1]}),
        ]
    )  # fmt: skip
    same(figure.get_size_inches(), (2 * 5.2, 2 * 3.8))
    assert figure.dpi == 120
    first, second, third, empty = figure.axes
    assert not empty.axison
    assert labels_of(first) == ("first", "x", "y")
    assert labels_of(third) == ("third", "", "")
    assert first.title.get_fontsize() == 10
    assert [axis.get_xscale() for axis in (first, second)] == ["log", "linear"]
    same(first.lines[0].get_xydata(), [[1, 1], [10, 2]])
    with_errors = first.containers[1]
    (bars,) = with_errors.lines[2]
    same([segment[:, 1] for segment in bars.get_segments()], [[2.5, 3.5], [3.75, 4.25]])
    caps = with_errors.lines[1]
    assert [cap.get_markersize() for cap in caps] == [6, 6]  # of both sides of capsize 3
    assert not first.containers[0].has_yerr
    assert (first.lines[0].get_marker(), first.lines[0].get_markersize()) == ("o", 3)
    assert legend_of(first) == ["a", "b"]
    assert legend_of(third) is None
    assert legend_of(second) == list(many)
    beside, panel = second.get_legend(), second.get_window_extent()
    assert beside.get_texts()[0].get_fontsize() == 8
    extent = beside.get_window_extent()
    assert extent.x0 >= panel.x1
    assert abs((extent.y0 + extent.y1) - (panel.y0 + panel.y1)) < 2  # in the middle of its height
    assert is_gridded(first)


@pytest.mark.parametrize(("number", "is_written"), [(6, True), (7, False)])
def test_few_places_of_a_logarithmic_axis_are_written_out(number, is_written):
    x = [300 * 2**n for n in range(number)]
    panel = charts.Curves("", x, {"a": x}, log_x=True)
    (axis,) = charts.curves_picture([panel]).axes
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert (labels == ["300", "600", "1,200", "2,400", "4,800", "9,600"]) is is_written
    assert bool(len(axis.get_xticks(minor=True))) is not is_written


def test_few_panels_take_no_empty_columns():
    panel = charts.Curves("", [0, 1], {"a": [0, 1]})
    same(charts.curves_picture([panel]).get_size_inches(), (5.2, 3.8))
    same(charts.curves_picture([panel] * 3, columns=3).get_size_inches(), (15.6, 3.8))


def test_five_curves_have_their_names_inside():
    lines = {f"c{i}": [i, i] for i in range(5)}
    (axis,) = charts.curves_picture([charts.Curves("", [0, 1], lines)]).axes
    inside, panel = axis.get_legend().get_window_extent(), axis.get_window_extent()
    assert inside.x1 < panel.x1


def test_shares_in_percent():
    shares = np.array([[0.0, 0.6], [0.61, 1.0], [0.125, 0.5]])
    figure = charts.shares_picture({"t": shares, "u": shares.T.tolist()}, x_label="x", y_label="y")
    same(figure.get_size_inches(), (2 * 4.4, 4.0))
    axis, other = figure.axes
    same(axis.images[0].get_array(), shares)
    same(axis.images[0].get_clim(), (0, 1))
    assert axis.images[0].get_cmap().name == "Blues"
    texts = {text.get_position(): text for text in axis.texts}
    assert {at: text.get_text() for at, text in texts.items()} == {
        (0, 0): "0", (1, 0): "60", (0, 1): "61", (1, 1): "100", (0, 2): "12", (1, 2): "50",
    }  # fmt: skip
    assert {at for at, text in texts.items() if text.get_color() == "white"} == {(0, 1), (1, 1)}
    for text in axis.texts:
        assert (text.get_ha(), text.get_va(), text.get_fontsize()) == ("center", "center", 8)
    assert labels_of(axis) == ("t", "x", "y")
    assert axis.title.get_fontsize() == 10
    same(axis.get_xticks(), [0, 1])
    same(axis.get_yticks(), [0, 1, 2])
    assert [t.get_text() for t in axis.get_xticklabels()] == ["1", "2"]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["1", "2", "3"]
    assert [t.get_text() for t in other.get_xticklabels()] == ["1", "2", "3"]
    middle = 0.2 + shares / 2
    shifted = charts.shares_picture({"t": middle}, x_label="x", y_label="y", first=4)
    same(shifted.axes[0].images[0].get_clim(), (0, 1))
    assert [t.get_text() for t in shifted.axes[0].get_yticklabels()] == ["4", "5", "6"]
    assert [t.get_text() for t in shifted.axes[0].get_xticklabels()] == ["4", "5"]
    four = charts.shares_picture(dict.fromkeys("abcd", shares), x_label="x", y_label="y")
    same(four.get_size_inches(), (3 * 4.4, 2 * 4.0))


def test_histograms_are_densities_over_common_bins():
    """400 values: 40 bins over the middle 98 % of all of them; what is outside counts too."""
    values = {name: shift + np.arange(401.0) for name, shift in
              (("a", 0), ("b", 100), ("c", 200))}  # fmt: skip
    values["c"] = np.append(values["c"], [np.nan, np.inf])
    figure = charts.histograms_picture({"one": values, "two": values})
    same(figure.get_size_inches(), (2 * 4.6, 3.2 + 0.8))
    axis = figure.axes[0]
    everything = np.concatenate([v[np.isfinite(v)] for v in values.values()])
    low, high = np.quantile(everything, [0.01, 0.99])
    width = (high - low) / 40
    edges = np.linspace(low, high, 41)
    filled = [container for container in axis.containers if len(container) == 40]
    assert len(filled) == 2
    for container, name in zip(filled, "ab", strict=True):
        counts, _ = np.histogram(values[name], edges)
        same([bar.get_height() for bar in container], counts / 401 / width)
        assert {bar.get_alpha() for bar in container} == {0.5}
    outline = axis.patches[-1]
    assert outline.get_linewidth() == 1.3
    assert not outline.get_fill()
    assert legend_of(figure) == ["a (401)", "b (401)", "c (401)"]
    (legend,) = figure.legends
    assert (legend._ncols, legend.get_texts()[0].get_fontsize()) == (4, 8)
    assert legend.get_window_extent().y1 < axis.get_window_extent().y0
    assert labels_of(axis) == ("", "one", "density")
    assert labels_of(figure.axes[1]) == ("", "two", "density")
    assert axis.get_legend() is None
    one = charts.histograms_picture({"one": values})
    assert one.legends[0]._ncols == 2
    four = charts.histograms_picture(dict.fromkeys("wxyz", values))
    same(four.get_size_inches(), (3 * 4.6, 2 * 3.2 + 0.8))
    assert four.legends[0]._ncols == 4


@pytest.mark.parametrize(("number", "bins"), [(4, 10), (100, 20), (2500, 60)])
def test_bins_grow_with_the_root_of_the_smaller_number(number, bins):
    values = {"few": np.arange(number), "many": np.arange(5000.0)}
    (axis,) = charts.histograms_picture({"x": values}).axes
    assert [len(container) for container in axis.containers] == [bins, bins]


def test_a_single_value_is_a_density_too():
    values = {"one": [50.0], "some": np.arange(100.0)}
    (axis,) = charts.histograms_picture({"x": values}).axes
    one, some = axis.containers
    width = some[0].get_width()
    same([np.sum([bar.get_height() for bar in one]) * width], 1)
    same([np.sum([bar.get_height() for bar in some]) * width], 0.98)  # from 1 to 98


def test_an_empty_histogram_is_drawn_as_nothing():
    values = {"none": [np.nan], "some": np.arange(100.0)}
    figure = charts.histograms_picture({"x": values})
    assert legend_of(figure) == ["none (0)", "some (100)"]
    assert all(bar.get_height() == 0 for bar in figure.axes[0].containers[0])
