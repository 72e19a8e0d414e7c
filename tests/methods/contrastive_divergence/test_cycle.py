"""Checkpoints that take turns along a chain: without noise, a product of their factors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_networks import Bowl, PerClass, Quadratic

from ebm_jax import networks
from ebm_jax.methods import ContrastiveDivergence
from ebm_jax.methods.contrastive_divergence import ContrastiveDivergenceSampler
from ebm_jax.networks.ensemble import Ensemble

KEY = jax.random.key(0)
INDEX = jnp.arange(6)
THETAS = (0.5, 2.0, 1.0)
PARAMS = {f"member_{i}": {"theta": jnp.asarray(theta)} for i, theta in enumerate(THETAS)}


def cycle(network, num_members=3, **sampler):
    """Chains of K = 4 steps of size .1, without noise or clipping, far from their box."""
    return ContrastiveDivergence(
        Ensemble(network, num_members, "cycle"), low=-50.0, high=50.0, num_steps=4, step_size=0.1,
        noise_std=0.0, max_grad=0.0, sampler=ContrastiveDivergenceSampler(**sampler),
    )  # fmt: skip


@pytest.mark.parametrize("num_steps", [12, 17, 30])
def test_turns_of_k_steps(num_steps):
    """Step s is on checkpoint (s // K) mod n, to the last of the steps."""
    method = cycle(Quadratic(), num_steps=num_steps)
    start = method._starts(jax.random.split(KEY)[0], INDEX)
    factor = np.prod([1 - 0.1 * THETAS[s // 4 % 3] for s in range(num_steps)])
    found = jax.jit(method.sample)(PARAMS, KEY, INDEX)
    np.testing.assert_allclose(found, factor * np.asarray(start), rtol=1e-4)


def test_one_checkpoint_in_turn_with_itself_is_that_checkpoint():
    """In law: with noise, the variance that its recursion has."""
    method = ContrastiveDivergence(
        Ensemble(Quadratic(), 2, "cycle"), low=-50.0, high=50.0, num_steps=4, step_size=0.1,
        noise_std=0.004, max_grad=0.0, sampler=ContrastiveDivergenceSampler(num_steps=100),
    )  # fmt: skip
    same = {f"member_{i}": {"theta": jnp.asarray(1.5)} for i in range(2)}
    x = jax.jit(method.sample)(same, KEY, jnp.arange(4_000))
    decay = 1 - 0.1 * 1.5
    variance = (0.4 * decay) ** 2 / (1 - decay**2)
    assert np.var(x) == pytest.approx(variance, rel=4 * np.sqrt(2 / 4_000))
    assert abs(np.corrcoef(x[:-1, 0], x[1:, 0])[0, 1]) < 4 / np.sqrt(4_000)


def test_labels_reach_every_checkpoint():
    """Chains of class y end at its center, whichever checkpoint has the last turn."""
    method = cycle(PerClass(), 2, num_steps=100)
    params = {f"member_{i}": {"offset": jnp.asarray(float(i))} for i in range(2)}
    x = jax.jit(method.sample)(params, KEY, INDEX)
    np.testing.assert_allclose(x[:, 0], np.arange(6) % 3, atol=50 * 0.9**100)


def test_restoring_and_inpainting_take_turns_too():
    scales = (0.5, 2.0, 1.0)
    params = {f"member_{i}": {"scale": jnp.asarray(scale)} for i, scale in enumerate(scales)}
    method = cycle(Bowl(), num_steps=15)
    x = jax.random.normal(KEY, (6, 2, 2, 1))
    label = jnp.zeros(6, int)
    factor = np.prod([1 - 0.1 * scales[s // 4 % 3] for s in range(15)])
    found = jax.jit(method.restore)(params, KEY, x, INDEX, label)
    np.testing.assert_allclose(found, 0.25 + factor * (x - 0.25), rtol=1e-4, atol=1e-6)
    is_known = jnp.array([[True, False], [True, True]])[..., None]
    found = jax.jit(method.inpaint)(params, KEY, x, is_known, INDEX, label)
    start = np.asarray(method._starts(jax.random.split(KEY)[0], INDEX))
    wanted = np.where(is_known, x, 0.25 + factor * (start - 0.25))
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_there_is_no_density_and_no_energy_together():
    method = cycle(Quadratic())
    with pytest.raises(ValueError, match="asks for a density, got 'cycle', whose checkpoints take"):
        method.densities(PARAMS)
    with pytest.raises(ValueError, match="3 energies that take turns have no energy together"):
        networks.make_energy_fn(method.network, PARAMS)


def test_chains_that_are_too_short_for_all_turns():
    with pytest.raises(ValueError, match=r"at least 12 steps, .* each of 3 checkpoints .* 11$"):
        cycle(Quadratic(), num_steps=11).sample(PARAMS, KEY, INDEX)
