"""Adaptive tempered SMC: evidence and draws of Gaussians and of two modes; beside BlackJAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

from ebm_jax import samplers
from ebm_jax.samplers import random
from ebm_jax.samplers.smc import _energies, _ess, _mass, _next_beta, _resample

# Within the start: where an end is wider, weights have heavy tails, and few runs do not show it.
CENTER = jnp.array([0.0, 0.5, 1.0])
STD = jnp.array([0.1, 0.5, 0.8])
LOG_Z = float(jnp.sum(jnp.log(STD)))  # over that of N(0, I)


def normal_energy(x):
    return 0.5 * jnp.sum(x**2, axis=1)


def gaussian_energy(x):
    return 0.5 * jnp.sum(((x - CENTER) / STD) ** 2, axis=1)


PATH = samplers.geometric_path(normal_energy, gaussian_energy)


def hmc(energy_fn, step_size, mass):
    return samplers.hmc(energy_fn, step_size, 5, mass=mass)


def run(seed, path=PATH, num_chains=512, **options):
    key = jax.random.key(seed)
    x = jax.random.normal(jax.random.fold_in(key, 1), (num_chains, 3))
    return samplers.smc(key, path, x, hmc, **{"step_size": 0.5, "num_steps": 3} | options)


def test_evidence_and_its_error_over_many_runs():
    """On a ladder of one run: Z is unbiased, and the errors are as large as the others say."""
    first = run(40)
    betas = np.append(0.0, first.betas[: int(first.num_temperatures)])
    found = [run(seed, betas=betas) for seed in range(40)]
    np.testing.assert_array_equal(found[0].betas, np.float32(betas[1:]))
    log_z = np.array([result.log_z for result in found])
    errors = np.array([result.standard_error for result in found])
    ratio = np.exp(log_z - LOG_Z)
    assert abs(ratio.mean() - 1) < 4 * ratio.std(ddof=1) / np.sqrt(len(found))
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(np.std(log_z - LOG_Z), rel=0.35)
    assert np.mean(np.abs(log_z - LOG_Z) < 2.4 * errors) > 0.85  # t of 7 degrees of freedom


def test_positions_of_float32_where_float64_is_on():
    """No number of NumPy's, whose type would win, is in between; what is found is the same."""
    x = jax.random.normal(jax.random.key(5), (16, 3))

    def found():
        return samplers.smc(
            jax.random.key(6), PATH, x, hmc, step_size=0.5, num_steps=1, max_temperatures=40
        )

    wanted = found()
    with jax.enable_x64(True):
        result = found()
    for name in ("log_z", "standard_error", "x", "betas", "ess", "group_log_z"):
        value = getattr(result, name)
        assert value.dtype == jnp.float32, name
        np.testing.assert_allclose(value, getattr(wanted, name), rtol=1e-5, atol=1e-5)


def test_draws_are_those_of_the_end():
    result = run(0, num_chains=4_096)
    np.testing.assert_allclose(result.x.mean(0), CENTER, atol=0.1)
    np.testing.assert_allclose(result.x.std(0), STD, rtol=0.08)
    number = int(result.num_temperatures)
    betas, ess = np.asarray(result.betas), np.asarray(result.ess)
    assert np.all(np.diff([0, *betas[:number]]) > 0)
    assert betas[number - 1] == 1
    assert np.isnan(betas[number:]).all()
    np.testing.assert_allclose(ess[: number - 1], 0.5, atol=0.01)
    assert ess[number - 1] >= 0.5
    # log step_size follows the acceptance towards its target.
    step_size, acceptance = np.asarray(result.step_size), np.asarray(result.acceptance)
    np.testing.assert_allclose(
        np.diff(np.log(step_size[:number])), acceptance[: number - 1] - 0.8, atol=1e-5
    )


def two_modes(x):
    """Log density of 1/5 N(-3, .3^2) + 4/5 N(3, .3^2), up to a factor, in the first dimension."""
    first = jnp.log(jnp.array([0.2, 0.8])) - 0.5 * ((x[:, :1] - jnp.array([-3.0, 3.0])) / 0.3) ** 2
    return -jax.nn.logsumexp(first, axis=1) + 0.5 * jnp.sum(x[:, 1:] ** 2, axis=1)


def test_modes_keep_their_mass():
    shares, log_z = [], []
    for seed in range(8):
        result = run(seed, samplers.geometric_path(normal_energy, two_modes), num_chains=1_024)
        shares.append(np.mean(result.x[:, 0] < 0))
        log_z.append(result.log_z)
    error = np.std(shares, ddof=1) / np.sqrt(8)
    assert error < 0.03
    assert abs(np.mean(shares) - 0.2) < 4 * error + 0.005
    assert abs(np.mean(log_z) - np.log(0.3)) < 4 * np.std(log_z, ddof=1) / np.sqrt(8) + 0.02


def test_any_path_and_either_way():
    """The same path as a plain function, whose temperatures cost energies; and downwards."""
    np.testing.assert_allclose(run(3, lambda x, beta: PATH(x, beta)).log_z, run(3).log_z, atol=1e-3)
    key = jax.random.key(5)
    x = CENTER + STD * jax.random.normal(key, (1_024, 3))
    down = samplers.smc(key, PATH, x, hmc, step_size=0.5, betas=(1.0, 0.0))
    assert abs(float(down.log_z) + LOG_Z) < 4 * float(down.standard_error)


def test_agrees_with_blackjax():
    blackjax = pytest.importorskip("blackjax")
    from blackjax.smc import extend_params, resampling

    move = blackjax.mcmc.hmc
    algorithm = blackjax.adaptive_tempered_smc(
        lambda x: -normal_energy(x[None])[0],
        lambda x: normal_energy(x[None])[0] - gaussian_energy(x[None])[0],
        move.build_kernel(),
        move.init,
        extend_params(
            {
                "step_size": 0.4,
                "inverse_mass_matrix": jnp.array([0.05, 1.0, 2.0]),
                "num_integration_steps": 5,
            }
        ),
        resampling.systematic,
        0.5,
        num_mcmc_steps=3,
    )
    step, theirs = jax.jit(algorithm.step), []
    for seed in range(4):
        key = jax.random.key(seed)
        state = algorithm.init(jax.random.normal(jax.random.fold_in(key, 1), (2_048, 3)))
        total, n = 0.0, 0
        while (getattr(state, "tempering_param", None) or getattr(state, "lmbda", 0)) < 1:
            state, info = step(jax.random.fold_in(key, 2 + n), state)
            total, n = total + float(info.log_likelihood_increment), n + 1
        theirs.append(total)
    ours = [float(run(seed, num_chains=2_048).log_z) for seed in range(4)]
    error = np.hypot(np.std(ours, ddof=1), np.std(theirs, ddof=1)) / 2
    assert abs(np.mean(ours) - np.mean(theirs)) < 5 * error + 0.02


def test_positions_may_be_a_tree_and_all_may_be_traced():
    def tree_energy(x):
        return gaussian_energy(jnp.concatenate([x["a"], x["b"]], axis=1))

    def plain(x):
        return normal_energy(jnp.concatenate([x["a"], x["b"]], axis=1))

    @jax.jit
    def traced(key):
        z = jax.random.normal(jax.random.fold_in(key, 1), (512, 3))
        x = {"a": z[:, :1], "b": z[:, 1:]}
        return samplers.smc(
            key, samplers.geometric_path(plain, tree_energy), x, hmc, step_size=0.5, num_steps=3
        )

    result = traced(jax.random.key(0))
    assert abs(float(result.log_z) - LOG_Z) < 5 * float(result.standard_error)
    assert result.x["b"].shape == (512, 2)


def test_what_is_not_finite_and_what_does_not_suffice():
    def walled(x):  # NaN on half of the space, where nothing is
        return jnp.where(x[:, 0] > 0, normal_energy(x), jnp.nan)

    result = run(0, samplers.geometric_path(normal_energy, walled), num_chains=2_048)
    assert abs(float(result.log_z) - np.log(0.5)) < 5 * float(result.standard_error) + 0.01
    assert float(result.x[:, 0].min()) > 0
    stopped = run(0, max_temperatures=2)
    assert int(stopped.num_temperatures) == 2
    assert np.isnan(stopped.log_z)
    assert stopped.betas[1] < 1


@pytest.mark.parametrize("betas", [(0.0, 1.0), (0.0, 0.75, 1.0)])
@pytest.mark.parametrize("end", [jnp.inf, jnp.nan])
def test_an_end_without_mass_has_no_evidence(betas, end):
    """log 0, at the first temperature that shows it, and not after all that are allowed."""
    nowhere = samplers.geometric_path(normal_energy, lambda x: jnp.full(x.shape[0], end))
    result = run(0, nowhere, num_chains=64, betas=betas)
    assert float(result.log_z) == -np.inf
    assert int(result.num_temperatures) == 1
    assert float(result.ess[0]) == 0
    assert result.betas.shape == ((500,) if len(betas) == 2 else (2,))
    assert (result.betas[0] == 0.75) == (len(betas) == 3)  # a ladder that is given is followed


def test_places_are_shared_out_by_weight():
    """Whole shares are met whatever the random number; one group takes nothing of another."""
    weights = jnp.array([[2.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 4.0], [0.0] * 4, [0, 3, 0, 1]])
    for seed in range(3):
        found = _resample(jax.random.key(seed), jnp.log(weights) + 300)
        wanted = [0, 0, 1, 2, 7, 7, 7, 7, 8, 9, 10, 11, 13, 13, 13, 15]
        np.testing.assert_array_equal(found, wanted)
        assert found.dtype == jnp.int32
    second = []
    for seed in range(8):  # 5 / 8 take the first place, and the second where u is below a quarter
        found = _resample(jax.random.key(seed), jnp.log(jnp.array([[5.0, 3.0], [5.0, 3.0]])))
        u = np.asarray(random.uniform(jax.random.key(seed), jnp.arange(2), ()))
        np.testing.assert_array_equal(found, [0, u[0] > 0.25, 2, 2 + (u[1] > 0.25)])
        second.extend(u > 0.25)
    assert len(set(second)) == 2


def test_the_effective_share_and_the_beta_where_it_falls_to_its_target():
    assert _ess(jnp.log(jnp.array([1.0, 1, 2, 0])) - 200) == pytest.approx(16 / (4 * 6))
    assert _ess(jnp.full(3, -jnp.inf)) == 0
    assert _ess(jnp.zeros(3)) == 1
    for ess, begin, end, target, wanted in (
        (lambda beta: 1 - beta, 0.0, 1.0, 0.7, 0.3),
        (lambda beta: 1 - beta, 0.2, 0.5, 0.5, 0.5),  # at the end it is just enough
        (lambda beta: beta, 1.0, 0.0, 0.25, 0.25),
        (lambda beta: jnp.float32(0), 0.0, 4.0, 0.5, 4 * 2.0**-24),  # the least step there is
    ):
        found = _next_beta(ess, jnp.float32(begin), jnp.float32(end), jnp.float32(target))
        assert found == pytest.approx(wanted, rel=1e-5)


def test_energies_between_two_ends_of_which_one_is_infinite():
    """An end that is not there says nothing, though it be infinite; as along the path itself."""
    x = jnp.array([[1.0], [2.0]])

    def low(x):
        return jnp.where(x[:, 0] > 1, jnp.inf, 3.0)

    def high(x):
        return jnp.where(x[:, 0] > 1, 5.0, jnp.inf)

    path = samplers.geometric_path(low, high)
    energies = _energies(path, x)
    for beta, wanted in ((0.0, [3.0, jnp.inf]), (1.0, [jnp.inf, 5.0]), (0.5, [jnp.inf] * 2)):
        np.testing.assert_array_equal(energies(jnp.float32(beta)), wanted)
        np.testing.assert_array_equal(path(x, jnp.float32(beta)), wanted)
    finite = _energies(samplers.geometric_path(lambda x: x[:, 0], lambda x: 7 * x[:, 0]), x)
    np.testing.assert_allclose(finite(jnp.float32(0.25)), [2.5, 5.0])
    for other in (lambda x, beta: beta * x[:, 0], Partial(lambda a, x, beta: a * beta * x, 1.0)):
        np.testing.assert_array_equal(np.ravel(_energies(other, x)(0.5)), [0.5, 1.0])


def test_masses_are_those_of_the_population():
    x = {"a": jnp.array([[1.0, 5.0], [3.0, 5.0]]), "b": jnp.array([[1.0], [2.0]], jnp.bfloat16)}
    found = _mass(x)
    np.testing.assert_array_equal(found["a"][:, 0], [1.0])
    assert np.isfinite(found["a"]).all()
    np.testing.assert_array_equal(found["b"], [[4.0]])
    assert found["b"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_groups": 7}, "num_groups >= 2 that divides the 512 chains, got 7"),
        ({"num_groups": 1}, "num_groups >= 2"),
        ({"target_ess": 1.0}, "expected 0 < target_ess < 1, got 1.0"),
        ({"target_acceptance": -0.1}, "expected 0 < target_acceptance < 1"),
        ({"betas": (0.0, 0.5, 0.5)}, "neighbors different"),
        ({"betas": (1.0,)}, r"expected betas \(start, .., end\), neighbors different, got \(1.0,"),
        ({"betas": ((0.0, 1.0), (1.0, 0.0))}, "neighbors different"),
        ({"step_size": 0.0}, "expected step_size > 0"),
        ({"num_steps": 0}, "num_steps"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(ValueError, match=message):
        run(0, **options)
