"""What the fields of the likelihood do, on a run that is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effects_stubs import SHAPE, full_bars, stubs
from effects_table import shows, value_of
from known_model import (
    A_BAR,
    DENSITIES,
    SIGMA_BAR,
    VARIANCE,
    Known,
    config_of,
    energy,
    rows_of,
    run,
)

from ebm_jax import samplers
from ebm_jax.evaluation.density import annealing, baselines, conditional_bound, log_likelihood
from ebm_jax.methods.probability_flow import ProbabilityFlow
from ebm_jax.runs import modes
from ebm_jax.runs.settings import ConfigError
from ebm_jax.tasks.likelihood import ends as annealed_ends
from ebm_jax.tasks.likelihood import reporting, through_conditionals, two_directions
from ebm_jax.tasks.likelihood.reverse_starts import Starts

__all__ = ["full_bars", "run", "stubs"]

BESIDE = (
    "likelihood.num_components", "likelihood.num_fitted", "likelihood.num_conditional_images",
    "likelihood.num_conditional_temperatures", "likelihood.num_flow_images",
)  # fmt: skip


def conditional(level, x_noisy):
    """Of x_t given x_{t+1}; the last level's is its marginal."""
    a_bar, sigma_bar = jnp.append(A_BAR, 0.0), jnp.append(SIGMA_BAR, 1.0)
    a = a_bar[level + 1] / a_bar[level]
    variance = sigma_bar[level + 1] ** 2 - (a * sigma_bar[level]) ** 2
    return lambda x: (
        energy(level)(x) + jnp.sum((a * x - x_noisy) ** 2, (1, 2, 3)) / (2 * variance) * (level < 5)
    )


def flow_energy(y, t):
    """-log p_t of N(0, v + t) whose noise at the flow's end makes it the law of x_0."""
    variance = VARIANCE[0] - SIGMA_BAR[0] ** 2 + t
    return 0.5 * (jnp.sum(y**2, (1, 2, 3)) / variance + 4 * jnp.log(2 * np.pi * variance))


FLOW = ProbabilityFlow(
    lambda log_t: lambda y: flow_energy(y, jnp.exp(log_t)),
    lambda y: flow_energy(y, 4.0),
    jnp.linspace(np.log(4.0), 2 * np.log(SIGMA_BAR[0]), 101),
)


@shows(*BESIDE)
def test_what_stands_beside_the_likelihood(run, monkeypatch):
    """Gaussians of so many images and components; two likelihoods of so many, here exact."""
    known = DENSITIES._replace(
        conditional=conditional, conditional_std=jnp.asarray(SIGMA_BAR), num_conditionals=5,
        flow=FLOW,
    )  # fmt: skip
    monkeypatch.setattr(Known, "densities", lambda self, params: known)
    estimate = log_likelihood.Estimate(2 * np.log(2 * np.pi * VARIANCE[0]), 0.1, 16.0)
    bracket = log_likelihood.Bracket(20, estimate, estimate)
    ends = annealed_ends.Ends(np.zeros((16, *SHAPE), np.float32), np.zeros(16), np.zeros(16))

    def anneal(self):
        self.work.begin("annealing", 0)  # which is not done here
        return two_directions.Annealed([bracket], [], Starts(ends.x, None), 0.0, ends)

    monkeypatch.setattr(two_directions.TwoDirections, "anneal", anneal)
    asked, fitted, annealed = [], baselines.fit_mixture, conditional_bound.conditional_bounds

    def fit_mixture(x, noise_std, num_components, seed):
        asked.append((len(x), noise_std, num_components))
        return fitted(x, noise_std, num_components, seed)

    def conditional_bounds(*args, num_temperatures):
        asked.append((len(args[2][0]), num_temperatures))
        return annealed(*args, num_temperatures=num_temperatures)

    monkeypatch.setattr(baselines, "fit_mixture", fit_mixture)
    monkeypatch.setattr(conditional_bound, "conditional_bounds", conditional_bounds)
    monkeypatch.setattr(through_conditionals, "_LEVELS_AT_ONCE", 4)  # of six: in two parts
    found = run("likelihood", config_of(*BESIDE, likelihood={"num_chains": 16, "num_images": 40}))
    assert asked[0] == (60, pytest.approx(SIGMA_BAR[0]), (1, 3))
    assert {number for _, number in asked[1:]} == {3}
    gaussian = found["baselines"][0]["splits"]
    key = jax.random.fold_in(modes.load_trained(config_of(), "").run.key("likelihood"), 3)
    described = modes.load_trained(config_of(), "").run
    x = A_BAR[0] * described.random_examples(described.dataset, 60)
    reference = baselines.fit_gaussian(x, SIGMA_BAR[0])
    for name, split in (("training", described.dataset), ("held out", described.held_out())):
        noised = DENSITIES.noised(key, 0, described.random_examples(split, 40), jnp.arange(40))
        exact = reference.log_density(np.asarray(noised))
        assert gaussian[name]["log_likelihood_nats"] == pytest.approx(exact.mean(), rel=1e-3)
        bits = -exact.mean() / (4 * np.log(2)) + np.log2(127.5)
        assert gaussian[name]["bits_per_dim"] == pytest.approx(bits, rel=1e-3)
        bound = found["through_conditionals"][name]
        assert bound["num_images"] == 8
        truth = -np.asarray(energy(0)(noised[:8])) - 2 * np.log(2 * np.pi * VARIANCE[0])
        nats = bound["log_likelihood_nats"]
        assert nats["lower"] - 1.5 < truth.mean() < nats["upper"] + 1.5  # 3 temperatures each
        assert len(bound["widths_of_log_z_by_level"]) == 6
        flow = found["through_flow"]["splits"][name]
        assert flow["num_images"] == 8
        assert flow["log_likelihood_nats"] == pytest.approx(truth.mean(), abs=0.01)
    none = run("likelihood", config_of(likelihood={"num_chains": 16, "num_components": (),
                                                   "num_conditional_images": 0,
                                                   "num_flow_images": 0}))  # fmt: skip
    assert none["through_conditionals"] == none["through_flow"] == {}
    assert [row["num_components"] for row in none["baselines"]] == [1]


@shows(*(field for field in rows_of("likelihood") if field not in BESIDE))
def test_likelihood(run, monkeypatch):
    """All rows in one run on dequantized images: what reaches the annealing, and log Z."""
    asked = {}
    for name in ("tune_step", "settle", "anneal"):
        usual = getattr(annealing, name)

        def spied(*args, name=name, usual=usual, **options):
            asked.setdefault(name, []).append((args, options))
            return usual(*args, **options)

        monkeypatch.setattr(annealing, name, spied)
    starts, estimated, kept = [], [], []
    summarize = samplers.summarize_weights
    monkeypatch.setattr(
        log_likelihood, "summarize_weights", lambda w: estimated.append(w) or summarize(w)
    )
    for name in ("save", "save_state"):
        usual = getattr(modes.ResumableWork, name)

        def saved(self, name, arrays, usual=usual):
            starts.extend([np.asarray(arrays["x"])] if name == "starts" else [])
            kept.append(self._folder.name)
            return usual(self, name, arrays)

        monkeypatch.setattr(modes.ResumableWork, name, saved)
    config = config_of(*rows_of("likelihood"))
    config.data.dequantize = True
    config.likelihood.update(num_components=(), num_conditional_images=0)
    with monkeypatch.context() as patch:  # an end after annealing, with other images
        patch.setattr(reporting, "meaning", lambda *_: int("none"))
        config.likelihood.num_images = 8
        with pytest.raises(ConfigError):
            run("likelihood", config)
    assert set(kept) == {"baselines", "forward", "reverse"}
    tuned, before = asked["tune_step"][0][1], list(estimated)
    for recorded in (starts, estimated, kept, asked):
        recorded.clear()
    config.likelihood.num_images = value_of("likelihood.num_images")
    found = run("likelihood", config)
    assert set(kept) == {"baselines", "reverse"}  # forward annealing saw no image, and goes on
    same = [np.array_equal(one, other) for one, other in zip(before, estimated, strict=True)]
    assert same == [True, False, True, False]  # forward, reverse for each number
    assert found["levels_passed"] == [0]
    assert [row["num_temperatures"] for row in found["log_z"]] == [20, 40]
    assert {len(weights) for weights in estimated} == {16}
    assert tuned == {"num_steps": 20, "num_leapfrog_steps": 2, "target_acceptance": 0.7}
    assert asked["anneal"][0][1] == {"num_leapfrog_steps": 2}
    assert "settle" not in asked
    truth = 2 * np.log(2 * np.pi * VARIANCE[0])
    for way in ("forward", "reverse"):
        side = found["log_z"][-1][way]
        assert abs(side["log_z"] - truth) < 4 * side["standard_error"] + 0.05

    trained = modes.load_trained(config, "")
    described, key = trained.run, trained.run.key("likelihood")
    examples = described.random_examples(described.dataset, 24)
    cells = np.sort((examples.ravel() + 1) * 128 % 1)
    assert np.ptp(cells) > 0.8  # dequantized
    index = jnp.arange(16)
    noised = DENSITIES.noised(
        jax.random.fold_in(jax.random.fold_in(key, 2), 0), 0, examples[:16], index
    )
    np.testing.assert_allclose(starts[0], noised, rtol=1e-4, atol=1e-5)
    for name, split in (("training", described.dataset), ("held out", described.held_out())):
        x = described.random_examples(split, 24)
        noised = DENSITIES.noised(jax.random.fold_in(key, 3), 0, x, jnp.arange(24))
        energies = np.asarray(energy(0)(noised))
        measured = found["splits"][name]
        assert measured["energy"]["num_images"] == 24
        assert measured["energy"]["mean"] == pytest.approx(energies.mean(), rel=1e-3)
        error = energies.std(ddof=1) / np.sqrt(24)
        assert measured["energy"]["standard_error"] == pytest.approx(error, rel=1e-3)
        nats = measured["log_likelihood_nats"]
        for side, way in (("upper", "forward"), ("lower", "reverse")):
            bracket = found["log_z"][-1][way]
            assert nats[side] == pytest.approx(-energies.mean() - bracket["log_z"], rel=1e-3)
            joined = np.hypot(error, bracket["standard_error"])
            assert nats[f"standard_error_{side}"] == pytest.approx(joined, rel=1e-3)
            bits = -nats[side] / (4 * np.log(2)) + np.log2(128)
            other = {"upper": "lower", "lower": "upper"}[side]
            assert measured["bits_per_dim"][other] == pytest.approx(bits, rel=1e-4)

    config.likelihood.update(reverse_steps=11, num_images=8)
    moved = run("likelihood", config)
    assert moved["reverse_starts"]["num_steps"] == 11
    assert asked["settle"][0][1] == {"num_leapfrog_steps": 2}
    assert not np.array_equal(starts[-1], noised[:16])
