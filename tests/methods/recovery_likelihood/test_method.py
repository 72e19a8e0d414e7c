"""Settings that recovery likelihood refuses, or that exclude each other."""

import pytest

from ebm_jax.methods import RecoveryLikelihood
from ebm_jax.methods.recovery_likelihood import RecoverySampler
from ebm_jax.networks import EnergyMLP

MLP = EnergyMLP(width=8, depth=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": -1}, "num_steps: expected a whole number >= 1, got -1"),
        ({"num_steps": 0}, "num_steps: expected a whole number >= 1, got 0"),
        ({"step_scale": 0.0}, r"step_scale: expected a number > 0, got 0\.0"),
        ({"step_scale": -1.0}, r"step_scale: expected a number > 0, got -1\.0"),
        ({"transition": "normal"}, "transition: expected one of langevin, gaussian, got 'normal'"),
        ({"transition_variance": "none"}, "transition_variance: expected one of step, posterior"),
        ({"transition_variance": "posterior"}, "read with transition='gaussian' alone"),
        (
            {"transition": "gaussian", "sampler": RecoverySampler(num_steps=5)},
            r"sampler.num_steps: expected 0, as the gaussian transition is one step, got 5",
        ),
        ({"num_pairs": 700}, "expected 1 to 501, or 1000 for the fine schedule, got 700"),
        ({"noise_levels": (0.1, 0.2)}, "num_pairs: expected 2, the number of noise_levels, got 6"),
    ],
)
def test_what_cannot_be_trained_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RecoveryLikelihood(MLP, **settings)
