"""The notebooks run, and their own assertions hold: closed forms, R-hat, divergences."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parent.parent
NAMES = sorted(path.stem for path in (ROOT / "docs" / "notebooks").glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs(name, tmp_path):
    for package in ("jupytext", "nbclient", "ipykernel", "arviz", "blackjax"):
        pytest.importorskip(package)
    import notebooks

    source = ROOT / "docs" / "notebooks" / f"{name}.py"
    notebook = notebooks.execute(source, tmp_path)
    assert notebooks.picture(notebook).size[0] > 400


@pytest.mark.parametrize("name", NAMES)
def test_notebook_is_described_and_checks_itself(name):
    page = (ROOT / "docs" / "notebooks" / "README.md").read_text()
    assert f"]({name}.py)" in page
    assert f"](../images/notebooks/{name}.png)" in page
    assert (ROOT / "docs" / "images" / "notebooks" / f"{name}.png").stat().st_size < 80_000
    source = (ROOT / "docs" / "notebooks" / f"{name}.py").read_text()
    assert source.count("\nassert ") + source.count("\n    assert ") >= 4
    assert source.count('tags=["picture"]') == 1
