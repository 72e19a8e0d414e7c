"""--mode=continual as a command, on digits: the shipped config with fewer and shorter chains."""

import json

import numpy as np
import pytest

from configs import split_classes
from ebm_jax import tasks


@pytest.mark.slow
def test_digits_in_five_tasks(tmp_path):
    """A softmax network knows its last two classes alone; trained on all at once it knows all."""
    config = split_classes.get_config("digits")
    config.continual.update(
        num_passes=40, num_seeds=1, learners=("energies", "softmax", "softmax_joint")
    )
    config.method.num_steps = 5
    assert tasks.run("continual", config, tmp_path) == 0
    found = json.loads((tmp_path / "continual" / "continual.json").read_text())
    learners = found["learners"]
    softmax = np.array(learners["softmax"]["matrix"]["mean"])
    assert np.diag(softmax).mean() > 0.8
    assert learners["softmax"]["forgetting"]["mean"] > 0.8
    assert learners["softmax"]["final"]["mean"] < 0.3
    assert learners["softmax_joint"]["final"]["mean"] > 0.9
    # Energies of a task's classes tell them apart, though not those of other tasks.
    energies = learners["energies"]
    assert energies["final_within"]["mean"] > 0.6 > 0.5 > energies["final"]["mean"]
