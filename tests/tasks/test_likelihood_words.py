"""What --mode=likelihood says of numbers that are given."""

import re
import types

import jax
import numpy as np
import pytest

from ebm_jax.evaluation.density.baselines import Baseline, Likelihood
from ebm_jax.evaluation.density.log_likelihood import Bracket, Estimate, Units
from ebm_jax.tasks.likelihood import mode, reporting, through_conditionals, through_flow
from ebm_jax.tasks.likelihood.settings import Settings

UNITS = Units(4, 0.5)

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


def test_the_verdict_gives_the_difference():
    margins = reporting.margins(bracket(0.0, 0.25), OF_IMAGES, GAUSSIANS[:1], "held out")
    found = reporting.verdict(bracket(0.0, 0.25), margins, GAUSSIANS[:1], "held out")
    assert found == (
        "held out, this model beats one Gaussian (+3.75 +- 0.14 to +4.00 +- 0.14 nats)"
    )


def test_the_verdict_where_the_directions_are_a_little_inverted():
    """The smaller end is named first, whichever way it is from."""
    margins = reporting.margins(bracket(0.25, 0.0), OF_IMAGES, GAUSSIANS[:1], "held out")
    found = reporting.verdict(bracket(0.25, 0.0), margins, GAUSSIANS[:1], "held out")
    assert found.endswith("beats one Gaussian (+3.75 +- 0.14 to +4.00 +- 0.14 nats)")


@pytest.mark.parametrize("sign", [-1, 1])
def test_two_standard_errors_are_not_yet_a_verdict(sign):
    ends = {"lower": sign * 0.5, "upper": sign * 2.0}
    errors = {"standard_error_lower": 0.25, "standard_error_upper": 0.25}
    found = reporting.verdict(bracket(0.0, 0.2), [ends | errors], GAUSSIANS[:1], "held out")
    assert "cannot, by this bracket and its errors, be told from one Gaussian" in found
    beyond = [ends | errors | {"standard_error_lower": 0.249}]
    found = reporting.verdict(bracket(0.0, 0.2), beyond, GAUSSIANS[:1], "held out")
    assert f"this model {'beats' if sign > 0 else 'does not beat'} one Gaussian" in found


@pytest.mark.filterwarnings("error")
def test_a_claim_is_the_energy_and_its_log_z():
    energies = {"training": 4.0, "held out": 5.0}
    found = reporting.claimed_metrics(0.5, energies, Units(4, 0.0))
    assert found == {"log_z": 0.5, "log_likelihood_nats": {"training": -4.5, "held out": -5.5}}
    found = reporting.claimed_metrics(0.5, energies, Units(4, 0.5))
    assert found["bits_per_dim"]["training"] == pytest.approx(4.5 / (4 * 0.6931472) + 1)
    (line,) = reporting.claimed_lines(found)
    assert line.startswith("the model claims a log Z of 0.50: training -4.50 nats, 2.623 bits/dim;")


def test_the_flows_density_beside_the_gaussians():
    """Of the first 40 of 50 images; a margin counts that is two of its errors from 0."""
    log_p = {"held out": -5.0 - 30 * HARD - 0.7 * np.roll(HARD, 1)}
    found = {
        name: through_flow.ThroughFlow(values[:40], values[:40] + 0.25)
        for name, values in log_p.items()
    }
    margins = through_flow.margins(found, GAUSSIANS, "held out")
    error = 0.7 / np.sqrt(39)
    for margin, more in zip(margins, (4.0, 1.0), strict=True):
        assert margin == pytest.approx((more, error))
    (line,) = through_flow.lines(found, Units(4, 0.5))
    assert re.fullmatch(
        r"through the flow, held out, 40 images: -5\.00 \+- 4\.69 nats, 2\.803 bits/dim "
        r"\(-4\.75 nats with half as many steps\)",
        line,
    )
    said = through_flow.meaning(found, margins, GAUSSIANS, "held out")
    assert said.endswith(
        " Held out, on the same 40 images, it beats one Gaussian (+4.00 +- 0.11 nats), and beats a "
        "mixture of 3 Gaussians (+1.00 +- 0.11 nats)"
    )
    worse = [Likelihood(-1.0, 0.4), Likelihood(0.7, 0.4)]
    said = through_flow.meaning(found, worse, GAUSSIANS, "held out")
    assert "it does not beat one Gaussian" in said
    assert "and cannot be told from a mixture of 3 Gaussians (+0.70 +- 0.40 nats)" in said
    assert through_flow.meaning(found, [], [], "held out").endswith("would claim the same.")
    nats = through_flow.metrics(found, margins, Units(4, 0.5))
    assert nats["more_nats_held_out_than_baselines"][0]["mean"] == pytest.approx(4.0)
    of_split = nats["splits"]["held out"]
    assert of_split["num_images"] == 40
    assert of_split["log_likelihood_nats"] == pytest.approx(-5.0)
    assert of_split["with_half_the_steps_nats"] == pytest.approx(-4.75)
    assert of_split["bits_per_dim"] == pytest.approx(5 / (4 * np.log(2)) + 1)
    points = through_flow.metrics(found, margins, Units(2, 0.0))
    assert "bits_per_dim" not in points["splits"]["held out"]


def test_the_flows_picture_has_every_split_by_every_density(monkeypatch):
    drawn = []
    monkeypatch.setattr(through_flow.charts, "histograms_picture", drawn.append)
    found = {"held out": through_flow.ThroughFlow(np.array([-4.0, -8.0]), np.zeros(2))}
    through_flow.figure(found, GAUSSIANS[:1], Units(4, 0.0))
    through_flow.figure(found, GAUSSIANS[:1], Units(4, 0.5))
    ((nats,), (bits,)) = (panels.values() for panels in drawn)
    assert list(drawn[0]) == ["held out, log density, nats"]
    assert list(drawn[1]) == ["held out, bits/dim"]
    np.testing.assert_allclose(nats["the flow"], [-4, -8])
    np.testing.assert_allclose(nats["one Gaussian"], [-9 + 30, -9 - 30])
    np.testing.assert_allclose(bits["the flow"], np.array([1, 2]) / np.log(2) + 1)


@pytest.mark.parametrize("levels", [(), (2, 0)])
def test_what_all_ways_say_stands_in_their_order(monkeypatch, levels):
    """Each is told of the same images, energies and Gaussians; annealing, unless left out."""
    densities = types.SimpleNamespace(caveats=("a caveat",))
    splits = {"training": np.ones(4), "held out": np.ones(3)}
    told, asked = [], []
    run = types.SimpleNamespace(
        method=types.SimpleNamespace(densities=lambda params: densities), dataset="training",
        held_out=lambda: "held out", key={"likelihood": jax.random.key(6)}.get,
        random_examples=lambda split, number: splits[split][:number],
        data=types.SimpleNamespace(split="others"),
        general=types.SimpleNamespace(held_out_split="validation"),
    )  # fmt: skip
    trained = types.SimpleNamespace(
        run=run, params=None,
        energies=lambda key, level, x: asked.append((key, level)) or x.sum(),
    )  # fmt: skip

    def part(name):
        def of(*given):
            told.append((name, given[-1 - (name == "annealed")]))
            return mode.Part(
                [f"{name} line"], [f"{name} means"], {name: len(name)}, {name: f"{name}.png"},
                [f"{name} warns"] if name == "annealed" else (),
            )  # fmt: skip

        return of

    order = ("annealed", "claim", "conditionals", "flow", "gaussians", "grid")
    for name in order:
        monkeypatch.setattr(mode, f"_{name}", part(name))
    monkeypatch.setattr(mode, "gaussian_baselines", lambda *given: ["fitted", given[-1]])
    monkeypatch.setattr(mode, "_levels", lambda *_: levels)
    monkeypatch.setattr(mode, "_units", lambda run: UNITS)
    monkeypatch.setattr(mode, "_described", lambda *given: "so and so")
    found = mode._run(trained, Settings(num_images=5, num_chains=16), "work")
    said = order if levels else order[1:]
    assert found.num_examples == (16 if levels else 3)
    statement = ["Measured is so and so.", *(f"{name} means" for name in said), "a caveat"]
    assert found.metrics == {
        "statement": statement, "splits_are": {"training": "others", "held out": "validation"},
        "units": reporting.units_metrics(UNITS), **{name: len(name) for name in said},
    }  # fmt: skip
    warned = ["annealed warns"] if levels else []
    assert found.summary == [*(f"{name} line" for name in said), *statement, *warned]
    assert found.figures == {name: f"{name}.png" for name in said}
    noise_key = jax.random.fold_in(jax.random.key(6), 3)
    assert asked == [(noise_key, 0)] * 2
    assert told[0][1].noise_key == told[0][1].fitted[1] == noise_key
    measured = {name: given for name, given in told if name != "grid"}
    assert set(measured) == set(said[:-1])
    for given in measured.values():
        assert given.energies == {"training": 4.0, "held out": 3.0}
        assert {name: len(x) for name, x in given.images.items()} == {"training": 4, "held out": 3}
        assert given.units == UNITS


def test_ways_that_are_left_out_or_that_there_are_not():
    """No image, or a model that has none."""
    for number, has in ((0, True), (5, False)):
        densities = types.SimpleNamespace(flow="a flow" if has else None, num_conditionals=2 * has)
        method = types.SimpleNamespace(densities=lambda params, found=densities: found)
        trained = types.SimpleNamespace(run=types.SimpleNamespace(method=method), params=None)
        chosen = Settings(num_flow_images=number, num_conditional_images=number)
        given = (trained, chosen, None, {}, None)
        assert through_flow.log_densities(*given) == {}
        assert through_conditionals.through_conditionals(*given) == {}
