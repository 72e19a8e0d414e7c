"""Every term of IGEBM's loss, on chains that can be written down."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import Quadratic

from ebm_jax import samplers
from ebm_jax.methods import ContrastiveDivergence, MethodState
from ebm_jax.methods.contrastive_divergence.loss import FORMS, likelihood_loss

KEY = jax.random.key(0)


@pytest.mark.parametrize("form", FORMS)
def test_every_term_of_the_loss_on_a_deterministic_chain(form):
    """At temperature 0 a chain from x ends at a^K x, a = 1 - h T theta, so all is elementary."""
    h, theta, temperature, l2, weight, k = 0.1, 2.0, 1.5, 0.3, 0.7, 3
    method = ContrastiveDivergence(
        Quadratic(),
        num_steps=k,
        chain_init="data",
        form=form,
        likelihood_weight=weight,
        energy_l2=l2,
        temperature=temperature,
        make_kernel=functools.partial(samplers.langevin, step_size=h, temperature=0.0),
    )
    x = np.array([[0.2], [0.5], [0.9]])
    end = ((1 - h * temperature * theta) ** k * x)[:, 0] ** 2

    def total(theta, end_of_chain=end):
        pos, neg = 0.5 * theta * x[:, 0] ** 2, 0.5 * theta * end
        t = temperature
        if form == "softplus":
            value = np.mean(np.log1p(np.exp(t * (pos - neg))))
        elif form == "logsumexp":
            fixed = 0.5 * 2.0 * end
            w = np.exp(-t * (fixed - fixed.min()))
            value = t * pos.mean() - np.sum(w * t * neg) / (w.sum() + 1e-4)
        else:
            value = t * (pos.mean() - neg.mean())
        value = weight * value + l2 * (np.mean(pos**2) + np.mean(neg**2))
        if form == "cd_with_kl":  # the weights of the energy fixed, those of the chain not
            value += np.mean(0.5 * 2.0 * (1 - h * t * theta) ** (2 * k) * x[:, 0] ** 2)
        return value

    loss_and_grad = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    batch = {"image": jnp.asarray(x, jnp.float32)}
    (loss, _), grads = loss_and_grad({"theta": jnp.float32(theta)}, MethodState(), batch, KEY)
    assert loss == pytest.approx(total(theta), rel=1e-5)
    slope = (total(theta + 1e-5) - total(theta - 1e-5)) / 2e-5
    assert grads["theta"] == pytest.approx(slope, rel=1e-4)


def test_the_usual_term_is_the_difference_of_means():
    found = likelihood_loss(jnp.array([1.0, 4.0]), jnp.array([3.0, -2.0]))
    assert found == pytest.approx(2.5 - 0.5)
