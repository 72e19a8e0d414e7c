"""What the fields of long chains do, on a run that is known."""

import numpy as np
import pytest
from effects_stubs import full_bars, stubs
from effects_table import shows
from known_model import VARIANCE, config_of, rows_of, run

from ebm_jax.evaluation.density import long_run as chains

__all__ = ["full_bars", "run", "stubs"]


def first_record(found, step):
    return next(record for record in found["records"] if record["step"] == step)


@shows(*rows_of("long_run"))
def test_long_chains(run, monkeypatch):
    made, usual = [], chains.make_kernel
    monkeypatch.setattr(
        chains, "make_kernel", lambda name, n: made.append((name, n)) or usual(name, n)
    )
    short = ("long_run.num_steps", "long_run.num_chains")
    noisy = run("long_run", config_of(*short, "long_run.start", "long_run.level"))
    assert {record["level"] for record in noisy["records"]} == {2}
    assert all(record["acceptance"] == 1 for record in noisy["records"])
    start = first_record(noisy, 0)
    assert start["contrast"] == pytest.approx(1, rel=0.35)
    assert start["energy"] == pytest.approx(2 / VARIANCE[2], rel=0.8)
    assert noisy["real_images"]["energy"] == pytest.approx(2, abs=4 * np.sqrt(2 / 120))
    assert noisy["step_sizes_by_level"] == {}

    slow = run("long_run", config_of(*short, "long_run.step_size"))
    assert slow["records"][-1]["step"] == 20
    assert slow["measured_on"]["num_samples"] == 16
    assert {record["level"] for record in slow["records"]} == {0}
    start = first_record(slow, 0)
    assert start["contrast"] == pytest.approx(np.sqrt(VARIANCE[0]), rel=0.35)
    assert slow["real_images"]["energy"] == pytest.approx(2, abs=4 * np.sqrt(2 / 120))
    moved = np.sqrt(2e-4) * 1.88  # mean norm of four normals
    assert first_record(slow, 1)["displacement"] == pytest.approx(moved, rel=4 * 0.37 / 4)
    assert slow["step_sizes_by_level"] == {"0": pytest.approx(1e-4)}

    made.clear()
    fields = ("long_run.sampler", "long_run.num_leapfrog_steps")
    tested = run("long_run", config_of(*short, *fields))
    assert made[0] == ("hmc", 3)
    acceptance = [record["acceptance"] for record in tested["records"][1:]]
    assert min(acceptance) < 1
    assert 0.4 < np.mean(acceptance) < 0.99
    assert tested["step_sizes_by_level"]["0"] > 0.05
