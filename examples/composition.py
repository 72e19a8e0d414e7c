"""Energies made of energies: a product, a mixture and a conditional, each sampled by MALA.

    python examples/composition.py

Nothing but jax is imported by `ebm_jax.energy` and `ebm_jax.samplers`, so that this works in any
JAX project, on any energies: here of two Gaussians, for which the answers are known.
"""

import jax
import jax.numpy as jnp

from ebm_jax import energy, samplers


def gaussian(mean, std):
    """The energy of N(mean, diag(std^2)): any function of x [batch, 2] -> [batch] would do."""
    mean, std = jnp.asarray(mean), jnp.asarray(std)
    return lambda x: 0.5 * jnp.sum(((x - mean) / std) ** 2, axis=-1)


def sample(energy_fn: energy.EnergyFn, num_chains: int = 4_000, num_steps: int = 400) -> jax.Array:
    """Positions [num_chains, 2] of chains that all start at the origin."""
    kernel = samplers.mala(energy_fn, step_size=0.4)
    start = jnp.zeros((num_chains, 2))
    return samplers.run_chain(jax.random.key(0), kernel, start, num_steps)[0].x


def main() -> dict[str, tuple[jax.Array, jax.Array]]:
    """{composition: (mean of the samples, the true mean)}."""
    left, right = gaussian([-1.0, 0.0], [1.0, 1.0]), gaussian([1.0, 1.0], [1.0, 0.5])

    both = energy.sum_energies([left, right])  # p_left(x) p_right(x): precisions add up
    either = energy.mixture_energy([left, right], weights=[0.25, 0.5])  # of exp(-E): see below
    is_fixed, x_fixed = jnp.array([False, True]), jnp.array([0.0, 0.5])
    given = energy.clamp(both, is_fixed, x_fixed)  # x_1 given that x_2 is 0.5
    conditional = jnp.where(is_fixed, x_fixed, sample(given))

    # exp(-E) of the right one integrates to half of the left one's: the shares are 1/2 and 1/2.
    return {
        "sum": (sample(both).mean(axis=0), jnp.array([0.0, 0.8])),
        "mixture": (sample(either).mean(axis=0), jnp.array([0.0, 0.5])),
        "clamp": (conditional.mean(axis=0), jnp.array([0.0, 0.5])),
    }


if __name__ == "__main__":
    for name, (found, true) in main().items():
        print(f"{name}: mean {found}, truth {true}")
