"""Same target, same step size, same acceptance as BlackJAX, for MALA and HMC."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers

blackjax = pytest.importorskip("blackjax")

NUM_CHAINS, NUM_STEPS, DIMENSIONS = 2000, 8, 20
PRECISION = jnp.linspace(0.5, 4.0, DIMENSIONS)


def energy_fn(x):
    return jnp.sum(0.5 * PRECISION * x**2 + 0.3 * jnp.cos(2 * x), axis=1)


def logdensity_fn(x):
    return -energy_fn(x[None])[0]


@pytest.mark.parametrize(
    ("kernel", "algorithm"),
    [
        (samplers.mala(energy_fn, 0.15), blackjax.mala(logdensity_fn, 0.15)),
        (
            samplers.hmc(energy_fn, 0.35, 4, mass=PRECISION[None, :]),
            blackjax.hmc(logdensity_fn, 0.35, 1 / PRECISION, 4),
        ),
    ],
    ids=["mala", "hmc"],
)
def test_acceptance(kernel, algorithm):
    rng = np.random.default_rng(0)
    x0 = jnp.asarray(rng.normal(size=(NUM_CHAINS, DIMENSIONS)) / np.sqrt(PRECISION), jnp.float32)
    ours_state, ours = samplers.run_chain(jax.random.key(0), kernel, x0, NUM_STEPS)

    @jax.jit
    def run(key, x):
        def body(state, key):
            keys = jax.random.split(key, NUM_CHAINS)
            state, info = jax.vmap(algorithm.step)(keys, state)
            return state, info.acceptance_rate

        keys = jax.random.split(key, NUM_STEPS)
        return jax.lax.scan(body, jax.vmap(algorithm.init)(x), keys)

    theirs_state, rates = run(jax.random.key(1), x0)
    a, b = np.asarray(ours.acceptance), np.asarray(rates.mean(axis=0))
    error = np.sqrt((a.var() + b.var()) / NUM_CHAINS)
    assert abs(a.mean() - b.mean()) < 4 * error
    assert 0.5 < a.mean() < 0.95
    e, f = np.asarray(ours_state.energy), -np.asarray(theirs_state.logdensity)
    assert abs(e.mean() - f.mean()) < 4 * np.sqrt((e.var() + f.var()) / NUM_CHAINS)
