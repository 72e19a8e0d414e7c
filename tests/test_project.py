"""The project's own files agree with each other."""

import pathlib
import tomllib

ROOT = pathlib.Path(__file__).parent.parent


def test_requirements_match_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == project["dependencies"]


def test_runtime_needs_neither_tensorflow_nor_torch():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = " ".join(project["dependencies"]).replace("tensorflow-datasets", "")
    assert "tensorflow" not in names
    assert "torch" not in names
