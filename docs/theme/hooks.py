"""Hooks of mkdocs: parts of other files in a page, links that hold on GitHub and here, equations.

`<!-- include: README.md#start -->` on a line of its own stands for the section "Start" of README.md
without its heading; without `#...` for the whole file without its title, and for a program for its
code. A paragraph is so written once, and shown once.
"""

import posixpath
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
# Where files that are no page of the site are read there.
_PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "guides/contributing.md",
    "CHANGELOG.md": "changelog.md",
}
_INCLUDE = re.compile(r"^<!-- include: ([^\s#]+)(?:#([\w-]+))? -->$", re.MULTILINE)
_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^(#+) (.*)$", re.MULTILINE)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_INLINE_MATH = re.compile(r"\$`([^`\n]+)`\$")


def on_config(config):
    """Blocks of the language `math` become MathML, which needs no script to be shown."""
    fence = {"name": "math", "class": "math", "format": _display_math}
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = [fence]
    return config


def on_files(files, config):
    """Notebooks become pages: their text and their code, without what the code gives."""
    for path in sorted((ROOT / "docs/notebooks").glob("*.py")):
        content = _notebook(path.read_text(encoding="utf-8"))
        uri = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    """The page's Markdown, put together; pictures from outside of docs/ join the files."""
    source = f"docs/{page.file.src_uri}"
    parts, end = [], 0
    for match in _INCLUDE.finditer(markdown):
        parts += [(source, markdown[end : match.start()]), _included(match[1], match[2])]
        end = match.end()
    parts.append((source, markdown[end:]))
    return "".join(_placed(text, origin, page, config, files) for origin, text in parts)


def _display_math(source, *_, **__):
    return f'<div class="equation">{_mathml(source, "block")}</div>'


def _mathml(source, display="inline"):
    """MathML; a sign binds, and a function's name stands off from the letter after it."""
    name = r"(<mi>[a-z]{2,}</mi>)(?=<m(?:i|sub|sup|row|over|style)\b)"
    mathml = convert(source, display=display).replace("<mi>&#x0007E;</mi>", "<mo>&#x223C;</mo>")
    after = r"(<mo[^>]*>(?:&#x00028;|&#x0003D;|&#x0005B;)</mo>)<mo>&#x02212;</mo>"  # ( = [
    mathml = re.sub(after, r'\1<mo form="prefix">&#x02212;</mo>', mathml)
    return re.sub(name, r'\1<mspace width="0.17em"/>', mathml)


def _notebook(text):
    """Markdown of a notebook in jupytext's percent format; equations between dollars as ours."""
    parts = []
    for cell in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        kind, _, body = cell.partition("\n")
        if "[markdown]" not in kind:
            parts.append(f"```python\n{body.strip()}\n```")
            continue
        prose = re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE)
        prose = re.sub(r"\$\$(.+?)\$\$", r"\n```math\n\1\n```\n", prose, flags=re.DOTALL)
        parts.append(re.sub(r"(?<![`$])\$([^`$]+)\$(?!`)", lambda m: f"$`{_line(m[1])}`$", prose))
    return "\n\n".join(parts) + "\n"


def _line(text):
    return " ".join(text.split())


def _included(path, anchor):
    """(path, text) of a file or one of its sections."""
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.endswith(".py"):
        return path, f"```python\n{text.rstrip()}\n```"
    hidden = _FENCED.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)  # comments are no headings
    headings = list(_HEADING.finditer(hidden))
    for i, heading in enumerate(headings):
        if anchor in (None, _slug(heading[2])):
            level = len(heading[1])
            later = () if anchor is None else headings[i + 1 :]
            ends = [h.start() for h in later if len(h[1]) <= max(level, 2)]
            return path, text[heading.end() : ends[0] if ends else len(text)].strip() + "\n"
    raise ValueError(f"{path} has no section #{anchor}")


def _slug(heading):
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def _placed(text, origin, page, config, files):
    """A part of a page with its links and equations as the page needs them; code as it is."""

    def prose(text):
        text = _INLINE_MATH.sub(lambda match: f"<span>{_mathml(match[1])}</span>", text)
        return _LINK.sub(lambda match: _link(match, origin, page, config, files), text)

    parts, end = [], 0
    for fenced in _FENCED.finditer(text):
        parts += [prose(text[end : fenced.start()]), fenced[0]]
        end = fenced.end()
    return "".join([*parts, prose(text[end:])])


def _title(uri):
    """The title of a page."""
    return re.search(r"^# (.*)$", (ROOT / "docs" / uri).read_text(encoding="utf-8"), re.M)[1]


def _link(match, origin, page, config, files):
    is_image, label, target = match.groups()
    path, _, anchor = target.partition("#")
    if re.match(r"\w+:", target) or (not path and origin == f"docs/{page.file.src_uri}"):
        return match[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), path)) if path else origin
    path = re.sub(r"^(docs/notebooks/\w+)\.py$", r"\1.md", path)
    if path in _PAGES:
        uri, anchor = _PAGES[path], ""
    elif path.startswith("docs/"):
        uri = path.removeprefix("docs/")
    elif is_image:
        uri = path
        if files.get_file_from_path(uri) is None:
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    else:  # a file that is read in the repository
        return label if path in label else f"{label} (`{path}`)"
    if label.endswith(".md") and not anchor:  # a path says nothing here
        label = _title(uri)
    uri = posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")
    return f"{is_image}[{label}]({uri}{'#' if anchor else ''}{anchor})"
