"""Pieces of HTML: tables of what JSON files hold, figures, folded parts. All text is escaped."""

import base64
import html
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

_MAX_ROWS = 12  # of a table that is shown open


def escape(text: Any) -> str:
    """A value as text of HTML, or of an attribute."""
    return html.escape(str(text))


def words(name: str) -> str:
    """A name as words."""
    return name.replace("_", " ")


def folded(title: str, content: str) -> str:
    """Content under a line that opens it."""
    return f"<details><summary>{escape(title)}</summary>{content}</details>"


def folded_json(title: str, content: Any) -> str:
    """A JSON value as it stands in its file, folded."""
    return folded(title, f"<pre>{escape(json.dumps(content, indent=2))}</pre>")


def image(png: bytes, alt: str) -> str:
    """A PNG file within the page."""
    data = base64.b64encode(png).decode()
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{data}">'


def figure(png: bytes, alt: str, caption: str) -> str:
    """A PNG file within the page, and what stands under it."""
    return f"<figure>{image(png, alt)}<figcaption>{escape(caption)}</figcaption></figure>"


def table(values: Mapping[str, Any]) -> str:
    """A mapping as HTML: a row per name; rows of mappings with common names become columns.

    Lists of mappings are tables of their own, long ones folded; lists of sentences are lists.
    """
    values = {name: value for name, value in values.items() if value not in ({}, [])}
    mappings = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    listed = {name: value for name, value in values.items() if _is_listed(value)}
    plain = {k: value for k, value in values.items() if k not in mappings and k not in listed}
    parts = []
    if plain:
        parts.append(rows([], [[words(name), cell(value)] for name, value in plain.items()]))
    parts += [_list(name, value) for name, value in listed.items()]
    flat = {name: flatten(value) for name, value in mappings.items()}
    columns = dict.fromkeys(key for row in flat.values() for key in row)
    shared = [key for key in columns if sum(key in row for row in flat.values()) > 1]
    if len(shared) * 2 > len(columns):
        body = [
            [words(name), *(cell(row.get(key, "")) for key in columns)]
            for name, row in flat.items()
        ]
        parts.append(rows(["", *map(words, columns)], body))
    else:
        parts += [
            f"<h3>{escape(words(name))}</h3>{table(value)}" for name, value in mappings.items()
        ]
    return "\n".join(parts)


def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table of text; the first column names the rows."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(text)}</td>" for text in row[1:])
        + "</tr>"
        for row in body
    )
    start = f"<thead><tr>{top}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{start}<tbody>{lines}</tbody></table></div>'


def flatten(value: Mapping[str, Any], prefix: str = "", separator: str = ", ") -> dict[str, Any]:
    """Leaves by the names on the way to them; an estimate with its interval is one leaf, a text."""
    flat: dict[str, Any] = {}
    for name, item in value.items():
        if is_estimate(item):
            low, high = (cell(item[end]) for end in ("low", "high"))
            flat[prefix + name] = f"{cell(item['value'])} ({low}, {high})"
        elif isinstance(item, Mapping):
            flat |= flatten(item, f"{prefix}{name}{separator}", separator)
        else:
            flat[prefix + name] = item
    return flat


def is_estimate(value: Any) -> bool:
    """Whether a JSON value is an estimate with its interval."""
    return isinstance(value, Mapping) and set(value) == {"value", "low", "high"}


def cell(value: Any) -> str:
    """A value of JSON as text: four digits of a number, the first entries of a list."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        shown = ", ".join(cell(item) for item in value[:12])
        return shown + (f", ... ({len(value)} in all)" if len(value) > 12 else "")
    return str(value)


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A JSON file; {} where it cannot be read, and 'values' where it is no mapping."""
    try:
        content = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {"values": content}


def _is_listed(value: Any) -> bool:
    """Whether a value is a list of mappings, or of sentences."""
    if not isinstance(value, list):
        return False
    return all(isinstance(item, Mapping) for item in value) or any(
        isinstance(item, str) and " " in item for item in value
    )


def _list(name: str, items: Sequence[Any]) -> str:
    title = f"<h3>{escape(words(name))}</h3>"
    if not isinstance(items[0], Mapping):
        lines = "".join(f"<li>{escape(item)}</li>" for item in items)
        return f"{title}<ul>{lines}</ul>"
    flat = [flatten(item) for item in items]
    columns = dict.fromkeys(key for row in flat for key in row)
    shown = rows(
        [*map(words, columns)], [[cell(row.get(key, "")) for key in columns] for row in flat]
    )
    if len(items) <= _MAX_ROWS:
        return title + shown
    return folded(f"{words(name)}: {len(items):,} rows", shown)
