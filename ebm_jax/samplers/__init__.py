"""MCMC for many chains in JAX: kernels, presets, runners. Imports jax and numpy alone.

    from ebm_jax import samplers
    kernel = samplers.langevin(energy_fn, step_size=0.01)
    state, info = samplers.run_chain(rng_key, kernel, x0, num_steps=1_000)

`p(x) ∝ exp(-energy_fn(x))`, `energy_fn: [chains, ...] -> [chains]`, everywhere.
"""

from ebm_jax.samplers.base import EnergyFn, Info, Kernel, State, from_log_density
from ebm_jax.samplers.chains import run_chain
from ebm_jax.samplers.langevin import langevin, langevin_update

__all__ = [
    "EnergyFn",
    "Info",
    "Kernel",
    "State",
    "from_log_density",
    "langevin",
    "langevin_update",
    "run_chain",
]
