"""MCMC for many chains in JAX: kernels, presets, runners. Imports jax and numpy alone.

    from ebm_jax import samplers
    kernel = samplers.mala(energy_fn, step_size=0.05)
    state, info = samplers.run_chain(rng_key, kernel, x0, num_steps=1_000)

`p(x) ∝ exp(-energy_fn(x))`, `energy_fn: [chains, ...] -> [chains]`, everywhere.
"""

from ebm_jax.samplers.ais import (
    AISResult,
    ais,
    bootstrap_standard_error,
    geometric_path,
    summarize_weights,
)
from ebm_jax.samplers.base import EnergyFn, Info, Kernel, State, from_log_density
from ebm_jax.samplers.chains import run_chain
from ebm_jax.samplers.diagnostics import (
    acceptance_rate,
    ess_bulk,
    ess_mean,
    ess_quantile,
    ess_tail,
    mcse_mean,
    mcse_quantile,
    mcse_sd,
    split_r_hat,
    summarize,
)
from ebm_jax.samplers.hmc import hmc
from ebm_jax.samplers.interop import from_blackjax, to_blackjax
from ebm_jax.samplers.langevin import langevin, langevin_update
from ebm_jax.samplers.mala import mala
from ebm_jax.samplers.presets import (
    drl_langevin,
    drl_update,
    igebm_langevin,
    igebm_update,
    mdsm_langevin,
    mdsm_temperatures,
    mdsm_update,
    ncsn_langevin,
    ncsn_step_size,
    ncsn_update,
    temperature_of_noise,
)
from ebm_jax.samplers.progress import PartialRun, run_with_progress
from ebm_jax.samplers.replay_buffer import (
    ReplayBuffer,
    ReplayCodec,
    ReplayState,
    replay_buffer,
    replay_codec,
)
from ebm_jax.samplers.schedule import run_schedule
from ebm_jax.samplers.tempering import TemperingInfo, TemperingState, parallel_tempering
from ebm_jax.samplers.underdamped import UnderdampedState, baoab_update, underdamped_langevin
from ebm_jax.samplers.warmup import WarmupResult, warmup

__all__ = [
    "AISResult",
    "EnergyFn",
    "Info",
    "Kernel",
    "PartialRun",
    "ReplayBuffer",
    "ReplayCodec",
    "ReplayState",
    "State",
    "TemperingInfo",
    "TemperingState",
    "UnderdampedState",
    "WarmupResult",
    "acceptance_rate",
    "ais",
    "baoab_update",
    "bootstrap_standard_error",
    "drl_langevin",
    "drl_update",
    "ess_bulk",
    "ess_mean",
    "ess_quantile",
    "ess_tail",
    "from_blackjax",
    "from_log_density",
    "geometric_path",
    "hmc",
    "igebm_langevin",
    "igebm_update",
    "langevin",
    "langevin_update",
    "mala",
    "mcse_mean",
    "mcse_quantile",
    "mcse_sd",
    "mdsm_langevin",
    "mdsm_temperatures",
    "mdsm_update",
    "ncsn_langevin",
    "ncsn_step_size",
    "ncsn_update",
    "parallel_tempering",
    "replay_buffer",
    "replay_codec",
    "run_chain",
    "run_schedule",
    "run_with_progress",
    "split_r_hat",
    "summarize",
    "summarize_weights",
    "temperature_of_noise",
    "to_blackjax",
    "underdamped_langevin",
    "warmup",
]
