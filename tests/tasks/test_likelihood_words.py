"""What --mode=likelihood says of numbers that are given."""

import re

import numpy as np
import pytest

from ebm_jax.evaluation.density.baselines import Baseline
from ebm_jax.evaluation.density.log_likelihood import Bracket, Estimate, SplitEnergy, Units
from ebm_jax.tasks.likelihood import reporting

ENERGIES = {"training": SplitEnergy(4.0, 0.1, 50), "held out": SplitEnergy(5.0, 0.1, 50)}
# Of 50 images, alternating: the model and the Gaussians find the same ones hard.
HARD = np.tile([-1.0, 1.0], 25)
OF_IMAGES = {"held out": 5.0 + 30 * HARD + 0.7 * np.roll(HARD, 1)}
GAUSSIANS = [
    Baseline(number, {"held out": mean - 30 * HARD}) for number, mean in ((1, -9.0), (3, -6.0))
]
SPREAD = 0.7 / 7  # standard error of the difference: 49 degrees of freedom


def bracket(forward, reverse):
    return Bracket(100, Estimate(forward, 0.1, 50.0), Estimate(reverse, 0.1, 50.0))


@pytest.mark.parametrize(
    ("sides", "of_gaussian", "of_mixture"),
    [
        ((0.0, 0.2), "beats", "beats"),  # log-likelihoods of -5 to -5.2
        ((2.0, 2.5), "beats", "does not beat"),
        ((0.9, 1.1), "beats", "cannot, by this bracket and its errors, be told from"),
        ((0.0, 5.0), *["cannot, by this bracket and its errors, be told from"] * 2),
        ((50.0, 2.0), "cannot be compared with", "cannot be compared with"),  # inverted
    ],
)
def test_the_verdict_asks_for_two_standard_errors_of_the_difference(sides, of_gaussian, of_mixture):
    """Each likelihood alone has an error of 4 nats, their difference one of .1."""
    margins = reporting.margins(bracket(*sides), OF_IMAGES, GAUSSIANS, "held out")
    for found, mean in zip(margins, (4.0, 1.0), strict=True):
        assert found["upper"] == pytest.approx(mean - sides[0])
        assert found["lower"] == pytest.approx(mean - sides[1])
        assert found["standard_error_lower"] == pytest.approx(np.hypot(SPREAD, 0.1))
    found = reporting.verdict(bracket(*sides), margins, GAUSSIANS, "held out")
    pattern = rf"held out, this model {of_gaussian} one Gaussian(.*), and {of_mixture} a mixture"
    assert re.match(pattern, found)
    nats = reporting.baseline_metrics(GAUSSIANS, margins, Units(4, 0.5))
    assert [b["model_has_more_nats_held_out"] for b in nats] == margins


def test_the_verdict_gives_the_difference():
    margins = reporting.margins(bracket(0.0, 0.25), OF_IMAGES, GAUSSIANS[:1], "held out")
    found = reporting.verdict(bracket(0.0, 0.25), margins, GAUSSIANS[:1], "held out")
    assert found == (
        "held out, this model beats one Gaussian (+3.75 +- 0.14 to +4.00 +- 0.14 nats)"
    )


@pytest.mark.filterwarnings("error")
def test_a_claim_is_the_energy_and_its_log_z():
    assert reporting.claimed_metrics(None, ENERGIES, Units(4, 0.5)) is None
    assert reporting.claimed_lines(None) == []
    found = reporting.claimed_metrics(0.5, ENERGIES, Units(4, 0.0))
    assert found == {"log_z": 0.5, "log_likelihood_nats": {"training": -4.5, "held out": -5.5}}
    found = reporting.claimed_metrics(0.5, ENERGIES, Units(4, 0.5))
    assert found["bits_per_dim"]["training"] == pytest.approx(4.5 / (4 * 0.6931472) + 1)
    (line,) = reporting.claimed_lines(found)
    assert line.startswith("the model claims a log Z of 0.50: training -4.50 nats, 2.623 bits/dim;")
