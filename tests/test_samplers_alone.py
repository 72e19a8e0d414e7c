"""`pip install jax numpy` and `pip install --no-deps .` are enough for the samplers."""

import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def test_samplers_and_energies_run_without_anything_else():
    """The product of two standard normals has variance 1/2."""
    done = subprocess.run(
        [sys.executable, "-P", str(ROOT / "tests" / "samplers_alone.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    spread, without_arviz = done.stdout.splitlines()
    assert without_arviz.endswith("pip install 'ebm_jax[arviz]'")
    assert float(spread) == pytest.approx(0.5**0.5, rel=4 / (2 * 4_000) ** 0.5)
