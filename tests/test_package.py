"""The package as it is installed: configs by name, and the wheel outside of the tree."""

import pathlib
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from main_processes import TINY, run_main

import ebm_jax
from ebm_jax import models

ROOT = pathlib.Path(ebm_jax.__file__).parents[1]


def test_a_config_by_its_name(tmp_path):
    """The same run as by its path, whose workdir it goes on in."""
    by_name = ["--config=digits" if word == TINY[0] else word for word in TINY]
    steps = "--config.training.num_steps="
    assert run_main(*by_name, f"--workdir={tmp_path}", f"{steps}1").code == 0
    assert run_main(*TINY, f"--workdir={tmp_path}", f"{steps}2").code == 0
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("words", [["--config=digit"], ["--config", "digit:t1k"]])
def test_a_name_that_there_is_not(words, tmp_path):
    result = run_main(*words, f"--workdir={tmp_path / 'run'}")
    assert result.code == 2
    assert result.err == (
        "main.py: --config: expected the path or the name of a config, got 'digit'; did you mean "
        "'digits'?\n"
    )


@pytest.mark.slow
def test_the_wheel_outside_of_the_tree(tmp_path, monkeypatch):
    """Made of the sdist, unpacked beside this environment's libraries, run in an empty folder."""
    monkeypatch.delenv("PYTHONPATH", raising=False)  # or pip finds the package in the tree
    venv, made = tmp_path / "venv", tmp_path / "dist"
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    python = venv / "bin/python"
    subprocess.run([str(python), "-m", "pip", "-q", "install", "build"], check=True)
    subprocess.run([str(python), "-m", "build", "--outdir", str(made), str(ROOT)], check=True)
    (sdist,), (wheel,) = made.glob("*.tar.gz"), made.glob("*.whl")
    assert sdist.name == f"ebm_jax-{ebm_jax.__version__}.tar.gz"
    assert wheel.name.startswith(f"ebm_jax-{ebm_jax.__version__}-")
    subprocess.run([str(python), "-m", "pip", "-q", "install", "--no-deps", str(wheel)], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    libraries = pathlib.Path(sysconfig.get_paths()["purelib"])
    for path in libraries.iterdir():  # all of them but this project's own, which is editable
        if "ebm_jax" not in path.name and not (site / path.name).exists():
            (site / path.name).symlink_to(path)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"configs/digits.py", "ebm_jax/main.py", "ebm_jax/py.typed"} <= names
    for name in models.names():
        assert f"ebm_jax/released/{name}/weights.safetensors" in names
    assert {f"ebm_jax/io/report/page.{kind}" for kind in ("css", "js")} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "main.py"))]
    (folder := tmp_path / "empty").mkdir()
    flags = ["--config=digits", *TINY[1:], "--workdir=run", "--config.training.num_steps=2"]
    for mode in ("train", "sample"):
        subprocess.run(
            [str(venv / "bin/ebm-jax"), *flags, f"--mode={mode}"], cwd=folder, check=True
        )
    assert (folder / "run/sample/samples.png").exists()
    code = "from ebm_jax import models; print(*models.names())"
    said = subprocess.run([str(python), "-c", code], cwd=folder, check=True, capture_output=True)
    assert said.stdout.decode().split() == models.names()
