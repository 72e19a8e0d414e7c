"""Diagnostics against ArviZ's figures, and against what an AR(1) process has in theory."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.samplers import (
    acceptance_rate,
    ess_bulk,
    ess_mean,
    ess_quantile,
    ess_tail,
    mcse_mean,
    mcse_quantile,
    mcse_sd,
    split_r_hat,
    summarize,
)
from ebm_jax.samplers.diagnostics import _power_of_two, _standardized

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # ArviZ announces its next version on import
    import arviz


def autoregression(num_chains, num_draws, coefficient, seed=0, offset=0.0):
    """x_t = coefficient x_{t-1} + e_t, [chains, draws]; chain i is shifted by i offset."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((num_chains, num_draws))
    x = noise.copy()
    x[:, 0] /= np.sqrt(1 - coefficient**2)
    for t in range(1, num_draws):
        x[:, t] = coefficient * x[:, t - 1] + noise[:, t]
    return x + offset * np.arange(num_chains)[:, None]


LONG = {
    "independent": autoregression(4, 301, 0.0),
    "correlated": autoregression(4, 301, 0.9),
    "antithetic": autoregression(4, 301, -0.7),
    "chains that disagree": autoregression(4, 301, 0.5, offset=1.0),
    "ties": np.round(autoregression(4, 301, 0.8)),
    "two values, equally often": np.random.default_rng(1).permuted(
        np.tile([1.0, -1.0], (4, 151)), axis=1
    )[:, :301],
    "heavy tails": np.random.default_rng(1).standard_cauchy((4, 301)),
    "not mixed at all": autoregression(4, 301, 0.999),
}
SHORT = {
    "four draws": autoregression(2, 4, 0.0),
    "one chain": autoregression(1, 30, 0.5),
}


OURS = {
    "r_hat": split_r_hat,
    "ess bulk": ess_bulk,
    "ess tail": ess_tail,
    "ess mean": ess_mean,
    "ess quantile": lambda samples: ess_quantile(samples, 0.3),
    "mcse mean": mcse_mean,
    "mcse sd": mcse_sd,
    "mcse quantile": lambda samples: mcse_quantile(samples, 0.05),
}


@functools.partial(jax.jit, static_argnums=1)
def our_figures(samples, names=tuple(OURS)):
    return {name: OURS[name](samples) for name in names}


def figures_of_arviz(x):
    figures = {"r_hat": arviz.rhat(x)}
    for method in ("bulk", "tail", "mean"):
        figures[f"ess {method}"] = arviz.ess(x, method=method)
    figures["ess quantile"] = arviz.ess(x, method="quantile", prob=0.3)
    for method in ("mean", "sd"):
        figures[f"mcse {method}"] = arviz.mcse(x, method=method)
    figures["mcse quantile"] = arviz.mcse(x, method="quantile", prob=0.05)
    return figures


@pytest.mark.parametrize("x64", [True, False])
def test_figures_are_those_of_arviz(x64):
    """To 1e-10 in float64 and 1e-5 in float32; draws with the axes swapped."""
    kind, tolerance = (np.float64, 1e-10) if x64 else (np.float32, 1e-5)
    with jax.enable_x64(x64):
        long = np.stack(list(LONG.values())).astype(kind)
        ours = our_figures(jnp.asarray(long.transpose(2, 1, 0)))
        for i, name in enumerate(LONG):
            for figure, expected in figures_of_arviz(long[i]).items():
                np.testing.assert_allclose(
                    ours[figure][i], expected, rtol=tolerance, err_msg=f"{figure}, {name}"
                )


@pytest.mark.parametrize("name", SHORT)
def test_figures_of_few_draws_are_those_of_arviz(name):
    with jax.enable_x64(True):
        names = ("r_hat", "ess bulk", "mcse sd")
        ours = our_figures(jnp.asarray(SHORT[name].T), names)
        expected = figures_of_arviz(SHORT[name])
        for figure in names:
            if np.isnan(expected[figure]):
                assert (name, figure) == ("one chain", "r_hat")  # compared with itself here
            else:
                np.testing.assert_allclose(ours[figure], expected[figure], 1e-10, err_msg=figure)


def test_one_chain_is_compared_with_itself():
    steady = jnp.asarray(autoregression(1, 400, 0.0).T)
    assert split_r_hat(steady) < 1.02
    assert split_r_hat(steady + jnp.linspace(0, 3, 400)[:, None]) > 1.2


def test_effective_sample_size_of_an_autoregression():
    """For x_t = a x_{t-1} + e the mean of S draws has the error of S (1 - a) / (1 + a)."""
    a, num_chains, num_draws = 0.8, 64, 1000
    samples = jnp.asarray(autoregression(num_chains, num_draws, a, seed=2).T)
    expected = num_chains * num_draws * (1 - a) / (1 + a)
    assert ess_bulk(samples) == pytest.approx(expected, rel=0.05)
    error = mcse_mean(samples)
    assert error == pytest.approx(1 / np.sqrt((1 - a**2) * expected), rel=0.05)
    assert abs(jnp.mean(samples)) < 4 * error


def test_chains_that_have_not_met_are_seen_in_mean_or_in_spread():
    x = np.random.default_rng(3).standard_normal((500, 4))
    assert split_r_hat(jnp.asarray(x)) < 1.01
    assert split_r_hat(jnp.asarray(x + np.array([0, 0, 0, 1.5]))) > 1.1
    assert split_r_hat(jnp.asarray(x * np.array([1, 1, 1, 4.0]))) > 1.1  # same mean: the tails


def test_summary_of_a_pytree_of_components_constants_and_nans():
    rng = np.random.default_rng(4)
    tree = {
        "real": rng.standard_normal((50, 4, 2, 3)).astype(np.float32),
        "count": rng.integers(0, 9, (50, 4)),
        "constant": np.full((50, 4, 1), 0.1, np.float32),
    }
    tree["broken"] = np.where(np.arange(200).reshape(50, 4) == 77, np.nan, tree["constant"][..., 0])
    summary = jax.jit(summarize)(tree)
    for figure in summary:
        assert figure["real"].shape == (2, 3)
        assert figure["count"].shape == ()
        assert jnp.isnan(figure["broken"])
    one, count = tree["real"][:, :, 1, 2].T, tree["count"].T
    np.testing.assert_allclose(summary.mean["real"][1, 2], one.mean(), rtol=1e-5)
    np.testing.assert_allclose(summary.sd["real"][1, 2], one.std(ddof=1), rtol=1e-5)
    np.testing.assert_allclose(summary.ess_bulk["real"][1, 2], arviz.ess(one), rtol=1e-5)
    np.testing.assert_allclose(summary.r_hat["count"], arviz.rhat(count), rtol=1e-5)
    np.testing.assert_allclose(summary.mcse_sd["count"], arviz.mcse(count, method="sd"), rtol=1e-5)
    assert summary.ess_bulk["constant"] == 200
    assert jnp.isnan(summary.r_hat["constant"])


def test_acceptance_counts_a_nan_as_a_rejection():
    acceptance = jnp.array([[1.0, 0.5], [jnp.nan, 0.5], [0.5, 0.5], [0.5, 1.0]])
    np.testing.assert_allclose(acceptance_rate(acceptance), [0.5, 0.625])


def test_bad_input_is_refused_in_one_line():
    with pytest.raises(ValueError, match="at least 4 draws"):
        ess_bulk(jnp.zeros((3, 4)))
    with pytest.raises(ValueError, match="the same in all"):
        ess_bulk([jnp.zeros((5, 4)), jnp.zeros((5, 3))])
    with pytest.raises(ValueError, match=r"\[draws, chains, ...\]"):
        split_r_hat(jnp.zeros(100))
    with pytest.raises(ValueError, match="between 0 and 1"):
        mcse_quantile(jnp.zeros((10, 2)), 95)
    with pytest.raises(ValueError, match=r"\[steps, chains\]"):
        acceptance_rate(jnp.zeros(3))


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1e-20), (0.0, 1e9), (0.0, 1e30), (3e7, 3.0)])
def test_figures_do_not_depend_on_unit_and_origin(offset, scale):
    """In float32, against ArviZ's float64 on the very same draws."""
    x = (offset + scale * autoregression(4, 100, 0.5)).astype(np.float32)
    summary = jax.jit(summarize)(x.T)
    expected = figures_of_arviz(x.astype(np.float64) / scale)
    for name, figure, power in (
        ("r_hat", summary.r_hat, 0),
        ("ess bulk", summary.ess_bulk, 0),
        ("ess tail", summary.ess_tail, 0),
        ("ess mean", ess_mean(x.T), 0),
        ("mcse mean", summary.mcse_mean, 1),
        ("mcse sd", summary.mcse_sd, 1),
        ("mcse quantile", mcse_quantile(x.T, 0.05), 1),
    ):
        wanted = expected[name] * scale**power
        np.testing.assert_allclose(figure, wanted, rtol=1e-4, err_msg=name)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(summary.mean, wide.mean(), rtol=1e-6, atol=1e-3 * scale)
    np.testing.assert_allclose(summary.sd, wide.std(ddof=1), rtol=1e-4)


@pytest.mark.parametrize(("offset", "scale"), [(0.0, 1.0), (3e7, 3.0), (1e-36, 1e-39)])
def test_an_infinite_draw_is_one_far_away(offset, scale):
    """Its ranks are those of a finite draw, whatever the unit and origin of the others."""
    x = autoregression(4, 101, 0.5) * np.array([1, 1, 1, 3])[:, None]  # the tails disagree
    x = (offset + scale * x).astype(np.float32)
    finite = x.astype(np.float64)
    finite[1, 50] = offset + 99 * scale
    x[1, 50] = np.inf
    np.testing.assert_allclose(split_r_hat(x.T), arviz.rhat(finite), rtol=1e-5)


def test_draws_are_centered_where_they_lie_far_off_for_their_spread():
    """Over 16 times as far as they reach; without rounding, and whatever is infinite."""
    near = np.array([[-1.0, 0.0, -0.25], [0.5, 1.0, -0.5]], np.float32)
    for offset, is_centered in ((15.5, False), (16.0, False), (16.5, True), (-16.5, True)):
        for unit in (1.0, 2.0**-40):
            x = unit * (offset + near)
            draws = _standardized(jnp.asarray(x))
            np.testing.assert_array_equal(draws.values, x)
            assert draws.center == is_centered * offset * unit
            np.testing.assert_array_equal(draws.center + draws.scale * draws.standard, x)
            assert np.log2(draws.scale) % 1 == 0
            assert 1 <= np.abs(draws.standard).max() < 2
    x = 100 + near
    x[0, 0] = np.inf
    assert _standardized(jnp.asarray(x)).center == 100.5  # in the middle of six
    x[:, 1:] = np.inf
    assert _standardized(jnp.asarray(x)).center == 0
    assert _power_of_two(jnp.array([0.0, -1e-20, jnp.inf, jnp.nan])) == 2.0**-67
    assert _power_of_two(jnp.array([0.0, jnp.inf])) == _power_of_two(jnp.zeros(2)) == 1
    assert _power_of_two(jnp.array([4.0, -7.9])) == 4


@pytest.mark.parametrize("num_draws", [6, 14])
def test_sequences_that_end_with_the_chain(num_draws):
    """Of few draws that hardly move there is no pair of autocorrelations below 0."""
    x = autoregression(2, num_draws, 0.999)
    with jax.enable_x64(True):
        np.testing.assert_allclose(ess_mean(x.T), arviz.ess(x, method="mean"), rtol=1e-10)


@pytest.mark.parametrize("prob", [0.1, 0.75])
def test_quantiles_of_few_draws(prob):
    """Where one draw more or less below the quantile counts; at 0.75 the place is a draw itself."""
    x = np.random.default_rng(5).standard_normal((1, 9))
    with jax.enable_x64(True):
        expected = arviz.ess(x, method="quantile", prob=prob)
        np.testing.assert_allclose(ess_quantile(x.T, prob), expected, rtol=1e-10)
        expected = arviz.mcse(x, method="quantile", prob=prob)
        np.testing.assert_allclose(mcse_quantile(x.T, prob), expected, rtol=1e-10)


@pytest.mark.parametrize("unit", [1.0, 0.1, 0.3])
def test_quantiles_of_draws_with_ties(unit):
    """The quantile lies among equal draws: float32 must not put it beside them."""
    for seed in range(4):
        x = (np.round(autoregression(4, 251, 0.5, seed=seed)) * unit).astype(np.float32)
        np.testing.assert_allclose(ess_tail(x.T), arviz.ess(x, method="tail"), rtol=1e-5)
