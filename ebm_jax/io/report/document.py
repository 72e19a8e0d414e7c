"""The page around its sections: head, style, script, headings."""

import html
import pathlib
from collections.abc import Mapping, Sequence

from ebm_jax.io.report.elements import escape

# What a browser is allowed: pictures in the page, and its own style and script.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def document(
    heading: str,
    subheading: str,
    sections: Sequence[tuple[str, str]],
    colors: Mapping[str, tuple[str, str]],
) -> str:
    """A whole page.

    Args:
      sections: (title, HTML). colors: by name of a CSS variable, on light and on dark ground.
    """
    links = " ".join(
        f'<a href="#section-{i}">{escape(title)}</a>' for i, (title, _) in enumerate(sections)
    )
    body = "\n".join(
        f'<section id="section-{i}"><h2>{escape(title)}</h2>\n{content}</section>'
        for i, (title, content) in enumerate(sections)
    )
    style = f"{_variables(colors)}\n{_beside('page.css')}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY, quote=False)}">'
        '\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(heading)}</title>\n<style>\n{style}</style>\n"
        '<link rel="icon" href="data:,">\n</head>\n<body>\n'
        f"<h1>{escape(heading)}</h1>\n<p>{escape(subheading)}</p>\n<nav>{links}</nav>\n"
        f"{body}\n<script>\n{_beside('page.js')}</script>\n</body>\n</html>\n"
    )


def _beside(name: str) -> str:
    return (pathlib.Path(__file__).parent / name).read_bytes().decode()


def _variables(colors: Mapping[str, tuple[str, str]]) -> str:
    light, dark = (" ".join(f"{name}: {both[i]};" for name, both in colors.items()) for i in (0, 1))
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
