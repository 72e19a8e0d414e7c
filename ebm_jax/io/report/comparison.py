"""The page of several runs beside each other: curves, samples, configs, what modes measured."""

import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ebm_jax.io.report import curves, pictures
from ebm_jax.io.report.document import document
from ebm_jax.io.report.elements import (
    cell,
    escape,
    figure,
    flatten,
    folded,
    is_estimate,
    read_json,
    rows,
    words,
)
from ebm_jax.io.report.run_page import describe, mode_names, mode_title, split_provenance

_MAX_ROWS = 12  # of a mode's numbers that are shown open
_RESTS_ON = ("checkpoint_step", "num_samples")  # of what was measured on: shown beside the numbers


def comparison(workdirs: Sequence[pathlib.Path]) -> str:
    """The page of two or more workdirs.

    Raises:
      ValueError: where there is nothing to show; one line.
    """
    runs = dict(zip(run_names(workdirs), workdirs, strict=True))
    metrics = {name: curves.read_metrics(path) for name, path in runs.items()}
    logged = {name: found for name, found in metrics.items() if found.steps}
    sections = [
        ("Training", curves.charts_html(curves.overlaid_charts(metrics)) if logged else ""),
        ("Last samples", _last_samples(runs)),
        ("What the modes measured", _measured(runs)),
    ]
    sections = [(title, body) for title, body in sections if body]
    if not sections:
        raise ValueError(
            f"{' and '.join(map(str, workdirs))} hold no metrics and no results: train, or run "
            "another mode"
        )
    sections.insert(0, ("Runs", _runs(runs)))
    sections.append(("Fields of the configs that differ", _differences(runs)))
    heading = f"{len(runs)} runs: {', '.join(runs)}"
    return document(heading, "Beside each other", sections, curves.colors(()))


def run_names(workdirs: Sequence[pathlib.Path]) -> list[str]:
    """The folders' names, or their paths where those are the same."""
    names = [path.absolute().name for path in workdirs]
    return names if len(set(names)) == len(names) else [str(path) for path in workdirs]


def _runs(runs: Mapping[str, pathlib.Path]) -> str:
    lines = []
    for name, path in runs.items():
        heading, subheading = describe(read_json(path / "config.json"), path)
        said = escape(f"{name}: {heading}; {subheading}")
        lines.append(f'<li>{said} <span class="measured">({escape(path)})</span></li>')
    return f"<ul>{''.join(lines)}</ul>"


def _last_samples(runs: Mapping[str, pathlib.Path]) -> str:
    shown = []
    for name, path in runs.items():
        if grids := pictures.sample_grids(path):
            said = f"{name}: step {pictures.step_of(grids[-1]):,}"
            shown.append(figure(grids[-1].read_bytes(), f"Samples of {said}", said))
    return f'<div class="beside">{"".join(shown)}</div>' if shown else ""


def _differences(runs: Mapping[str, pathlib.Path]) -> str:
    """A table of the fields that are not the same in all configs."""
    configs = {
        name: flatten(read_json(path / "config.json"), separator=".") for name, path in runs.items()
    }
    fields = dict.fromkeys(field for config in configs.values() for field in config)
    missing = object()
    differing = [
        field
        for field in fields
        if any(
            config.get(field, missing) != next(iter(configs.values())).get(field, missing)
            for config in configs.values()
        )
    ]
    if not differing:
        return "<p>None: the configs are the same.</p>"
    body = [[field, *(_shown(config, field) for config in configs.values())] for field in differing]
    return rows(["field", *runs], body)


def _measured(runs: Mapping[str, pathlib.Path]) -> str:
    """For each mode a table of its numbers, the outermost first; of many, the others folded."""
    modes = dict.fromkeys(mode for path in runs.values() for mode in mode_names(path))
    parts = []
    for mode in modes:
        found = {name: _numbers(path / mode) for name, path in runs.items()}
        keys = dict.fromkeys(key for numbers in found.values() for key in numbers)
        names = sorted(keys, key=_headline)
        body = [
            [words(", ".join(name)), *(_shown(numbers, name) for numbers in found.values())]
            for name in names
        ]
        if body:
            first, others = body[:_MAX_ROWS], body[_MAX_ROWS:]
            more = folded(f"{len(others)} more", rows(["", *runs], others)) if others else ""
            title = f"<h3>{escape(mode_title(mode))}</h3>"
            parts.append(f"{title}{rows(['', *runs], first)}{more}")
    return "\n".join(parts)


def _headline(name: tuple[str, ...]) -> tuple[bool, int]:
    """Sort key of a number: what is measured before how many of what, the outermost first."""
    return len(name) > 1 and name[-1].startswith("num_"), len(name)


def _numbers(folder: pathlib.Path) -> dict[tuple[str, ...], Any]:
    """Numbers and estimates of a mode's JSON files, by the names on the way to them."""
    found: dict[tuple[str, ...], Any] = {}
    for path in sorted(folder.glob("*.json")):
        figures, provenance = split_provenance(read_json(path))
        rests_on = provenance.get("measured_on", {})
        found |= {(name,): rests_on[name] for name in _RESTS_ON if name in rests_on}
        found |= _leaves(figures, ())
    return found


def _leaves(
    value: Mapping[str, Any], prefix: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, item in value.items():
        if is_estimate(item):
            yield (*prefix, name), flatten({name: item})[name]
        elif isinstance(item, Mapping):
            yield from _leaves(item, (*prefix, name))
        elif isinstance(item, int | float) and not isinstance(item, bool):
            yield (*prefix, name), item


def _shown(values: Mapping[Any, Any], name: Any) -> str:
    return cell(values[name]) if name in values else "-"
