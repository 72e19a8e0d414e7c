"""A sampler of one's own: the Barker proposal, checked against a Gaussian.

    python examples/new_sampler.py

Livingstone & Zanella 2022 (arXiv 1908.11812): every coordinate of a symmetric proposal is turned
towards lower energy with a probability that depends on the gradient there. It stands too large a
step better than MALA does.
"""

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jax.tree_util import Partial

from ebm_jax import samplers
from ebm_jax.samplers import random
from ebm_jax.samplers.base import energy_and_grad, init_state
from ebm_jax.samplers.metropolis import metropolis


def barker(energy_fn: samplers.EnergyFn, step_size: float) -> samplers.Kernel:
    """Barker's proposal and a Metropolis test; leaves exp(-E) exactly invariant.

    x'_j = x_j + b_j z_j, z ~ N(0, step_size^2), b_j = 1 with probability sigmoid(-z_j dE/dx_j),
    else -1. One gradient per step. Positions are one array [chains, ...].
    """
    # Partial: kernels of equal functions share their compilations, whatever the step size.
    step = Partial(_barker_step, energy_fn=energy_fn, step_size=jnp.asarray(step_size))
    return samplers.Kernel(Partial(init_state, energy_fn=energy_fn), step)


def _barker_step(rng_key, state, *, energy_fn, step_size):
    # All noise is a function of (key, chain), never of the number of chains.
    noise = random.normal(rng_key, state.chain, state.x)
    uniform = norm.cdf(random.normal(jax.random.fold_in(rng_key, 1), state.chain, state.x))
    z = step_size * noise
    move = jnp.where(uniform < jax.nn.sigmoid(-z * state.grad), z, -z)
    x = state.x + move
    energy, grad = energy_and_grad(energy_fn, x)
    proposal = state._replace(x=x, energy=energy, grad=grad)
    terms = jax.nn.log_sigmoid(move * grad) - jax.nn.log_sigmoid(-move * state.grad)
    log_ratio = state.energy - energy + terms.sum(axis=range(1, terms.ndim))
    return metropolis(rng_key, state, proposal, log_ratio)


def main(num_chains: int = 2_000, num_steps: int = 300):
    """(std of the chains, std of the Gaussian, mean acceptance)."""
    std = jnp.array([1.0, 0.5, 0.25])
    kernel = barker(lambda x: 0.5 * jnp.sum((x / std) ** 2, axis=-1), step_size=0.5)
    start = jnp.ones((num_chains, 3))
    state, info = samplers.run_chain(jax.random.key(0), kernel, start, num_steps)
    return state.x.std(axis=0), std, info.acceptance.mean()


if __name__ == "__main__":
    print("std of the chains {}, of the Gaussian {}, acceptance {:.2f}".format(*main()))
