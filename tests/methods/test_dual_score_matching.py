"""Dual score matching on laws whose energy is known at every noise."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ebm_jax.data import Mixture, Moments
from ebm_jax.methods import DualScoreMatching, MethodState, persistent_chains
from ebm_jax.methods.dual_score_matching import (
    DualScoreSampler,
    dual_losses,
    fade,
)
from ebm_jax.methods.mixture_base import MixtureBase
from ebm_jax.networks import FunctionNetwork
from ebm_jax.samplers import random

KEY = jax.random.key(0)
COVARIANCE = np.array([[0.5, 0.35, -0.2], [0.35, 0.6, 0.1], [-0.2, 0.1, 0.4]])
MOMENTS = Moments(np.array([0.4, -0.2, 0.1]), COVARIANCE)
NOTHING = FunctionNetwork(  # at parameters 0
    lambda params, x, t: params * jnp.sum(x, 1) + 0 * t, lambda key: jnp.zeros(()), (3,)
)


def log_normal(y, mean, covariance):
    y = np.asarray(y, np.float64) - mean
    squares = np.sum(y @ np.linalg.inv(covariance) * y, 1)
    return -0.5 * (squares + np.linalg.slogdet(2 * np.pi * covariance)[1])


def gaussian_method(**sampler):
    return DualScoreMatching(
        NOTHING, MOMENTS, min_noise=0.1, max_noise=5.0, num_levels=20,
        sampler=DualScoreSampler(**dict(sampler)),
    )  # fmt: skip


def params_of(method):
    return method.init(KEY, {"image": jnp.zeros((2, *method.network.input_shape))})[0]


# ---------------------------------------------------------------- the base and the densities


def test_the_base_is_the_log_density_of_the_gaussian_with_noise():
    y = 3 * jax.random.normal(KEY, (5, 3))
    gaussian = MixtureBase.of_moments(MOMENTS)
    t = jnp.array([1e-4, 0.3, 1.0, 50.0, 0.3])
    found = gaussian.energy(y, t)
    for i in range(5):
        covariance = COVARIANCE + float(t[i]) * np.eye(3)
        assert -found[i] == pytest.approx(
            log_normal(y[i : i + 1], MOMENTS.mean, covariance)[0], 1e-4
        )
    draws = gaussian.sample(KEY, jnp.arange(40_000), jnp.zeros((40_000, 3)), 0.5)
    np.testing.assert_allclose(np.cov(draws.T), COVARIANCE + 0.5 * np.eye(3), atol=0.03)
    np.testing.assert_allclose(draws.mean(0), MOMENTS.mean, atol=0.03)


WEIGHTS = np.array([0.3, 0.7])
MEANS = np.array([[1.0, 0.0, -1.0], [-0.5, 0.5, 0.0]])
COVARIANCES = np.stack([COVARIANCE, 0.2 * np.eye(3)])
TWO = Mixture(WEIGHTS, MEANS, COVARIANCES)


def log_mixture(y, t):
    each = [
        np.log(weight) + log_normal(y, mean, covariance + t * np.eye(3))
        for weight, mean, covariance in zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    ]
    return np.logaddexp(*each)


def test_a_base_of_two_gaussians_is_their_log_density_with_noise_and_its_draws():
    mixture = MixtureBase.of_mixture(TWO)
    y, t = 2 * jax.random.normal(KEY, (5, 3)), jnp.array([0.01, 0.3, 1.0, 50.0, 0.3])
    expected = [log_mixture(y[i : i + 1], float(t[i]))[0] for i in range(5)]
    np.testing.assert_allclose(-mixture.energy(y, t), expected, rtol=1e-4)
    np.testing.assert_allclose(-mixture.energy(y, jnp.asarray(0.3)), log_mixture(y, 0.3), rtol=1e-4)
    number = 40_000
    x = np.asarray(mixture.sample(KEY, jnp.arange(number), jnp.zeros((number, 3, 1)), 0.04))
    mean = WEIGHTS @ MEANS
    centered = MEANS - mean
    within = np.einsum("k,kij->ij", WEIGHTS, COVARIANCES) + 0.04 * np.eye(3)
    between = np.einsum("k,ki,kj->ij", WEIGHTS, centered, centered)
    np.testing.assert_allclose(x.reshape(number, 3).mean(0), mean, atol=0.03)
    np.testing.assert_allclose(np.cov(x.reshape(number, 3).T), within + between, atol=0.03)
    energies = mixture.energy(jnp.asarray(x), jnp.asarray(0.04))  # entropy: of draws, by their law
    by_hand = -log_mixture(x.reshape(number, 3), 0.04)
    np.testing.assert_allclose(energies, by_hand, rtol=1e-3, atol=1e-3)


def test_a_mixture_is_the_density_where_the_network_is_nothing():
    """At every level, chains start there, samples are its draws, and another number is refused."""
    method = DualScoreMatching(
        NOTHING, MOMENTS, min_noise=0.1, max_noise=5.0, num_components=2, data_mixture=TWO,
        chain_weight=1.0,
    )  # fmt: skip
    params, densities = params_of(method), method.densities(params_of(method))
    y = jax.random.normal(KEY, (4, 3))
    for level in (0, 8, 19):
        variance = float(densities.sigma_bar[level]) ** 2
        found = densities.energy(level)(y)
        np.testing.assert_allclose(found, -log_mixture(y, variance), rtol=1e-4)
    first = np.sqrt(WEIGHTS @ (COVARIANCES[:, 0, 0] + MEANS[:, 0] ** 2) + 0.01 - 0.05**2)
    for x in (
        method.init(KEY, {"image": jnp.zeros((20_000, 3))})[1].sharded,
        jax.jit(method.sample)(params, KEY, jnp.arange(8_000)),
    ):
        np.testing.assert_allclose(x.mean(0), WEIGHTS @ MEANS, atol=0.04)
        assert np.std(x[:, 0]) == pytest.approx(first, rel=0.03)
    for mixture, got in ((None, "none"), (Mixture(*(v[:1] for v in TWO)), "1")):
        with pytest.raises(ValueError, match=f"num_components = 2, got {got}"):
            DualScoreMatching(
                NOTHING, MOMENTS, max_noise=5.0, num_components=2, data_mixture=mixture
            )


def test_densities_claim_what_they_are():
    """At every level exp(-E) integrates to 1, and annealing starts near the highest."""
    method = gaussian_method()
    densities = method.densities(params_of(method))
    y = jax.random.normal(KEY, (4, 3))
    for level in (0, 8, 19):
        covariance = COVARIANCE + float(densities.sigma_bar[level]) ** 2 * np.eye(3)
        expected = log_normal(y, MOMENTS.mean, covariance)
        np.testing.assert_allclose(densities.energy(level)(y), -expected, rtol=1e-4)
    np.testing.assert_array_equal(densities.log_z, np.zeros(20))
    times = np.linspace(2 * np.log(5.0), 2 * np.log(0.1), 19 * 5 + 1)  # of Heun's rule
    np.testing.assert_allclose(densities.flow.log_t, times, rtol=1e-5, atol=1e-5)
    assert gaussian_method(kind="langevin").densities(params_of(method)).flow is None
    assert densities.base.std == pytest.approx(np.sqrt(25 + 0.5))
    assert densities.base.center == pytest.approx(0.1)
    assert {type(number) for number in densities.base[:2]} == {float}


def test_the_network_fades_in_from_the_largest_noise():
    t = jnp.array([0.0, 2.0, 50.0])
    np.testing.assert_allclose(fade(t, 2.0, 50.0)[jnp.array([0, 2])], [1, 0], atol=1e-6)
    assert fade(t, 2.0, 50.0)[1] == pytest.approx((0.5 - 1 / 26) / (1 - 1 / 26))
    method = gaussian_method()
    params = jax.tree.map(lambda leaf: leaf + 7.0, params_of(method))
    densities = method.densities(params)
    y = jax.random.normal(KEY, (4, 3))
    highest = log_normal(y, MOMENTS.mean, COVARIANCE + 25 * np.eye(3))
    np.testing.assert_allclose(densities.energy(19)(y), -highest, rtol=1e-4)
    assert (
        np.abs(densities.energy(0)(y) - method.densities(params_of(method)).energy(0)(y)).min() > 1
    )


@pytest.mark.parametrize("covariance", [COVARIANCE, np.zeros((3, 3))])
def test_the_network_sees_points_drawn_in_to_the_size_of_the_data(covariance):
    """f = theta sum(mean + sqrt(v / (v + t)) (y - mean)), v the data's, or 1 where they are one."""
    method = DualScoreMatching(
        NOTHING, Moments(MOMENTS.mean, covariance), min_noise=0.1, max_noise=5.0
    )
    y = np.asarray(jax.random.normal(KEY, (4, 3)), np.float64)
    of_theta = [method.energy({"energy": theta}, jnp.log(0.3))(y) for theta in (0.0, 2.0)]
    base = log_normal(y, MOMENTS.mean, covariance + 0.3 * np.eye(3))
    np.testing.assert_allclose(of_theta[0], -base, rtol=1e-4)
    with jax.enable_x64(True):  # float32 stays what it is
        log_t = jnp.log(jnp.float32(0.3))
        assert method.energy({"energy": np.float32(0)}, log_t)(np.float32(y)).dtype == jnp.float32
    size = np.trace(covariance) / 3 or 1.0
    largest = np.linalg.eigvalsh(covariance)[-1] or 1.0
    at_end = 1 / (1 + 25 / largest)
    faded = (1 / (1 + 0.3 / largest) - at_end) / (1 - at_end)
    drawn_in = MOMENTS.mean + np.sqrt(size / (size + 0.3)) * (y - MOMENTS.mean)
    wanted = faded * 2 * drawn_in.sum(1)
    np.testing.assert_allclose(of_theta[1] - of_theta[0], wanted, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------- the loss


def test_both_terms_are_least_at_the_exact_energy():
    """Their slopes in a scale of the energy and in a shift of its mean vanish there alone."""
    number, gaussian = 20_000, MixtureBase.of_moments(MOMENTS)
    x = MOMENTS.mean + jax.random.normal(KEY, (number, 3)) @ np.linalg.cholesky(COVARIANCE).T
    t = jnp.exp(jnp.linspace(-4, 3, number))
    noise = random.normal(jax.random.key(1), jnp.arange(number), x)
    y = x + jnp.sqrt(t)[:, None] * noise

    def losses(scale, shift):
        moved = gaussian._replace(means=gaussian.means + shift)
        energy = lambda y, log_t: scale * jnp.sum(moved.energy(y, jnp.exp(log_t)))  # noqa: E731
        return dual_losses(*jax.grad(energy, argnums=(0, 1))(y, jnp.log(t)), noise, t)

    slopes = jax.jit(jax.jacfwd(losses, argnums=(0, 1)))

    def significance(scale, shift):
        """Of each term's slope [term, parameter], in standard errors."""
        found = np.asarray(slopes(scale, shift))
        return found.mean(-1) / (found.std(-1) / np.sqrt(number))

    assert np.abs(significance(1.0, 0.0)).max() < 4
    assert (significance(1.2, 0.0)[:, 0] > 10).all()
    assert (significance(0.8, 0.0)[:, 0] < -10).all()
    assert (significance(1.0, 0.3)[:, 1] > 10).all()


def test_the_loss_of_the_method_is_that_of_its_energy():
    """At f = 0, from the closed form of the Gaussian's derivatives."""
    method, index = gaussian_method(), jnp.arange(8)
    x = jax.random.normal(KEY, (8, 3))
    loss, (_, metrics) = jax.jit(method.loss)(
        params_of(method), MethodState(), {"image": x, "index": index}, KEY
    )
    time_key, noise_key = jax.random.split(KEY)
    place = np.asarray(random.uniform(time_key, index, ()))
    t = (0.1 * 50.0**place) ** 2
    noise = np.asarray(random.normal(noise_key, index, x))
    y = np.asarray(x) + np.sqrt(t)[:, None] * noise - MOMENTS.mean
    of_y, of_t = [], []
    for i in range(8):
        inverse = np.linalg.inv(COVARIANCE + t[i] * np.eye(3))
        grad = inverse @ y[i]
        slope = t[i] * (np.trace(inverse) - grad @ grad) / 2
        of_y.append(np.sum((np.sqrt(t[i]) * grad - noise[i]) ** 2) / 3)
        of_t.append((slope - (3 - noise[i] @ noise[i]) / 2) ** 2 / 9)
    assert loss == pytest.approx(np.mean(of_y) + np.mean(of_t), rel=1e-4)
    assert metrics["score_loss"].total.sum() == pytest.approx(np.sum(of_y), rel=1e-4)
    assert metrics["time_loss"].total.sum() == pytest.approx(np.sum(of_t), rel=1e-4)
    group = np.floor(8 * place).astype(int)
    for name, losses in (("score_loss", of_y), ("time_loss", of_t)):
        np.testing.assert_array_equal(metrics[name].count, np.bincount(group, minlength=8))
        by_group = np.bincount(group, losses, minlength=8)
        np.testing.assert_allclose(metrics[name].total, by_group, rtol=1e-3)
    energies = [
        -log_normal(y[i : i + 1], 0, COVARIANCE + t[i] * np.eye(3))[0] for i in range(8)
    ]  # y is without the mean
    assert metrics["energy_noisy"].value() == pytest.approx(np.mean(energies), rel=1e-4)


def with_chains(**settings):
    return DualScoreMatching(
        NOTHING, MOMENTS, min_noise=0.1, max_noise=5.0, chain_weight=6.0, chain_moves=2, **settings
    )


def test_chains_start_as_draws_of_the_gaussian_at_the_lowest_noise():
    x = jnp.zeros((20_000, 3))
    chains = with_chains().init(KEY, {"image": x})[1].sharded
    np.testing.assert_allclose(np.cov(chains.T), COVARIANCE + 0.01 * np.eye(3), atol=0.03)
    np.testing.assert_allclose(chains.mean(0), MOMENTS.mean, atol=0.03)
    assert gaussian_method().init(KEY, {"image": x})[1].sharded == ()


@pytest.mark.parametrize("name", ["chain_moves", "chain_after"])
def test_settings_of_chains_without_any_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} is read with method.chain_weight > 0 alone"):
        DualScoreMatching(NOTHING, MOMENTS, max_noise=5.0, **{name: 3})


def test_noises_that_do_not_fit_are_refused():
    """sqrt(10 tr(covariance)) at the least, up to rounding, and the lowest below the highest."""
    least = np.sqrt(15)
    drowned = (
        r"^method\.max_noise: expected at least 3\.873, by which the data are drowned to 0\.1 "
        r"nats, so that the base distribution is known, got 3\.87$"
    )
    for noises, says in (
        ((0.1, 3.87), drowned),
        ((0.1, least * (1 - 1.5e-6)), r"expected at least 3\.873, .* got 3\.87298$"),
        ((5.0, 5.0), r"^method\.min_noise: expected less than method\.max_noise, 5, got 5$"),
    ):
        with pytest.raises(ValueError, match=says):
            DualScoreMatching(NOTHING, MOMENTS, *noises)
    for highest in (least, least * (1 - 5e-7)):
        assert DualScoreMatching(NOTHING, MOMENTS, 0.1, highest).max_noise == highest


def test_chains_add_maximum_likelihood_at_the_lowest_noise():
    """The term, of which the rest is free, at data and at where chains end, by hand.

    Its gradient raises the energy where chains are and lowers it at the data.
    """
    method, plain, index = with_chains(chain_after=3), gaussian_method(), jnp.arange(8)
    x = MOMENTS.mean + 0.3 * jax.random.normal(KEY, (8, 3))
    theta, chains = 0.2 + params_of(plain)["energy"], x[::-1] + 0.5
    params, state = {"energy": theta}, MethodState((), chains)
    batch = {"image": x, "index": index}
    usual = jax.jit(plain.loss)(params, MethodState(), batch, KEY)[0]
    loss = jax.jit(jax.value_and_grad(method.loss, has_aux=True))

    (before, (kept, metrics)), _ = loss(params, state, {**batch, "step": jnp.asarray(2)}, KEY)
    assert before == pytest.approx(float(usual), rel=1e-5)
    np.testing.assert_array_equal(kept.sharded, chains)
    assert metrics["acceptance"].value() == 1

    (after, (ends, metrics)), slope = loss(params, state, {**batch, "step": jnp.asarray(3)}, KEY)
    key = jax.random.fold_in(KEY, 1)
    noise_key, chain_key = jax.random.split(key)
    energy_fn = plain.densities(params).energy(0)
    moved = persistent_chains.moved(
        chain_key, energy_fn, chains, num_moves=2, least_std=0.1, first_chain=jnp.asarray(0)
    )
    np.testing.assert_allclose(ends.sharded, moved.x, rtol=1e-4, atol=1e-5)
    x_pos = x + 0.1 * random.normal(noise_key, index, x)
    contrast = float(jnp.mean(energy_fn(x_pos) - energy_fn(moved.x)))
    assert after - usual == pytest.approx(6.0 * contrast / 3, rel=1e-3)
    assert metrics["energy_neg"].value() == pytest.approx(
        float(energy_fn(moved.x).mean()), rel=1e-4
    )
    assert metrics["acceptance"].value() == pytest.approx(float(moved.acceptance.mean()), rel=1e-4)
    without = jax.grad(plain.loss, has_aux=True)(params, MethodState(), batch, KEY)[0]
    # g f, f = theta sum(y') and y' drawn in
    size, largest = MOMENTS.covariance.trace() / 3, np.linalg.eigvalsh(COVARIANCE).max()
    factor = np.sqrt(size / (size + 0.01)) * float(fade(jnp.asarray(0.01), largest, 25.0))
    expected = 2 * factor * (x_pos - moved.x).sum(1).mean()
    found = slope["energy"] - without["energy"]
    assert found == pytest.approx(float(expected), rel=1e-3)


def test_about_a_mixture_chains_try_its_draws_too():
    """After their moves, by hand; where the network is nothing all are taken."""
    method = DualScoreMatching(
        NOTHING, MOMENTS, min_noise=0.1, max_noise=5.0, num_components=2, data_mixture=TWO,
        chain_weight=6.0, chain_moves=2,
    )  # fmt: skip
    params, index = params_of(method), jnp.arange(8)
    x = MOMENTS.mean + 0.3 * jax.random.normal(KEY, (8, 3))
    batch = {"image": x, "index": index, "step": jnp.asarray(0)}
    chain_key = jax.random.split(jax.random.fold_in(KEY, 1))[1]
    draw_key, test_key = jax.random.split(jax.random.fold_in(chain_key, 2))
    draws = method.base_law.sample(draw_key, index, x, 0.01)
    for theta, chances in ((0.0, (1, 1)), (1.0, (0.05, 0.99))):
        params = {"energy": jnp.asarray(theta)}
        energy_fn = method.densities(params).energy(0)
        _, (state, metrics) = jax.jit(method.loss)(params, MethodState((), x), batch, KEY)
        moved = persistent_chains.moved(
            chain_key, energy_fn, x, num_moves=2, least_std=0.1, first_chain=jnp.asarray(0)
        )
        base_energy_fn = lambda y: method.base_law.energy(y, jnp.asarray(0.01))  # noqa: E731
        expected = persistent_chains.jumped(
            test_key, energy_fn, base_energy_fn, moved.x, draws, index
        )
        np.testing.assert_allclose(state.sharded, expected.x, rtol=1e-3, atol=1e-4)
        found = float(metrics["jump_acceptance"].value())
        assert found == pytest.approx(float(expected.acceptance.mean()), abs=1e-3)
        assert chances[0] <= found + 1e-3 <= chances[1] + 2e-3


# -------------------------------------------------------------------------------- samples


def annealed_variances(method):
    """Of annealed Langevin along each direction of the base: v <- (1 - h / (v_0 + t))^2 v + 2 h."""
    exact = method.base_law.variances[0].astype(np.float64)
    found = exact + method.max_noise**2
    for t in method.sigma[::-1].astype(np.float64) ** 2:
        h = method.sampler.step_scale * t
        for _ in range(method.sampler.num_steps):
            found = (1 - h / (exact + t)) ** 2 * found + 2 * h
    return found


@pytest.mark.parametrize("kind", ["langevin", "ode"])
def test_samples_of_a_gaussian_have_its_moments(kind):
    method = gaussian_method(kind=kind, num_steps=20 if kind == "langevin" else 5)
    number, at_lowest = 8_000, method.base_law.variances[0] + 0.01
    x = np.asarray(jax.jit(method.sample)(params_of(method), KEY, jnp.arange(number)))
    along = (x - MOMENTS.mean) @ method.base_law.bases[0]
    expected = annealed_variances(method) if kind == "langevin" else at_lowest
    np.testing.assert_array_less(np.abs(along.mean(0)), 4 * np.sqrt(expected / number))
    deviation = along.T @ along / number - np.diag(expected)
    scale = np.sqrt(np.outer(expected, expected) * (1 + np.eye(3)) / number)
    np.testing.assert_array_less(np.abs(deviation), 4 * scale + 0.01 * expected)
    if kind == "langevin":  # slower than the levels fall, and with steps that widen
        np.testing.assert_allclose(expected, at_lowest, rtol=0.2)


# ------------------------------------------------------------- two scales, unequal masses

VARIANCES, SHARE = np.array([1.0, 16.0]), 0.2  # of the first


def two_scales(rng, number, size):
    """s eps, s = 1 with probability SHARE, else 4; (x, whose scale is 4)."""
    is_wide = rng.uniform(size=number) > SHARE
    scale = np.sqrt(VARIANCES[is_wide.astype(int)])
    return (scale[:, None] * rng.normal(size=(number, size))).astype(np.float32), is_wide


def exact_energy(y, t):
    squares = np.sum(np.asarray(y, np.float64) ** 2, 1)[:, None]
    variances = VARIANCES + t
    each = -0.5 * (squares / variances + y.shape[1] * np.log(2 * np.pi * variances))
    return -np.logaddexp.reduce(each + np.log([SHARE, 1 - SHARE]), axis=1)


def radial(size, width=32):
    """d times a network of log |y|^2 / d and log t."""
    shapes = ((6, width), (width, width), (width, 1))

    def init(key):
        keys = jax.random.split(key, len(shapes))
        return [
            (jax.random.normal(k, shape) / np.sqrt(shape[0]), jnp.zeros(shape[1]))
            for k, shape in zip(keys, shapes, strict=True)
        ]

    def energy_fn(params, y, log_t):
        squares = jnp.log(jnp.mean(y**2, axis=1) + 1e-3)
        squares, log_t = jnp.broadcast_arrays(squares, log_t / 3)
        h = jnp.stack([squares, squares**2, log_t, log_t**2 / 3, log_t * squares, 1 + 0 * log_t], 1)
        for weight, bias in params[:-1]:
            h = jax.nn.swish(h @ weight + bias)
        return size * (h @ params[-1][0] + params[-1][1])[:, 0] / 10

    return FunctionNetwork(energy_fn, init, (size,))


def trained_energy(size, max_noise, num_steps, batch_size, time_weight=1.0):
    """(y, t) -> U(y, t) [batch] after training; time_weight 0 is score matching alone."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(two_scales(rng, 20_000, size)[0])
    covariance = (SHARE * VARIANCES[0] + (1 - SHARE) * VARIANCES[1]) * np.eye(size)
    method = DualScoreMatching(
        radial(size), Moments(np.zeros(size), covariance), min_noise=0.1, max_noise=max_noise
    )
    params = params_of(method)
    optimizer = optax.adam(optax.cosine_decay_schedule(5e-3, num_steps))

    def loss(params, key):
        keys = jax.random.split(key, 3)
        chosen = x[jax.random.randint(keys[0], (batch_size,), 0, len(x))]
        log_t = 2 * jax.random.uniform(
            keys[1], (batch_size,), minval=np.log(0.1), maxval=np.log(max_noise)
        )
        noise = jax.random.normal(keys[2], chosen.shape)
        y = chosen + jnp.exp(log_t / 2)[:, None] * noise
        energy = lambda y, log_t: jnp.sum(method.energy(params, log_t)(y))  # noqa: E731
        of_y, of_t = dual_losses(*jax.grad(energy, argnums=(0, 1))(y, log_t), noise, jnp.exp(log_t))
        return jnp.mean(of_y + time_weight * of_t)

    def step(carry, n):
        params, state = carry
        grads = jax.grad(loss)(params, jax.random.fold_in(KEY, n))
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), None

    run = jax.jit(lambda carry: jax.lax.scan(step, carry, jnp.arange(num_steps))[0])
    params, _ = run((params, optimizer.init(params)))
    energy = jax.jit(lambda y, t: method.energy(params, jnp.log(t))(y))
    return lambda y, t: np.asarray(energy(y, jnp.float32(t)), np.float64)


def errors(energy, size, noises):
    """U - exact at each noise, [noises, 2]: means over points of the narrow and the wide mode."""
    rng, found = np.random.default_rng(1), []
    for sigma in noises:
        x, is_wide = two_scales(rng, 4_000, size)
        y = x + np.float32(sigma) * rng.normal(size=x.shape).astype(np.float32)
        error = energy(y, sigma**2) - exact_energy(y, sigma**2)
        found.append([error[~is_wide].mean(), error[is_wide].mean()])
    return np.array(found)


def test_two_scales_in_four_dimensions_at_every_noise():
    """Their log density itself, so that both modes have their mass."""
    energy = trained_energy(4, max_noise=25.0, num_steps=1_500, batch_size=256)
    found = errors(energy, 4, (0.1, 0.5, 2.0, 8.0, 25.0))
    assert np.abs(found).max() < 0.2  # nats


@pytest.mark.slow
def test_two_scales_in_a_thousand_dimensions_need_both_derivatives():
    """The modes do not meet where noise is low: only the path through the noises says their mass.

    In this short run to a few nats; the energies of the modes differ by 1,386.
    """
    options = {"max_noise": 400.0, "num_steps": 1_500, "batch_size": 64}
    noises = (0.1, 1.0, 4.0, 20.0, 400.0)
    dual = errors(trained_energy(1_000, **options), 1_000, noises)
    score_alone = errors(trained_energy(1_000, **options, time_weight=0.0), 1_000, noises)
    assert np.abs(dual).max() < 15
    assert np.abs(dual[:, 1] - dual[:, 0]).max() < 15
    assert np.abs(score_alone[0, 1] - score_alone[0, 0]) > 100
