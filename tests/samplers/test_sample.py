"""`samplers.sample`: draws of a known law, and a verdict that finds what is wrong with others.

All targets are one function with other numbers, so that it is compiled once: v in two modes at
-apart and apart with standard deviation 3, and w given v with the variance exp(neck v).
"""

import dataclasses
import importlib
import types
import warnings

import arviz
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ebm_jax import samplers
from ebm_jax.samplers.diagnostics import Summary
from ebm_jax.samplers.sample import Diagnostics, _reasons, _summary


def log_density(apart, neck, position):
    v, w = position["v"], position["inside"]["w"]
    modes = jnp.logaddexp(-((v - apart) ** 2) / 18, -((v + apart) ** 2) / 18)
    return modes - 0.5 * (len(w) * neck * v + jnp.exp(-neck * v) * jnp.sum((w - 1) ** 2))


def target(apart=0.0, neck=0.0):
    return Partial(log_density, jnp.asarray(apart), jnp.asarray(neck))


def starts(num_chains=4, scale=3.0):
    v, w = (jax.random.normal(jax.random.key(seed), (num_chains, 3)) for seed in (1, 2))
    return {"v": scale * v[:, 0], "inside": {"w": scale * w}}


def sample(density, seed=0, **changed):
    return samplers.sample(density, jax.random.key(seed), starts(), **changed)


@pytest.fixture(scope="module")
def gaussian():
    return sample(target())


def test_gaussian_moments_at_four_standard_errors(gaussian):
    found = gaussian.diagnostics.components
    for mean, sd, wanted in (
        (found.mean["v"] / found.mcse_mean["v"], found.sd["v"], 3.0),
        ((found.mean["inside"]["w"] - 1) / found.mcse_mean["inside"]["w"],
         found.sd["inside"]["w"], 1.0),
    ):  # fmt: skip
        assert np.all(np.abs(mean) < 4)
        errors = found.mcse_sd["v"] if wanted == 3 else found.mcse_sd["inside"]["w"]
        assert np.all(np.abs(sd - wanted) < 4 * errors)
        assert np.all(errors < 0.05 * wanted)  # so that agreement means something
    # -2 log density is chi^2 of 4 degrees of freedom, up to its constant
    lp = gaussian.diagnostics.log_density
    assert abs(lp.sd - np.sqrt(8) / 2) < 4 * lp.mcse_sd


def test_gaussian_is_trusted(gaussian):
    assert gaussian.is_trustworthy
    assert gaussian.reasons == ()
    assert gaussian.summary.startswith("Nothing speaks against these draws (4 chains of 1,000")
    assert 0.7 < gaussian.diagnostics.acceptance.mean() < 0.9
    assert not gaussian.diagnostics.is_divergent.any()


def test_draws_have_names_and_axes_of_their_own(gaussian):
    draws = gaussian.draws
    assert draws["v"].shape == (4, 1000)
    assert draws["inside"]["w"].shape == (4, 1000, 3)
    again = jax.vmap(jax.vmap(target()))(draws)
    np.testing.assert_allclose(gaussian.log_density, again, rtol=1e-5, atol=1e-4)
    last = jax.tree.map(lambda a: a[:, -1], draws)
    jax.tree.map(np.testing.assert_array_equal, gaussian.state.x, last)
    assert gaussian.info.kept is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        gaussian.summary = "Trust these draws."


def test_rests_are_counted(gaussian):
    """A chain rests where two draws in a row are equal; its first is compared with its start."""
    is_equal = np.diff(np.asarray(gaussian.draws["v"]), axis=1) == 0
    for chain, longest in zip(is_equal, gaussian.diagnostics.longest_rest, strict=True):
        run = max(len(part) for part in "".join("ny"[int(e)] for e in chain).split("n"))
        assert longest - run in (0, 1)
    assert gaussian.diagnostics.longest_rest.max() > 1


def test_two_far_modes_are_not_trusted():
    found = sample(target(apart=40.0))
    assert len(np.unique(np.sign(found.draws["v"].mean(axis=1)))) == 2  # a mode to each chain
    assert not found.is_trustworthy
    assert found.summary.startswith("Do not trust these draws")
    assert any("the chains disagree: R-hat of v is" in reason for reason in found.reasons)
    assert any("parallel_tempering" in reason for reason in found.reasons)


@pytest.mark.parametrize("seed", range(3))
def test_a_funnel_is_not_trusted(seed):
    found = sample(target(neck=1.0), seed)
    assert not found.is_trustworthy
    assert any("the chains disagree" in reason for reason in found.reasons)


def test_divergences_are_told():
    """The neck is so narrow that steps which fit elsewhere are unstable there."""
    found = sample(target(neck=3.0))
    number = int(found.diagnostics.is_divergent.sum())
    assert number > 0
    assert any(reason.startswith(f"{number:,} of 4,000 draws") for reason in found.reasons)


@pytest.mark.slow  # compiles again, for one chain
def test_one_chain_is_not_trusted():
    found = samplers.sample(target(), jax.random.key(0), starts(1))
    assert found.reasons == (
        "there is one chain, which has no other to disagree with: start four or more",
    )


def test_fewer_draws_are_some_of_all_and_not_trusted(gaussian):
    some = sample(target(), num_draws=40, steps_per_draw=25)
    np.testing.assert_allclose(
        some.draws["v"], gaussian.draws["v"][:, 24::25], rtol=1e-3, atol=0.01
    )
    assert any("too few effective draws" in reason for reason in some.reasons)


def test_the_warm_up_aims_at_what_is_asked_for():
    found = sample(target(), num_draws=40, steps_per_draw=25, target_acceptance=0.5)
    assert found.warmup.acceptance == pytest.approx(0.5, abs=0.07)


@pytest.mark.parametrize(("num_draws", "longest", "stuck"), [(60, 3, 4), (20, 2, 3), (4, 2, 3)])
def test_parts_are_put_together(monkeypatch, num_draws, longest, stuck):
    """Chains move by what the warm-up finds, and rest for a twentieth of all draws, or two.

    The warm-up's warnings are not shown, as the verdict says them.
    """
    asked = {}

    def warmup(rng_key, make, x, num_steps, **options):
        warnings.warn("chains stand still", stacklevel=1)
        asked["warmup"] = rng_key, make("h", "m"), x, num_steps, options
        return types.SimpleNamespace(
            state="state", step_size="found", mass="heavy", is_stuck=False, acceptance=0.7
        )

    shape = (num_draws, 2)
    moved = np.ones(shape)
    moved[1 : 1 + longest, 0] = moved[:stuck, 1] = 0.0
    numbers = np.arange(2.0 * num_draws).reshape(shape)
    info = samplers.HMCInfo(
        numbers, None, None, moved, None, None, numbers == 3, ({"v": numbers + 5}, numbers)
    )

    def run_chain(*given, **options):
        asked["run"] = given, options
        return "end", info

    module = importlib.import_module("ebm_jax.samplers.sample")
    monkeypatch.setattr(module, "hmc", lambda energy_fn, *given, **options: (given, options))
    monkeypatch.setattr(module, "warmup", warmup)
    monkeypatch.setattr(module, "run_chain", run_chain)
    monkeypatch.setattr(module, "summarize", lambda draws: ("summary", draws))
    monkeypatch.setattr(module, "_reasons", lambda *given: iter([("reason", *given)]))
    monkeypatch.setattr(module, "_summary", lambda *given: given)
    settings = {"num_warmup": 30, "num_leapfrog_steps": 5, "steps_per_draw": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sample(target(), num_draws=num_draws, target_acceptance=0.7, **settings)

    first, second = jax.random.split(jax.random.key(0))
    key, kernel, x, num_steps, options = asked["warmup"]
    assert (key, kernel) == (first, (("h", 5), {"mass": "m"}))
    assert (num_steps, options) == (30, {"target_acceptance": 0.7})
    jax.tree.map(np.testing.assert_array_equal, x, starts())
    (key, *given), options = asked["run"]
    kernel = (("found", 5), {"mass": "heavy"})
    assert (key, given) == (second, [kernel, "state", 3 * num_draws])
    assert options["keep_every"] == 3
    assert options["keep"](types.SimpleNamespace(x="x", energy="energy")) == ("x", "energy")

    np.testing.assert_array_equal(found.draws["v"], numbers.T + 5)
    np.testing.assert_array_equal(found.log_density, -numbers.T)
    assert (found.state, found.warmup.mass) == ("end", "heavy")
    assert found.info == info._replace(kept=None)
    said = found.diagnostics
    np.testing.assert_array_equal(said.components[1]["v"], numbers + 5)
    np.testing.assert_array_equal(said.log_density[1], -numbers)
    np.testing.assert_allclose(said.acceptance, numbers.mean(0))
    np.testing.assert_array_equal(said.is_divergent, numbers.T == 3)
    np.testing.assert_array_equal(said.longest_rest, [longest, stuck])
    np.testing.assert_array_equal(said.is_stuck, [False, True])
    assert found.reasons == (("reason", said, found.warmup, 0.7),)
    assert found.summary == (said, found.reasons, 4, num_draws)


def judged(
    r_hat, ess_bulk, ess_tail, of_log_density, *, stuck=(), divergent=0, acceptance=0.75, chains=7
):
    """Diagnostics of chains of 1,000 draws; the first three are of `a` [2, 2] and `in.b`."""

    def summary(*figures):
        return Summary(*[None] * 4, *figures)

    def tree(values):
        return {"a": np.reshape(values[:4], (2, 2)), "in": {"b": np.float64(values[4])}}

    return Diagnostics(
        components=summary(tree(ess_bulk), tree(ess_tail), tree(r_hat)),
        log_density=summary(*of_log_density),
        acceptance=np.broadcast_to(np.asarray(acceptance), (chains,)),
        is_divergent=(np.arange(1_000 * chains) < divergent).reshape(chains, 1_000),
        longest_rest=np.where(np.isin(np.arange(chains), stuck), 60, 3),
        is_stuck=np.isin(np.arange(chains), stuck),
    )


def verdict(diagnostics, is_stuck=False):
    warmup = types.SimpleNamespace(is_stuck=is_stuck, step_size=0.0123, acceptance=0.456)
    return tuple(_reasons(diagnostics, warmup, 0.8))


def test_draws_just_good_enough_and_their_summary():
    figures = [1.001, 1.002, 1.0099, 1.0, 1.003], [900.0, 400.0, 800.0, 700.0, 600.0]
    good = judged(*figures, [2000.0] * 5, (1500.0, 1234.5, 1.0), acceptance=0.4)
    assert verdict(good) == ()
    assert _summary(good, (), 7, 1_000) == (
        "Nothing speaks against these draws (7 chains of 1,000 draws): the chains agree (R-hat at "
        "most 1.010, of a[1, 0]), there are at least 400 effective draws in the bulk (a[0, 1]) and "
        "1,234 in the tails (log density), no step diverged, and 0.40 of the moves were accepted.\n"
        "Regions that no chain has been to cannot be seen: start chains far apart."
    )
    assert _summary(good, ("one", "two"), 1, 1_000) == (
        "Do not trust these draws (1 chain of 1,000 draws):\n- one\n- two"
    )


def test_all_that_is_known_against_draws_is_said():
    bad = judged(
        [1.0, 1.0, 1.005, 1.0, 1.002], [500.0] * 4 + [399.4], [500.0] * 5, (401.0, 77.0, 1.01),
        stuck=(1,), divergent=1_234, acceptance=[0.39, 0.1, 0.31, 0.2, 0.2, 0.2, 0.2],
    )  # fmt: skip
    anew = "parametrize anew"
    assert verdict(bad, is_stuck=True) == (
        "warm-up left chains that do not move (step size 0.012, acceptance 0.46): look for a log "
        "density that is rough or infinite near by, see samplers.roughness",
        "the chains disagree: R-hat of log density is 1.010, at most 1.01 is good: run longer, or "
        "where modes are far apart use parallel_tempering",
        "too few effective draws: 399 in the bulk of in.b, 400 are enough: draw more",
        "too few effective draws: 77 in the tails of log density, 400 are enough: draw more",
        "1,234 of 7,000 draws follow a step that diverged: the density is steeper somewhere than "
        f"the steps allow, and what lies there is missed: raise target_acceptance, or {anew}",
        "chain 1 stood at one point for up to 60 draws in a row: raise target_acceptance, or "
        + anew,
        "6 chains (0, 2, 3, 4, 5, ...) accepted 0.10 at least, where warm-up aimed at 0.80: other "
        f"places want other steps than those of the warm-up: warm up longer, or {anew}",
    )
    nan = judged([1.0, 1.0, 1.0, np.nan, 1.5], [500.0] * 5, [500.0] * 5, (500.0, np.nan, 1.1),
                 stuck=(0, 2, 3, 4, 6), divergent=1)  # fmt: skip
    assert verdict(nan) == (
        "all draws of a[1, 1] are equal: it cannot be told whether they should be",
        "too few effective draws: nan in the tails of log density, 400 are enough: draw more",
        "1 of 7,000 draws follow a step that diverged: the density is steeper somewhere than the "
        f"steps allow, and what lies there is missed: raise target_acceptance, or {anew}",
        "5 chains (0, 2, 3, 4, 6) stood at one point for up to 60 draws in a row: raise "
        f"target_acceptance, or {anew}",
    )
    alone = judged([1.0] * 5, [500.0] * 5, [500.0] * 5, (500.0, 500.0, 1.0), chains=1)
    assert verdict(alone) == (
        "there is one chain, which has no other to disagree with: start four or more",
    )


def test_arviz_agrees(gaussian):
    data = gaussian.to_arviz()
    assert set(data.posterior) == {"v", "inside.w"}
    assert dict(data.posterior.sizes) == {"chain": 4, "draw": 1000, "inside.w_dim_0": 3}
    table = arviz.summary(data, round_to="none")
    found = gaussian.diagnostics.components
    np.testing.assert_allclose(table.loc["v", "ess_bulk"], found.ess_bulk["v"], rtol=1e-3)
    np.testing.assert_allclose(table.loc["v", "r_hat"], found.r_hat["v"], rtol=1e-4)
    np.testing.assert_allclose(data.sample_stats["lp"], gaussian.log_density)
    acceptance = data.sample_stats["acceptance_rate"].mean("draw")
    np.testing.assert_allclose(acceptance, gaussian.diagnostics.acceptance, rtol=1e-5)
    assert not data.sample_stats["diverging"].any()


def test_axes_have_names_in_arviz(gaussian):
    names = {"coords": {"school": ("A", "B", "C")}, "dims": {"inside.w": ("school",)}}
    data = gaussian.to_arviz(**names)
    assert dict(data.posterior.sizes) == {"chain": 4, "draw": 1000, "school": 3}
    drawn = np.asarray(gaussian.draws["inside"]["w"])[..., 1]
    np.testing.assert_array_equal(data.posterior["inside.w"].sel(school="B"), drawn)


def test_a_run_without_hmc_in_arviz():
    kernel = samplers.mala(lambda x: 0.5 * jnp.sum(x**2, axis=1), 0.5)
    _, info = samplers.run_chain(jax.random.key(0), kernel, jnp.ones((3, 2)), 20, keep_every=2)
    data = samplers.to_arviz(info)
    np.testing.assert_array_equal(data.posterior["x"], np.swapaxes(info.kept, 0, 1))
    assert set(data.sample_stats) == {"acceptance_rate"}
    with pytest.raises(ValueError, match="kept nothing"):
        samplers.to_arviz(info._replace(kept=None))


def test_what_cannot_be_sampled_is_refused():
    x, key = starts(), jax.random.key(0)
    with pytest.raises(ValueError, match=r"1 of 4 without one, first of chain 2$"):
        samplers.sample(target(), key, x | {"v": x["v"].at[2].set(jnp.inf)})
    with pytest.raises(ValueError, match="num_draws of at least 4, better 1,000, got 3"):
        samplers.sample(target(), key, x, num_draws=3)
    with pytest.raises(ValueError, match="steps_per_draw"):
        samplers.sample(target(), key, x, steps_per_draw=0)
    with pytest.raises(TypeError, match="outside of jit"):
        jax.jit(lambda x: samplers.sample(target(), key, x).log_density)(x)
