"""What the modes say of densities and long chains that are given, word by word; JSON by hand."""

import numpy as np
import pytest

from ebm_jax.evaluation.density import long_run, plane
from ebm_jax.evaluation.density.baselines import Baseline, Likelihood
from ebm_jax.evaluation.density.grid2d import Comparison, Grid
from ebm_jax.evaluation.density.log_likelihood import Bracket, Estimate, SplitEnergy, Units
from ebm_jax.samplers import MOST_ROUGHNESS
from ebm_jax.tasks import (
    _density_fit,
    _movement,
)
from ebm_jax.tasks.likelihood import ends as annealed_ends
from ebm_jax.tasks.likelihood import reporting, reverse_starts, through_conditionals
from ebm_jax.tasks.long_run import reporting as long_run_words


def approx(values):
    return pytest.approx(values, rel=1e-9)


def test_movement():
    assert _movement.warning(MOST_ROUGHNESS, [], "levels") == []
    (line,) = _movement.warning(2 * MOST_ROUGHNESS, list("abcdef"), "levels")
    assert line == (
        f"warning: the energy jumps by {2 * MOST_ROUGHNESS:.2g} nats between neighboring floats, "
        "which decides acceptance by noise; warm-up left chains that hardly move at 6 levels "
        "(a, b, c, d, e, ...)"
    )
    (line,) = _movement.warning(0.0, [4, 3, 2, 1, 0], "levels")
    assert line.endswith("hardly move at 5 levels (4, 3, 2, 1, 0)")
    found = _movement.metrics(0.25, "ends", (3,))
    assert found["roughness"] == {"nats": 0.25, "at": "ends", "too_large_from": MOST_ROUGHNESS}
    assert found["warm_up_left_stuck"] == [3]


def test_ends_of_annealing_are_weighed():
    """Weights 1 : 2 : 4 : 3 of ten. Data's energies 0 .. 100: quantiles 1 and 99."""
    ends = annealed_ends.Ends(
        np.zeros((4, 2)), np.array([0.5, 1.0, 99.5, 99.0]), 5 + np.log([1.0, 2.0, 4.0, 3.0])
    )
    assert ends.weights == approx([0.1, 0.2, 0.4, 0.3])
    far = ends._replace(log_weights=ends.log_weights + 5_000)
    assert far.weights == approx([0.1, 0.2, 0.4, 0.3])
    data = np.arange(101.0)
    found = annealed_ends.compare(
        ends, data, np.array([4.0, 1.0, 2.0, 3.0]), np.array([5.0, 2.0, 4.0])
    )
    assert found.mean_energy == approx(0.05 + 0.2 + 39.8 + 29.7)
    assert (found.data_energy, found.below, found.above) == approx((50.0, 0.1, 0.4))
    assert found.heaviest == approx(0.4)
    assert found.distance_over_data == 0.5  # by weight the median distance is 2; of data it is 4
    assert annealed_ends.compare(ends, data, None, None).distance_over_data is None
    assert annealed_ends.compare(ends, data, np.ones(4), None).distance_over_data is None
    in_single = annealed_ends.Ends(
        ends.x, ends.energies.astype(np.float32), np.log(np.float32([1e-3, 2, 4, 3])) + 1_000
    )
    given = (data.astype(np.float32), np.ones(4, np.float32), np.ones(3, np.float32))
    assert {type(value) for value in annealed_ends.compare(in_single, *given)} == {float}
    one = annealed_ends.Ends(np.zeros((1, 2)), np.zeros(1), np.zeros(1))
    assert (
        annealed_ends.compare(one, data, np.array([3.0]), np.array([2.0])).distance_over_data == 1.5
    )


def test_what_is_said_of_the_ends():
    found = annealed_ends.Found(12.34, 50.0, 0.5, 0.25, 0.4, 1.234)
    assert annealed_ends.lines(found) == [
        "forward annealing ends at a mean energy of 12.3 nats, where held-out data have 50.0; 50% "
        "of the weight is at energies below those of 99 % of the data, 25% above; the heaviest "
        "chain has 40% of it; the nearest training image is 1.23 times as far as from held-out "
        "images (annealed.png)"
    ]
    assert annealed_ends.metrics(found)["is_spurious"] is False
    spurious = found._replace(below=0.51, distance_over_data=None)
    (said,) = annealed_ends.lines(spurious)
    assert said.endswith(
        "chain has 40% of it: the model's mass is in modes that are no data, and its likelihoods "
        "are of these as much as of the data"
    )
    assert annealed_ends.metrics(spurious)["is_spurious"] is True
    assert annealed_ends.metrics(spurious)["below"] == 0.51


def test_the_fit_of_a_density_on_the_plane():
    fit = plane.DensityFit(
        grid=Grid(4.0, 9), comparison=Comparison(0.5, 0.25, 1.5, -2.0, 0.99), mass_outside=0.125,
        log_z=3.0, sample_distance=0.3, exact_distance=0.1, num_samples=10_000, noise_std=0.0123,
    )  # fmt: skip
    assert _density_fit.lines(fit, "moons") == [
        "learned density of moons plus noise of 0.0123, against the true one",
        "  KL(true || learned)      0.5000 nats",
        "  total variation          0.2500",
        "  E_true[log learned]      -2.0000 nats",
        "  E_true[log true]         -1.5000 nats",
        "  learned mass outside     0.1250",
        f"samples, total variation over boxes of {8 / plane.NUM_BOXES:.3g}",
        "  10,000 samples           0.3000",
        "  as many exact samples    0.1000",
    ]
    found = _density_fit.metrics(fit, "moons")
    of = found["learned"].pop("of")
    assert "lowest noise level" in of
    assert found["learned"] == {
        "noise_std": 0.0123, "kl_true_to_learned": 0.5, "total_variation": 0.25,
        "expected_log_likelihood": -2.0, "entropy_of_true": 1.5, "mass_outside_data_square": 0.125,
        "log_z": 3.0,
    }  # fmt: skip
    assert found["grid"] == {"half_width": 4.0, "num_cells": [9, 9], "true_mass": 0.99}
    assert found["samples"] == {
        "total_variation": 0.3, "of_as_many_exact_samples": 0.1, "num_boxes": [plane.NUM_BOXES] * 2,
    }  # fmt: skip


def test_long_chains():
    of = long_run.Diagnosis("stable", ["first", "last"])
    r_hat = {"energy": 1.0, "median_of_values": 1.5, "largest": 2.25}
    assert long_run_words.lines("chains", {0: of}, r_hat) == [
        "chains: stable", "  first", "  last",
        "  split R-hat of the second half: energy 1.000, values 1.500 in the median, 2.250 at most",
    ]  # fmt: skip
    assert long_run_words.lines("chains", {0: of}, {"energy": np.nan})[-1] == "  last"
    assert long_run_words.lines("chains", {3: of, 1: of}, r_hat) == [
        "chains:", "  level 3: stable; last", "  level 1: stable; last",
    ]  # fmt: skip
    real = long_run.Reference(1, 2, 3, 4, None, 5, 6)
    found = long_run_words.of_real(real._replace(fit="large"), "too few")
    assert found["fit"] is None
    assert found["frechet_not_measured"] == "too few"
    assert found["frechet_floor"] == 5


UNITS = Units(4, 0.5)


BITS = 4 * np.log(2)  # nats of one bit per value


BRACKETS = [
    Bracket(10, Estimate(1.0, 0.1, 5.0), Estimate(2.5, 0.2, 6.0)),
    Bracket(1_000, Estimate(BITS, 0.3, 5.0), Estimate(2 * BITS, 0.4, 6.0)),
]


ENERGIES = {"training": SplitEnergy(BITS, 0.4, 1_500), "held out": SplitEnergy(2 * BITS, 0.3, 9)}


def test_likelihoods_as_a_table():
    """log p = -E - log Z in bits per value: 2 and 3 of training, 3 and 4 held out, and 1 more."""
    plain = reporting.lines(BRACKETS, ENERGIES, UNITS._replace(bin_width=0.0))
    assert plain == [
        "log Z in nats   temperatures        forward            reverse      width",
        "                          10       1.00 +- 0.10        2.50 +- 0.20       1.50",
        "                       1,000       2.77 +- 0.30        5.55 +- 0.40       2.77",
        "training, 1,500 images: log-likelihood -8.32 +- 0.57 to -5.55 +- 0.50 nats",
        "held out, 9 images: log-likelihood -11.09 +- 0.50 to -8.32 +- 0.42 nats",
    ]
    in_bits = reporting.lines(BRACKETS, ENERGIES, UNITS)
    assert in_bits[3] == plain[3] + ", 3.000 to 4.000 bits/dim"
    assert in_bits[4] == plain[4] + ", 4.000 to 5.000 bits/dim"


def test_likelihoods_for_the_json():
    found = reporting.metrics(BRACKETS, ENERGIES, UNITS)
    assert found["log_z"][0] == {
        "num_temperatures": 10, "width": 1.5,
        "forward": {"log_z": 1.0, "standard_error": 0.1, "ess": 5.0},
        "reverse": {"log_z": 2.5, "standard_error": 0.2, "ess": 6.0},
    }  # fmt: skip
    training = found["splits"]["training"]
    assert training["bits_per_dim"] == approx({"lower": 3.0, "upper": 4.0})
    assert training["log_likelihood_nats"]["lower"] == approx(-3 * BITS)
    assert training["energy"]["num_images"] == 1_500
    assert reporting.units_metrics(UNITS)["num_values"] == 4
    assert reporting.units_metrics(UNITS)["bin_width"] == 0.5
    points = reporting.metrics(BRACKETS, ENERGIES, UNITS._replace(bin_width=0.0))
    assert "bits_per_dim" not in points["splits"]["training"]


def test_what_bounds_what():
    said = reporting.meaning("Its starts are Y.", UNITS)
    assert said[0].endswith("upper bounds, and bits/dim lower bounds.")
    assert "then log-likelihoods by it are lower bounds, and bits/dim upper bounds." in said[1]
    assert said[1].endswith(". Its starts are Y.")
    points = reporting.meaning("", UNITS._replace(bin_width=0.0))
    assert points[0].endswith("upper bounds.")


@pytest.mark.parametrize(
    ("energy", "values", "says"),
    [
        (0, 0, "are training examples: as far as these are not the model's own, it bounds nothing"),
        (
            1.1,
            1.1,
            "after 1,000 steps of HMC, by which the chains agree (split R-hat of the energy",
        ),
        (
            1.0,
            1.11,
            "which have not forgotten where they began (split R-hat of the energy 1.00, of",
        ),
        (
            1.11,
            1.0,
            "not forgotten where they began (split R-hat of the energy 1.11, of the values",
        ),
        (1.0, float("nan"), "which have not forgotten where they began"),
        (float("nan"), 1.0, "which have not forgotten where they began"),
    ],
)
def test_what_starts_reverse_annealing(energy, values, says):
    found = {"energy": energy, "median_of_values": values, "largest": 3.0} if energy else None
    starts = reverse_starts.Starts(np.zeros((2, 1)), found)
    assert says in reverse_starts.words(starts, 1_000)
    in_json = reverse_starts.metrics(starts, 1_000)
    assert in_json == {"num_steps": 1_000, "split_r_hat": found, "enough_at_most": 1.1}


def test_directions_that_are_inverted():
    """By more than three standard errors of both: 3 and 4 give 5."""

    def bracket(reverse):
        return Bracket(10, Estimate(0.0, 3.0, 1.0), Estimate(reverse, 4.0, 1.0))

    assert reporting.crossing(bracket(-15.0)) == []
    assert reporting.crossing(bracket(15.1)) == []
    (said,) = reporting.crossing(bracket(-15.1))
    assert said.startswith("Reverse lies 15.1 nats below forward: ")


def test_bounds_of_parts_of_the_levels_add_up():
    """Two parts, of two levels and of one, on three images."""
    parts = [
        {"lower": np.array([1.0, 2.0, 4.0]), "upper": np.array([2.0, 3.0, 9.0]),
         "widths": np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]])},
        {"lower": np.array([10.0, 20.0, 40.0]), "upper": np.array([11.0, 22.0, 50.0]),
         "widths": np.array([[7.0], [8.0], [12.0]])},
    ]  # fmt: skip
    found = through_conditionals._together(parts, 3)
    for side, values in ((found.lower, [11, 22, 44]), (found.upper, [13, 25, 59])):
        assert side == approx((np.mean(values), np.std(values, ddof=1) / np.sqrt(3)))
    assert (found.widths, found.num_images) == ([3.0, 5.0, 9.0], 3)


def test_bounds_through_the_conditionals():
    bound = reporting.ThroughConditionals(
        Likelihood(-3 * BITS, 0.1), Likelihood(-2 * BITS, 0.2), [0.5], 1_200
    )
    (line,) = reporting.conditional_lines({"held out": bound}, UNITS)
    assert line == (
        "through the conditionals, held out, 1,200 images: -8.32 +- 0.10 to -5.55 +- 0.20 nats, "
        "3.000 to 4.000 bits/dim"
    )
    (line,) = reporting.conditional_lines({"a": bound}, UNITS._replace(bin_width=0.0))
    assert line.endswith(" nats")
    found = reporting.conditional_metrics({"a": bound}, UNITS)["a"]
    assert found["num_images"] == 1_200
    assert found["log_likelihood_nats"] == approx(
        {"lower": -3 * BITS, "upper": -2 * BITS, "standard_error_lower": 0.1,
         "standard_error_upper": 0.2}
    )  # fmt: skip
    assert found["bits_per_dim"] == approx({"lower": 3.0, "upper": 4.0})


def test_fitted_densities():
    fitted = [Baseline(2, {"held out": -BITS + np.array([-0.25, 0.25])})]
    assert reporting.baseline_lines(fitted, UNITS) == [
        "a mixture of 2 Gaussians, exact: held out -2.77 +- 0.25 nats, 2.000 bits/dim"
    ]
    points = UNITS._replace(bin_width=0.0)
    assert reporting.baseline_lines(fitted, points)[0].endswith(" nats")
    (found,) = reporting.baseline_metrics(fitted, UNITS)
    assert found["num_components"] == 2
    assert found["splits"]["held out"] == approx(
        {"log_likelihood_nats": -BITS, "standard_error": 0.25, "bits_per_dim": 2.0}
    )
    (found,) = reporting.baseline_metrics(fitted, points)
    assert "bits_per_dim" not in found["splits"]["held out"]
