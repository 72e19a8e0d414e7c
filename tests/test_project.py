"""The project's own files agree with each other."""

import json
import pathlib
import re
import tomllib

import ebm_jax

ROOT = pathlib.Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]


def test_requirements_match_pyproject():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == PROJECT["dependencies"]


def test_runtime_needs_neither_tensorflow_nor_torch():
    names = " ".join(PROJECT["dependencies"]).replace("tensorflow-datasets", "")
    assert "tensorflow" not in names
    assert "torch" not in names


def test_pythons_are_the_same_everywhere():
    """Those of the classifiers are the ones that .ci/matrix tests; the first is the lowest."""
    named = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if ":: Python ::" in c]
    rows = (ROOT / ".ci" / "matrix").read_text()
    assert sorted(set(re.findall(r'^row ".*" (3\.\d+)', rows, flags=re.MULTILINE))) == named
    assert PROJECT["requires-python"] == f">={named[0]}"
    assert PYPROJECT["tool"]["ruff"]["target-version"] == f"py{named[0].replace('.', '')}"
    assert PYPROJECT["tool"]["pyright"]["pythonVersion"] == named[0]


def test_types_are_shipped():
    assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"]["ebm_jax"]
    assert (pathlib.Path(ebm_jax.__file__).parent / "py.typed").is_file()


def test_strict_types_are_those_of_files_that_exist():
    strict = json.loads((ROOT / ".ci" / "strict.json").read_text())
    for path in strict["include"]:
        assert (ROOT / ".ci" / path).exists(), path


def test_version_is_the_same_everywhere():
    (cited,) = re.findall(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited == ebm_jax.__version__
    assert PROJECT["dynamic"] == ["version"]  # of the package


def test_papers_of_the_readme_are_cited():
    cited = (ROOT / "CITATION.cff").read_text()
    start = (ROOT / "README.md").read_text().partition("\n## ")[0]
    for number in re.findall(r"arxiv\.org/abs/([\d.]+)", start):
        assert f"https://arxiv.org/abs/{number}" in cited
