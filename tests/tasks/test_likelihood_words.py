"""What --mode=likelihood says of numbers that are given."""

import pytest

from ebm_jax.evaluation.density.baselines import Baseline, Likelihood
from ebm_jax.evaluation.density.log_likelihood import Bracket, Estimate, SplitEnergy, Units
from ebm_jax.tasks.likelihood import reporting

ENERGIES = {"training": SplitEnergy(4.0, 0.1, 50), "held out": SplitEnergy(5.0, 0.1, 50)}
GAUSSIANS = [
    Baseline(1, {"held out": Likelihood(-9.0, 0.1)}),
    Baseline(3, {"held out": Likelihood(-6.0, 0.1)}),
]


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
def test_the_verdict_asks_for_two_standard_errors(sides, of_gaussian, of_mixture):
    found = reporting.verdict(bracket(*sides), ENERGIES, GAUSSIANS, "held out")
    expected = f"{of_gaussian} one Gaussian, and {of_mixture} a mixture of 3 Gaussians"
    assert found == f"held out, this model {expected}"


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
