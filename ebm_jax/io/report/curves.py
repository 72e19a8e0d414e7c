"""Charts of metrics.jsonl: drawn here without axes, and again by page.js with them."""

import json
import math
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ebm_jax.io.report.elements import cell, escape, words

_WIDTH, _HEIGHT, _MARGIN = 360, 210, 8  # of a chart, as in page.js
_STRETCHES = 500  # of a longer line, each drawn by its lowest and its highest value
_LEVEL = re.compile(r"levels?_(\d+)(?:_to_\d+)?")

# Colors on light and on dark ground, for what has no order.
_PLAIN = (
    ("#1f66b0", "#6cb0f5"), ("#c2491a", "#f08a5d"), ("#23804f", "#5fc992"), ("#8447ab", "#c594e8"),
    ("#96700a", "#e3b94d"), ("#b83377", "#f07ab5"), ("#3b7683", "#86bccb"), ("#5f5f5f", "#b0b0b0"),
)  # fmt: skip
_RANGES = (0.0, 0.82), (0.4, 1.0)  # of viridis, where it can be seen on light and on dark ground

NOTES = {
    "steps_per_second": "Mean rate over each logging interval. Checkpoints, grids of samples and "
    "the compilation of these count; that of the training step does not.",
}


class Metrics(NamedTuple):
    """metrics.jsonl by column. values: by name, one for each step; None where it has none."""

    steps: list[int]
    values: dict[str, list[float | None]]


class Line(NamedTuple):
    """A curve. color: of CSS. y: None where nothing is drawn."""

    name: str
    color: str
    x: Sequence[int]
    y: Sequence[float | None]


class Chart(NamedTuple):
    """Curves with common axes. is_rate: each value is the mean since the one before."""

    title: str
    lines: Sequence[Line]
    note: str = ""
    is_rate: bool = False


def read_metrics(workdir: pathlib.Path) -> Metrics:
    """What a run has logged; nothing where there is no file, or a line is no JSON."""
    try:
        text = (workdir / "metrics.jsonl").read_text()
    except OSError:
        text = ""
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the half line of a run that is being written
    names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "time"))
    values = {name: [_finite(row.get(name)) for row in rows] for name in sorted(names, key=_order)}
    return Metrics([row["step"] for row in rows], values)


def run_charts(metrics: Metrics) -> list[Chart]:
    """A chart for each name before a slash, a curve for each after it."""
    colors = _level_variables(metrics.values)
    groups: dict[str, list[str]] = {}
    for name in metrics.values:
        groups.setdefault(name.partition("/")[0], []).append(name)
    charts = []
    for group, names in groups.items():
        lines = []
        for i, name in enumerate(names):
            member = name.partition("/")[2]
            color = colors.get(member, plain_color(i))
            lines.append(_line(words(member or group), color, metrics, name))
        charts.append(_chart(group, lines))
    return charts


def overlaid_charts(runs: Mapping[str, Metrics]) -> list[Chart]:
    """A chart for each metric, with a curve for each run that has it; a run has one color."""
    names = dict.fromkeys(name for metrics in runs.values() for name in metrics.values)
    charts = []
    for name in sorted(names, key=_order):
        lines = [
            _line(run, plain_color(i), metrics, name)
            for i, (run, metrics) in enumerate(runs.items())
            if name in metrics.values
        ]
        charts.append(_chart(name, lines))
    return charts


def colors(names: Iterable[str]) -> dict[str, tuple[str, str]]:
    """CSS variables of all curves, on light and on dark ground: those of levels in their order.

    names: of the metrics.
    """
    found = {f"--plain-{i}": both for i, both in enumerate(_PLAIN)}
    variables = _level_variables(names)
    for i in range(len(variables)):
        place = i / max(len(variables) - 1, 1)
        light, dark = (_viridis(low + place * (high - low)) for low, high in _RANGES)
        found[f"--level-{i}"] = light, dark
    return found


def plain_color(i: int) -> str:
    """Of the i-th of things without an order."""
    return f"var(--plain-{i % len(_PLAIN)})"


def charts_html(charts: Sequence[Chart]) -> str:
    """Charts beside each other; names that are in several get a legend above, for all of them."""
    names = [line.name for chart in charts for line in chart.lines]
    colors = {line.name: line.color for chart in charts for line in chart.lines}
    common = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    buttons = "".join(
        f'<button disabled aria-pressed="true" data-name="{escape(name)}" '
        f'style="--color:{colors[name]}">{escape(name)}</button>'
        for name in common
    )
    everywhere = f'<div class="legend everywhere">{buttons}</div>' if len(common) > 1 else ""
    return everywhere + f'<div class="charts">{"".join(map(_chart_html, charts))}</div>'


def _chart_html(chart: Chart) -> str:
    buttons = "".join(
        f'<button disabled aria-pressed="true" style="--color:{line.color}">{escape(line.name)}'
        f"<output>{escape(_last(line.y))}</output></button>"
        for line in chart.lines
    )
    data = {"isRate": chart.is_rate, "lines": [line._asdict() for line in chart.lines]}
    note = f'<p class="note">{escape(chart.note)}</p>' if chart.note else ""
    last = ", ".join(f"{line.name} {_last(line.y)}" for line in chart.lines)
    return (
        f'<figure class="chart"><figcaption>{escape(chart.title)}'
        '<span class="at"></span>'
        '<button class="scale" hidden aria-pressed="false">log</button></figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(f"{chart.title} by training step; last: {last}")}">'
        f'{_drawn(chart.lines)}</svg><div class="legend">{buttons}</div>{note}'
        f'<script type="application/json">{_script_json(data)}</script></figure>\n'
    )


def _drawn(lines: Sequence[Line]) -> str:
    """The curves alone, and the ends of both axes: what is seen without JavaScript."""
    xs = [x for line in lines for x in line.x]
    ys = [y for line in lines for y in line.y if y is not None]
    if not ys:
        return ""
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    inner_width, inner_height = _WIDTH - 2 * _MARGIN, _HEIGHT - 4 * _MARGIN
    parts = []
    for line in lines:
        text, is_open = "", False
        for x, y in zip(line.x, line.y, strict=True):
            if y is not None:
                across = _MARGIN + inner_width * (x - left) / max(right - left, 1)
                down = _MARGIN + (inner_height * (high - y) / (high - low) if high > low else 0)
                text += f"{'L' if is_open else 'M'}{across:.1f} {down:.1f}"
                text += "" if is_open else "h0"  # a point by itself is seen too
            is_open = y is not None
        parts.append(f'<path style="stroke:{line.color}" d="{text}"/>')
    base = _HEIGHT - 6
    parts += [
        f'<text x="{_MARGIN}" y="{base}">{cell(low)} to {cell(high)}</text>',
        f'<text x="{_WIDTH - _MARGIN}" y="{base}" text-anchor="end">'
        f"steps {left:,} to {right:,}</text>",
    ]
    return "".join(parts)


def _chart(name: str, lines: Sequence[Line]) -> Chart:
    title = words(name.replace("/", ", "))
    return Chart(title, lines, NOTES.get(name, ""), is_rate=name in NOTES)


def _line(name: str, color: str, metrics: Metrics, metric: str) -> Line:
    return Line(name, color, *_thinned(metrics.steps, metrics.values[metric]))


def _thinned(
    x: Sequence[int], y: Sequence[float | None]
) -> tuple[Sequence[int], Sequence[float | None]]:
    """A line of two points for each stretch, so that no peak is lost; a short one as it is."""
    if len(x) <= 2 * _STRETCHES:
        return x, y
    kept = {0, len(x) - 1}
    for i in range(_STRETCHES):
        stretch = range(len(x) * i // _STRETCHES, len(x) * (i + 1) // _STRETCHES)
        finite = [(value, j) for j in stretch if (value := y[j]) is not None]
        kept |= {min(finite)[1], max(finite)[1]} if finite else {stretch[0]}
    places = sorted(kept)
    return [x[j] for j in places], [y[j] for j in places]


def _order(name: str) -> tuple[bool, bool, str, tuple[int, ...], str]:
    """The loss first, speed last, levels by number."""
    group, _, member = name.partition("/")
    return name != "loss", name == "steps_per_second", group, _first_level(member), member


def _first_level(member: str) -> tuple[int, ...]:
    """Its number, of what is named after a level; nothing of others, which are before those."""
    match = _LEVEL.fullmatch(member)
    return (int(match[1]),) if match else ()


def _level_variables(names: Iterable[str]) -> dict[str, str]:
    """The color of each level that metrics are named after, by that part of their names."""
    members = {name.partition("/")[2] for name in names}
    levels = sorted((m for m in members if _LEVEL.fullmatch(m)), key=lambda m: (_first_level(m), m))
    return {level: f"var(--level-{i})" for i, level in enumerate(levels)}


def _viridis(place: float) -> str:
    import matplotlib
    from matplotlib import colors

    return colors.to_hex(matplotlib.colormaps["viridis"](place))


def _last(y: Sequence[float | None]) -> str:
    return cell(next((value for value in reversed(y) if value is not None), None))


def _finite(value: Any) -> float | None:
    """A number that can be drawn, to six digits; None for what is not there, NaN or infinite."""
    if isinstance(value, list) or value is None or not math.isfinite(number := float(value)):
        return None
    return float(f"{number:.6g}")


def _script_json(value: Any) -> str:
    """JSON that ends no script and begins no comment of HTML."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
