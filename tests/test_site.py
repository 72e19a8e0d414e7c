"""The documentation site: it builds, its links hold, and it fetches nothing from elsewhere."""

import ast
import html.parser
import pathlib
import re
import subprocess
import sys
import urllib.parse

import pytest
from documents import ROOT

pytest.importorskip("mkdocs", reason="pip install -e '.[docs]'")
pytestmark = pytest.mark.slow

_RESOURCES = {"script": "src", "img": "src", "source": "src", "iframe": "src", "link": "href"}
_LINKS_TO_READ = ("canonical", "prev", "next", "alternate")  # rel of <link>s that fetch nothing


class Page(html.parser.HTMLParser):
    """The ids, links and resources of a page, and the text of its elements."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.ids, self.links, self.resources, self.classes = set(), [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        """Notes what the tag refers to."""
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        self.classes |= set(values.get("class", "").split())
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in _RESOURCES and values.get("rel") not in _LINKS_TO_READ:
            self.resources += [values[_RESOURCES[tag]]] if _RESOURCES[tag] in values else []
        self.resources += re.findall(r"url\(([^)]+)\)", values.get("style", ""))


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder that the README's command builds, with its pages by path."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder, {path: Page(path) for path in folder.rglob("*.html")}


def target(folder, page, link):
    """The file that a link of a page leads to."""
    path = urllib.parse.unquote(urllib.parse.urlsplit(link).path)
    if not path:
        return page
    found = folder / path[1:] if path.startswith("/") else page.parent / path
    found = found.resolve()
    return found / "index.html" if found.is_dir() else found


def test_every_link_image_and_anchor_resolves(site):
    folder, pages = site
    wrong = []
    for path, page in pages.items():
        for link in [*page.links, *page.resources]:
            if re.match(r"(https?|mailto|data):", link):
                continue
            to, anchor = target(folder, path, link), urllib.parse.urlsplit(link).fragment
            anchor = urllib.parse.unquote(anchor)
            is_there = to.is_file() and (not anchor or anchor in pages[to].ids)
            wrong += [] if is_there else [f"{path.relative_to(folder)}: {link}"]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_fetched_from_elsewhere(site):
    """No script, style, font or picture, and nothing for which the theme fetches a script."""
    folder, pages = site
    fetched = [
        (path.name, resource)
        for path, page in pages.items()
        for resource in page.resources
        if re.match(r"(https?:)?//", resource)
    ]
    for path in folder.rglob("*.css"):
        style = path.read_text(encoding="utf-8")
        found = re.findall(r"""(?:url\(|@import )\s*["']?((?:https?:)?//[^"')\s]+)""", style)
        fetched += [(path.name, address) for address in found]
    assert not fetched
    assert not any("mermaid" in page.classes for page in pages.values())


def test_every_page_of_the_docs_is_built_and_nothing_else_of_them(site):
    folder, pages = site
    built = {path.parent.relative_to(folder).as_posix() for path in pages}
    docs = ROOT / "docs"
    for path in [*docs.rglob("*.md"), *docs.glob("notebooks/*.py")]:
        name = path.relative_to(docs).with_suffix("").as_posix()
        assert re.sub(r"(^|/)(index|README)$", "", name) in built | {""}, name
    assert not list(folder.rglob("*.py"))


def public_names():
    """What `ebm_jax.samplers` says that it exports: imported `as` itself, or defined there."""
    tree = ast.parse((ROOT / "ebm_jax/samplers/__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    names = {a.name for node in imports for a in node.names if a.asname == a.name}
    assigned = {n.target.id for n in tree.body if isinstance(n, ast.AnnAssign)}
    return names | assigned


def test_the_reference_has_every_name_of_the_samplers(site):
    folder, pages = site
    ids = pages[folder / "reference/sampler_functions/index.html"].ids
    shown = {name.rpartition(".")[2] for name in ids if name.startswith("ebm_jax.samplers.")}
    names = public_names()
    assert len(names) > 70
    assert {"normal", "uniform"} <= shown  # of the module `random`
    assert not names - {"random"} - shown


def test_includes_of_one_section_stand_on_one_page():
    """A section of README.md or CONTRIBUTING.md shows once."""
    found = [
        include
        for path in (ROOT / "docs").rglob("*.md")
        for include in re.findall(r"^<!-- include: (\S+) -->$", path.read_text(), re.MULTILINE)
    ]
    assert len(found) > 10
    assert len(found) == len(set(found))
