"""Markdown read for tests: blocks of code, commands, names, links."""

import pathlib
import re
import shlex
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_NOT_RUN = re.compile(r"<!-- not run: .{8,} -->\s*$")
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block. section: the heading above it. is_run: it has no `<!-- not run: why -->`."""

    page: pathlib.Path
    section: str
    line: int
    language: str
    text: str
    is_run: bool


def blocks(page: pathlib.Path, language: str) -> list[Block]:
    """The blocks of a page in one language, in order."""
    text, found = page.read_text(encoding="utf-8"), []
    for match in _BLOCK.finditer(text):
        above = text[: match.start()]
        headings = re.findall(r"^#+ (.*)$", _BLOCK.sub("", above), flags=re.MULTILINE)
        is_run = _NOT_RUN.search(above) is None
        line = above.count("\n") + 2
        block = Block(page, headings[-1] if headings else "", line, match[1], match[2], is_run)
        found += [block] if match[1] == language else []
    return found


def run_in_order(some: list[Block]) -> dict[str, object]:
    """Executes blocks in one namespace, with the lines of the page in tracebacks; returns it."""
    names: dict[str, object] = {"__name__": "document"}
    for block in some:
        code = "\n" * (block.line - 1) + block.text
        exec(compile(code, str(block.page), "exec"), names)
    return names


def commands(text: str) -> list[list[str]]:
    """The commands of a shell block, split into words; comments and `\\` at line ends resolved."""
    lines = text.replace("\\\n", " ").splitlines()
    split = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [words for words in split if words]


def prose(page: pathlib.Path) -> str:
    """A page without its blocks of code."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def quoted(page: pathlib.Path) -> list[str]:
    """What stands in backticks in a page's prose."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def links(page: pathlib.Path) -> list[str]:
    """Targets of a page's links and images."""
    return re.findall(r"\]\(([^)\s]+)\)", prose(page))


def anchors(page: pathlib.Path) -> set[str]:
    """The names by which a page's headings are linked to."""
    headings = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}
