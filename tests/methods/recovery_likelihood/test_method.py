"""Settings that recovery likelihood refuses, or that exclude each other; chains with a test."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ebm_jax import samplers
from ebm_jax.methods import RecoveryLikelihood
from ebm_jax.methods.recovery_likelihood import RecoverySampler, transitions
from ebm_jax.networks import EnergyMLP

MLP = EnergyMLP(width=8, depth=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": -1}, "num_steps: expected a whole number >= 1, got -1"),
        ({"num_steps": 0}, "num_steps: expected a whole number >= 1, got 0"),
        ({"step_scale": 0.0}, r"step_scale: expected a number > 0, got 0\.0"),
        ({"step_scale": -1.0}, r"step_scale: expected a number > 0, got -1\.0"),
        (
            {"transition": "normal"},
            "transition: expected one of langevin, mala, gaussian, got 'normal'",
        ),
        ({"transition_variance": "none"}, "transition_variance: expected one of step, posterior"),
        ({"transition_variance": "posterior"}, "read with transition='gaussian' alone"),
        (
            {"transition": "mala", "transition_variance": "posterior"},
            "expected 'step' with 'mala', got 'posterior'",
        ),
        (
            {"transition": "mala", "noise_scale": 0.0},
            r"method.noise_scale: expected > 0 with method.transition='mala', as chains without",
        ),
        (
            {"transition": "mala", "sampler": RecoverySampler(noise_scale=0.0)},
            r"sampler.noise_scale: expected > 0 with method.transition='mala'",
        ),
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


def test_chains_without_a_test_may_be_without_noise():
    silent = RecoverySampler(noise_scale=0.0)
    assert RecoveryLikelihood(MLP, noise_scale=0.0, sampler=silent).noise_scale == 0


class Quadratic(nn.Module):
    """E(y, t) = curvature |y|^2 / 2 of points, whatever the level."""

    curvature: float
    input_shape = (1,)

    @nn.compact
    def __call__(self, y, level):
        del level
        factor = self.param("factor", nn.initializers.constant(self.curvature), ())
        return factor * jnp.sum(y**2, -1) / 2


def method_of(transition, curvature):
    method = RecoveryLikelihood(
        Quadratic(curvature), num_pairs=1, noise_levels=(0.3,), transition=transition,
        num_steps=60, step_scale=0.1, step_growth=0.0, energy_in_nats=True,
        sampler=RecoverySampler(noise_scale=1.0),
    )  # fmt: skip
    params, _ = method.init(jax.random.key(0), {"image": jnp.zeros((1, 1))})
    return method, params


def negatives(transition, curvature):
    """Ends of a long chain at the last level, whose conditional is the marginal: s_t^2 = .1."""
    method, params = method_of(transition, curvature)
    index = jnp.arange(4_000)
    step = float(method.schedule.langevin_scale(0.1, 0.0)[0]) / 2
    y = jax.jit(method.sample)(params, jax.random.key(1), index) * method.schedule.multiplier[0]
    return np.asarray(y, np.float64)[:, 0], step * curvature


def test_chains_with_a_test_are_exact_and_do_not_climb_where_the_step_is_too_long():
    y, relative_step = negatives("langevin", 20.0)
    assert y.var() * 20 == pytest.approx(1 / (1 - relative_step / 2), rel=0.1)  # not that of E
    y, _ = negatives("mala", 20.0)
    assert y.var() * 20 == pytest.approx(1.0, abs=4 * np.sqrt(2 / 4_000))
    y, relative_step = negatives("langevin", 60.0)
    assert relative_step > 2
    assert np.abs(y).max() > 1e3
    y, _ = negatives("mala", 60.0)
    assert np.abs(y).max() < 5  # where the chains started, N(0, 1)


def test_tested_chains_are_not_stuck_where_the_energy_is_steep():
    """Curvature 600: a move by the whole gradient would be -27 from 1, and never accepted."""
    y, relative_step = negatives("mala", 600.0)
    assert relative_step > 25
    assert np.abs(y).max() < 0.5


@pytest.mark.parametrize("transition", ["langevin", "mala"])
def test_chains_on_the_density_are_those_of_the_transition(transition):
    method, params = method_of(transition, 20.0)
    densities = method.densities(params)
    kernel = densities.native_kernel(densities.energy(0), 0)
    x = jnp.ones((500, 1))
    _, info = samplers.run_chain(jax.random.key(2), kernel, x, 5)
    is_tested = bool((info.acceptance < 1).any())
    assert is_tested == (transition == "mala")


def test_chains_with_a_test_have_the_temperature_1_unless_told():
    """On no energy every move is taken: sqrt(2 h T) xi."""
    x = jnp.zeros((4_000, 1))
    for settings, temperature in (({}, 1.0), ({"temperature": 0.25}, 0.25)):
        kernel = transitions.bounded_mala(lambda x: 0 * x[:, 0], jnp.float32(0.3), **settings)
        moved, _ = kernel.step(jax.random.key(3), kernel.init(x))
        wanted = np.sqrt(2 * 0.3 * temperature)
        assert moved.x.std() == pytest.approx(wanted, rel=4 / np.sqrt(2 * 4_000))
        # on a slope so steep that no move upwards is taken: one standard deviation down, and noise
        steep = transitions.bounded_mala(lambda x: 1e4 * x[:, 0], jnp.float32(0.3), **settings)
        moved, _ = steep.step(jax.random.key(3), steep.init(x))
        assert np.mean(moved.x < 0) == pytest.approx(0.8413, abs=4 * np.sqrt(0.13 / 4_000))


def test_tested_chains_have_no_blends():
    method, params = method_of("mala", 20.0)
    one = jnp.zeros(3, jnp.int32)
    blend = samplers.random.Blend(one, one + 1, jnp.ones(3), jnp.zeros(3))
    with pytest.raises(TypeError, match="expected an unadjusted kernel for blended chains"):
        method.sample(params, jax.random.key(0), blend)
