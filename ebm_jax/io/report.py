"""One HTML page of all that a workdir holds; it needs no network and no other file.

Every mode writes `<mode>/<name>.json` and PNG files beside it; what is in such a folder becomes a
section: the metrics as tables, the figures in the page, what they were measured on folded away.
"""

import base64
import html
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ebm_jax.io import plotting

_TITLES = {
    "samples": "Samples during training",
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
    "ood": "Out-of-distribution detection",
    "neighbours": "Memorization and nearest neighbors",
    "fid": "Frechet and kernel distances",
    "fid_stats": "Reference statistics",
}
_PROVENANCE = ("mode", "measured_on", "settings", "summary", "versions")  # folded away
_MAX_CELLS, _MAX_ROWS = 400, 12  # of what is shown open
_FOLDED = re.compile("<details>.*?</details>", re.DOTALL)

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
       max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; }
h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
h3 { font-size: 1rem; margin-bottom: .3rem; }
nav a { margin-right: 1rem; }
a { color: #0b4f8a; }
img { max-width: 100%; height: auto; image-rendering: auto; }
figure { margin: 1rem 0; break-inside: avoid; }
figcaption { color: #555; font-size: .875rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums;
        break-inside: avoid; }
th, td { padding: .15rem .7rem .15rem 0; text-align: right; border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 1px solid #888; vertical-align: bottom; }
pre { font-size: .8rem; overflow-x: auto; background: #f6f6f6; padding: .6rem; }
summary { cursor: pointer; color: #555; font-size: .875rem; }
@media print {
  body { max-width: none; margin: 0; font-size: 10pt; }
  nav, details:not([open]) { display: none; }
  h2 { break-after: avoid; }
}
"""


def page(workdir: pathlib.Path) -> str:
    """The page of a workdir.

    Raises:
      ValueError: where there is nothing to show; one line.
    """
    sections = [("Training", _training(workdir))]
    known = [name for name in _TITLES if (workdir / name).is_dir()]
    others = sorted(
        path.name
        for path in workdir.glob("*/")
        if path.name not in _TITLES and any(path.glob("*.json"))
    )
    for name in [*known, *others]:
        title = _TITLES.get(name, name.replace("_", " "))
        sections.append((title, _mode(workdir / name, title)))
    sections = [(title, body) for title, body in sections if body]
    if not sections:
        raise ValueError(f"{workdir} holds no metrics and no results: train, or run another mode")
    config = _read(workdir / "config.json")
    heading, subheading = _heading(config, workdir)
    run = "".join(
        _folded(title, f"<pre>{_escape(json.dumps(content, indent=2))}</pre>")
        for title, content in (
            ("configuration", config),
            ("versions and hardware of the training", _read(workdir / "versions.json")),
        )
        if content
    )
    links = " ".join(
        f'<a href="#section-{i}">{_escape(title)}</a>' for i, (title, _) in enumerate(sections)
    )
    body = "\n".join(
        f'<section id="section-{i}"><h2>{_escape(title)}</h2>\n{content}</section>'
        for i, (title, content) in enumerate(sections)
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(heading)}</title>\n<style>{_STYLE}</style>\n"
        '<link rel="icon" href="data:,">\n</head>\n<body>\n'
        f"<h1>{_escape(heading)}</h1>\n<p>{_escape(subheading)}</p>\n<nav>{links}</nav>\n"
        f"{body}\n<section><h2>This run</h2>\n{run}</section>\n</body>\n</html>\n"
    )


def table(values: Mapping[str, Any]) -> str:
    """A mapping as HTML: a row per name; rows of mappings with common names become columns.

    Lists of mappings are tables of their own, long ones folded; lists of sentences are lists.
    """
    values = {name: value for name, value in values.items() if value not in ({}, [])}
    rows = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    listed = {name: value for name, value in values.items() if _is_listed(value)}
    plain = {k: value for k, value in values.items() if k not in rows and k not in listed}
    parts = []
    if plain:
        parts.append(_rows([], [[name, _cell(value)] for name, value in plain.items()]))
    parts += [_list(name, value) for name, value in listed.items()]
    flat = {name: _flat(value) for name, value in rows.items()}
    columns = list(dict.fromkeys(key for row in flat.values() for key in row))
    shared = [key for key in columns if sum(key in row for row in flat.values()) > 1]
    if len(flat) > 1 and len(shared) * 2 > len(columns):
        body = [[name, *(_cell(row.get(key, "")) for key in columns)] for name, row in flat.items()]
        parts.append(_rows(["", *columns], body))
    else:
        parts += [f"<h3>{_escape(_words(name))}</h3>{table(value)}" for name, value in rows.items()]
    return "\n".join(parts)


def _is_listed(value: Any) -> bool:
    """Whether a value is a list of mappings, or of sentences."""
    if not isinstance(value, list):
        return False
    return all(isinstance(item, Mapping) for item in value) or any(
        isinstance(item, str) and " " in item for item in value
    )


def _list(name: str, items: Sequence[Any]) -> str:
    title = f"<h3>{_escape(_words(name))}</h3>"
    if not isinstance(items[0], Mapping):
        lines = "".join(f"<li>{_escape(str(item))}</li>" for item in items)
        return f"{title}<ul>{lines}</ul>"
    flat = [_flat(item) for item in items]
    columns = list(dict.fromkeys(key for row in flat for key in row))
    shown = _rows(columns, [[_cell(row.get(key, "")) for key in columns] for row in flat])
    if len(items) <= _MAX_ROWS:
        return title + shown
    return _folded(f"{_words(name)}: {len(items):,} rows", shown)


def _heading(config: Mapping[str, Any], workdir: pathlib.Path) -> tuple[str, str]:
    if not config:
        return f"Run {workdir.name}", "config.json is not there"
    data, method, network = (_name(config, section) for section in ("data", "method", "network"))
    steps = sorted(int(p.name) for p in (workdir / "checkpoints").glob("*") if p.name.isdigit())
    trained = f"newest checkpoint: step {steps[-1]:,}" if steps else "no checkpoint yet"
    return f"{data}: {_words(method)}", f"network {network}; {trained}; seed {config.get('seed')}"


def _name(config: Mapping[str, Any], section: str) -> str:
    """What a section names: one thing, or one for each of its groups."""
    found = config.get(section)
    if not isinstance(found, Mapping):
        return f"unknown {section}"
    names = [found, *(group for group in found.values() if isinstance(group, Mapping))]
    return ", ".join(str(named["name"]) for named in names if "name" in named) or (
        f"unknown {section}"
    )


def _training(workdir: pathlib.Path) -> str:
    """Curves of metrics.jsonl: names before a slash share a panel."""
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
    except OSError:
        return ""
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue  # the half line of a run that is being written
    if not rows:
        return ""
    steps = np.array([row["step"] for row in rows])
    names = dict.fromkeys(name for row in rows for name in row if name not in ("step", "time"))
    panels: dict[str, dict[str, np.ndarray]] = {}
    for name in names:
        group, _, member = name.partition("/")
        values = [_number(row.get(name)) for row in rows]
        panels.setdefault(_words(group), {})[_words(member or group)] = np.array(values)
    curves = [
        plotting.Curves(title, steps, lines, x_label="training step")
        for title, lines in panels.items()
    ]
    picture = plotting.curves_picture(curves, columns=3)
    caption = f"{len(rows):,} logged steps, to step {steps[-1]:,}"
    return _figure(plotting.png(picture), "Training curves: " + ", ".join(panels), caption)


def _mode(folder: pathlib.Path, title: str) -> str:
    files = sorted(folder.glob("*.png"))
    if folder.name == "samples":
        files = files[-1:]
    images = [
        _figure(path.read_bytes(), f"{title}: {_words(path.stem)}", _words(path.stem))
        for path in files
    ]
    tables = []
    for path in sorted(folder.glob("*.json")):
        content = _read(path)
        figures = {k: v for k, v in content.items() if k not in _PROVENANCE}
        provenance = {k: v for k, v in content.items() if k in _PROVENANCE}
        if "checkpoint_step" in content:  # provenance and no more
            figures, provenance = {}, content
        shown = table(figures) if figures else ""
        is_long = _FOLDED.sub("", shown).count("<td>") > _MAX_CELLS
        tables.append(_folded(f"all figures of {path.name}", shown) if is_long else shown)
        if provenance:
            text = _escape(json.dumps(provenance, indent=2))
            tables.append(_folded("measured on", f"<pre>{text}</pre>"))
    return "\n".join([*images, *tables])


def _figure(content: bytes, alt: str, caption: str) -> str:
    data = base64.b64encode(content).decode()
    return (
        f'<figure><img alt="{_escape(alt)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{_escape(caption)}</figcaption></figure>"
    )


def _folded(title: str, content: str) -> str:
    return f"<details><summary>{_escape(title)}</summary>{content}</details>"


def _rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{_escape(_words(name))}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{_escape(_words(row[0]))}</th>'
        + "".join(f"<td>{_escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in body
    )
    start = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{start}<tbody>{lines}</tbody></table></div>'


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if isinstance(item, Mapping):
            if {"value", "low", "high"} == set(item):  # an estimate with its interval
                low, high = (_cell(item[end]) for end in ("low", "high"))
                flat[prefix + name] = f"{_cell(item['value'])} ({low}, {high})"
            else:
                flat |= _flat(item, f"{prefix}{name}, ")
        else:
            flat[prefix + name] = item
    return flat


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        shown = ", ".join(_cell(item) for item in value[:12])
        return shown + (f", ... ({len(value)} in all)" if len(value) > 12 else "")
    return str(value)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)  # "NaN" and "Infinity" are read too


def _read(path: pathlib.Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {"values": content}


def _words(name: str) -> str:
    return name.replace("_", " ")


def _escape(text: str) -> str:
    return html.escape(str(text))
