"""The page of one run: training, samples, and a section for each mode that was run.

Every mode writes `<mode>/<name>.json` and PNG files beside it; what is in such a folder becomes a
section: the metrics as tables, the figures, and what they were measured on.
"""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from ebm_jax.io.report import curves, pictures
from ebm_jax.io.report.document import document
from ebm_jax.io.report.elements import (
    cell,
    escape,
    figure,
    flatten,
    folded,
    folded_json,
    read_json,
    table,
    words,
)

_TITLES = {
    "sample": "Samples",
    "evaluate": "Samples against real data",
    "likelihood": "Likelihood",
    "long_run": "Long-run chains",
    "interpolate": "Paths between samples",
    "inpaint": "Inpainting",
    "restore": "Restoration",
    "classify": "Classification and calibration",
    "robustness": "Adversarial robustness",
    "crossclass": "From one class to another",
    "compose": "Models together",
    "continual": "Classes learned a few at a time",
    "rollout": "Trajectories",
    "ood": "Out-of-distribution detection",
    "neighbours": "Memorization and nearest neighbors",
    "fid": "Frechet and kernel distances",
    "fid_stats": "Reference statistics",
    "export": "Exported functions",
}
_PROVENANCE = ("mode", "measured_on", "settings", "summary", "versions")  # beside figures
_SAID_IN_FULL_ONLY = ("method", "sampler", "versions")  # of what was measured on
_MAX_CELLS = 400  # of what is shown open
_FOLDED = re.compile("<details>.*?</details>", re.DOTALL)


def page(workdir: pathlib.Path, *, max_sample_bytes: int = 20_000_000) -> str:
    """The page of a workdir.

    max_sample_bytes: of PNG files of samples during training; more are thinned out.
    Raises:
      ValueError: where there is nothing to show; one line.
    """
    metrics = curves.read_metrics(workdir)
    sections = [
        ("Training", _training(metrics)),
        ("Samples during training", pictures.slides(workdir, max_sample_bytes)),
    ]
    sections += [(mode_title(name), _mode(workdir / name)) for name in mode_names(workdir)]
    sections = [(title, body) for title, body in sections if body]
    if not sections:
        raise ValueError(f"{workdir} holds no metrics and no results: train, or run another mode")
    config = read_json(workdir / "config.json")
    run = "".join(
        folded_json(title, content)
        for title, content in (
            ("configuration", config),
            ("versions and hardware of the training", read_json(workdir / "versions.json")),
        )
        if content
    )
    heading, subheading = describe(config, workdir)
    sections.append(("This run", run))
    return document(heading, subheading, sections, curves.colors(metrics.values))


def mode_names(workdir: pathlib.Path) -> list[str]:
    """The modes that have left something in a workdir."""
    known = [name for name in _TITLES if (workdir / name).is_dir()]
    others = sorted(
        path.name
        for path in workdir.glob("*/")
        if path.name not in (*_TITLES, "samples") and any(path.glob("*.json"))
    )
    return [*known, *others]


def mode_title(name: str) -> str:
    """The heading of a mode's section."""
    return _TITLES.get(name, words(name))


def describe(config: Mapping[str, Any], workdir: pathlib.Path) -> tuple[str, str]:
    """What a run is, in a heading and a line under it."""
    if not config:
        return f"Run {workdir.name}", "config.json is not there"
    data, method, network = (_name(config, section) for section in ("data", "method", "network"))
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())
    trained = f"newest checkpoint: step {steps[-1]:,}" if steps else "no checkpoint yet"
    return f"{data}: {words(method)}", f"network {network}; {trained}; seed {config.get('seed')}"


def split_provenance(content: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What a mode measured, and what it was measured on, of a JSON file of its own."""
    if "checkpoint_step" in content:  # provenance and no more
        return {}, {"measured_on": content}
    figures = {name: value for name, value in content.items() if name not in _PROVENANCE}
    return figures, {name: value for name, value in content.items() if name in _PROVENANCE}


def _name(config: Mapping[str, Any], section: str) -> str:
    """What a section names: one thing, or one for each of its groups."""
    found = config.get(section)
    if not isinstance(found, Mapping):
        return f"unknown {section}"
    names = [found, *(group for group in found.values() if isinstance(group, Mapping))]
    return ", ".join(str(named["name"]) for named in names if "name" in named) or (
        f"unknown {section}"
    )


def _training(metrics: curves.Metrics) -> str:
    if not metrics.steps:
        return ""
    caption = f"{len(metrics.steps):,} logged steps, to step {metrics.steps[-1]:,}."
    if any("/level" in name for name in metrics.values):
        caption += " Level 0 has the least noise; a level has one color in all charts."
    charts = curves.charts_html(curves.run_charts(metrics))
    return f'<p class="note">{escape(caption)}</p>{charts}'


def _mode(folder: pathlib.Path) -> str:
    title = mode_title(folder.name)
    parts = [
        figure(path.read_bytes(), f"{title}: {words(path.stem)}", words(path.stem))
        for path in sorted(folder.glob("*.png"))
    ]
    for path in sorted(folder.glob("*.json")):
        figures, provenance = split_provenance(read_json(path))
        parts.append(_measured_on(provenance.get("measured_on")))
        shown = table(figures) if figures else ""
        is_long = _FOLDED.sub("", shown).count("<td>") > _MAX_CELLS
        parts.append(folded(f"all figures of {path.name}", shown) if is_long else shown)
        if provenance:
            parts.append(folded_json("settings and versions", provenance))
    return "\n".join(part for part in parts if part)


def _measured_on(found: Any) -> str:
    """What a result rests on, in a line."""
    if not isinstance(found, Mapping):
        return ""
    named = {k: v for k, v in found.items() if k not in _SAID_IN_FULL_ONLY and v is not None}
    said = "; ".join(f"{words(name)} {cell(value)}" for name, value in flatten(named).items())
    return f'<p class="measured">Measured on: {escape(said)}.</p>'
