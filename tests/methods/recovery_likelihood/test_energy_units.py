"""A network whose output is in nats, beside one whose output is multiplied by 1 / s_t^2."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ebm_jax.diffusion import make_schedule
from ebm_jax.methods import MethodState, RecoveryLikelihood
from ebm_jax.methods.recovery_likelihood.transitions import energy_scale

SCHEDULE = make_schedule(3)
STEP = {"step_scale": 0.02, "step_growth": 0.5}
KEY = jax.random.key(0)


class Waves(nn.Module):
    """factor_t theta sum_i cos x_i: (factor, scale) and (factor * scale, 1) are the same."""

    factor: tuple[float, ...]
    input_shape = (2,)

    @nn.compact
    def __call__(self, x, condition):
        theta = self.param("theta", nn.initializers.constant(0.3), ())
        return jnp.asarray(self.factor)[condition] * theta * jnp.sum(jnp.cos(x), -1)


@pytest.fixture(scope="module")
def both():
    """(loss and gradient, metrics, samples) with 1 / s_t^2 outside the network, and inside."""
    per_nat = tuple(float(1 / s) for s in SCHEDULE.langevin_scale(**STEP))
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    params = {"theta": jnp.asarray(0.3)}
    found = []
    for in_nats, factor in ((False, (1.0,) * 3), (True, per_nat)):
        method = RecoveryLikelihood(
            Waves(factor), num_pairs=3, num_steps=4, energy_in_nats=in_nats, **STEP
        )

        @jax.jit
        def evaluate(params, method=method):
            loss = lambda p: method.loss(p, MethodState(), {"image": x}, KEY)  # noqa: E731
            (_, (_, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(params)
            return grads, metrics, method.sample(params, KEY, jnp.arange(5))

        found.append(evaluate(params))
    return found


def test_chains_are_the_same(both):
    (_, metrics, samples), (_, nat_metrics, nat_samples) = both
    for name in ("displacement", "chain_grad_norm"):
        np.testing.assert_allclose(
            nat_metrics[name].total, metrics[name].total, rtol=1e-4, err_msg=name
        )
    np.testing.assert_allclose(nat_samples, samples, rtol=1e-3, atol=1e-5)


def test_losses_and_gradients_are_in_the_outputs_unit(both):
    """Each level's loss is weight * (E_pos - E_neg) of the network's output, in either unit."""
    (grads, metrics, _), (nat_grads, nat_metrics, _) = both
    scale = SCHEDULE.langevin_scale(**STEP)
    per_level = metrics["level_loss"].total
    np.testing.assert_allclose(nat_metrics["level_loss"].total, per_level / scale, rtol=2e-3)
    # The output is linear in theta = 0.3, so that the gradient is the loss over theta.
    for gradient, total in ((grads, per_level), (nat_grads, per_level / scale)):
        np.testing.assert_allclose(gradient["theta"], total.sum() / 60 / 0.3, rtol=5e-3)


def test_energy_scale():
    scale = RecoveryLikelihood(Waves((1.0,) * 3), num_pairs=3, **STEP).energy_scale
    np.testing.assert_allclose(scale * SCHEDULE.langevin_scale(**STEP), 1.0, rtol=1e-6)
    nats = RecoveryLikelihood(Waves((1.0,) * 3), num_pairs=3, energy_in_nats=True, **STEP)
    np.testing.assert_array_equal(nats.energy_scale, np.ones(3))
    of_noise = RecoveryLikelihood(Waves((1.0,) * 3), num_pairs=3, transition="gaussian")
    np.testing.assert_allclose(of_noise.energy_scale * SCHEDULE.sigma_bar[:-1], 1.0, rtol=1e-6)
    published = energy_scale(SCHEDULE)  # b^2 = 2e-4, g = 1, of an output that is not in nats
    np.testing.assert_allclose(published * SCHEDULE.langevin_scale(2e-4, 1.0), 1.0, rtol=1e-6)
