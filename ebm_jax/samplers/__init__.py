"""MCMC for many chains in JAX: kernels, the papers' samplers, runners. Imports jax and numpy alone.

    from ebm_jax import samplers
    kernel = samplers.mala(energy_fn, step_size=0.05)
    state, info = samplers.run_chain(rng_key, kernel, x0, num_steps=1_000)

`p(x) ∝ exp(-energy_fn(x))`, `energy_fn: [chains, ...] -> [chains]`, everywhere.
"""

from collections.abc import Callable

from ebm_jax.samplers import random as random
from ebm_jax.samplers._trees import norm as norm
from ebm_jax.samplers.ais import AISResult as AISResult
from ebm_jax.samplers.ais import EnergyPath as EnergyPath
from ebm_jax.samplers.ais import WeightSummary as WeightSummary
from ebm_jax.samplers.ais import ais as ais
from ebm_jax.samplers.ais import bootstrap_standard_error as bootstrap_standard_error
from ebm_jax.samplers.ais import geometric_path as geometric_path
from ebm_jax.samplers.ais import summarize_weights as summarize_weights
from ebm_jax.samplers.annealing import run_schedule as run_schedule
from ebm_jax.samplers.arviz import to_arviz as to_arviz
from ebm_jax.samplers.base import EnergyFn as EnergyFn
from ebm_jax.samplers.base import Info as Info
from ebm_jax.samplers.base import InitFn as InitFn
from ebm_jax.samplers.base import Kernel as Kernel
from ebm_jax.samplers.base import LogDensityFn as LogDensityFn
from ebm_jax.samplers.base import State as State
from ebm_jax.samplers.base import StepFn as StepFn
from ebm_jax.samplers.base import energy_and_grad as energy_and_grad
from ebm_jax.samplers.base import from_log_density as from_log_density
from ebm_jax.samplers.blackjax import from_blackjax as from_blackjax
from ebm_jax.samplers.blackjax import to_blackjax as to_blackjax
from ebm_jax.samplers.diagnostics import Summary as Summary
from ebm_jax.samplers.diagnostics import acceptance_rate as acceptance_rate
from ebm_jax.samplers.diagnostics import ess_bulk as ess_bulk
from ebm_jax.samplers.diagnostics import ess_mean as ess_mean
from ebm_jax.samplers.diagnostics import ess_quantile as ess_quantile
from ebm_jax.samplers.diagnostics import ess_tail as ess_tail
from ebm_jax.samplers.diagnostics import mcse_mean as mcse_mean
from ebm_jax.samplers.diagnostics import mcse_quantile as mcse_quantile
from ebm_jax.samplers.diagnostics import mcse_sd as mcse_sd
from ebm_jax.samplers.diagnostics import split_r_hat as split_r_hat
from ebm_jax.samplers.diagnostics import summarize as summarize
from ebm_jax.samplers.hmc import HMCInfo as HMCInfo
from ebm_jax.samplers.hmc import hmc as hmc
from ebm_jax.samplers.ladder import Ladder as Ladder
from ebm_jax.samplers.ladder import adapt_temperatures as adapt_temperatures
from ebm_jax.samplers.ladder import equal_rejection as equal_rejection
from ebm_jax.samplers.langevin import langevin as langevin
from ebm_jax.samplers.langevin import langevin_update as langevin_update
from ebm_jax.samplers.mala import mala as mala
from ebm_jax.samplers.papers import drl_langevin as drl_langevin
from ebm_jax.samplers.papers import drl_update as drl_update
from ebm_jax.samplers.papers import igebm_langevin as igebm_langevin
from ebm_jax.samplers.papers import igebm_update as igebm_update
from ebm_jax.samplers.papers import mdsm_langevin as mdsm_langevin
from ebm_jax.samplers.papers import mdsm_temperatures as mdsm_temperatures
from ebm_jax.samplers.papers import mdsm_update as mdsm_update
from ebm_jax.samplers.papers import ncsn_langevin as ncsn_langevin
from ebm_jax.samplers.papers import ncsn_step_size as ncsn_step_size
from ebm_jax.samplers.papers import ncsn_update as ncsn_update
from ebm_jax.samplers.papers import temperature_of_noise as temperature_of_noise
from ebm_jax.samplers.progress import PartialRun as PartialRun
from ebm_jax.samplers.progress import run_with_progress as run_with_progress
from ebm_jax.samplers.random import Blend as Blend
from ebm_jax.samplers.replay_buffer import ReplayBuffer as ReplayBuffer
from ebm_jax.samplers.replay_buffer import ReplayCodec as ReplayCodec
from ebm_jax.samplers.replay_buffer import ReplayState as ReplayState
from ebm_jax.samplers.replay_buffer import replay_buffer as replay_buffer
from ebm_jax.samplers.replay_buffer import replay_codec as replay_codec
from ebm_jax.samplers.roughness import MOST_ROUGHNESS as MOST_ROUGHNESS
from ebm_jax.samplers.roughness import Roughness as Roughness
from ebm_jax.samplers.roughness import roughness as roughness
from ebm_jax.samplers.run import run_chain as run_chain
from ebm_jax.samplers.sample import Diagnostics as Diagnostics
from ebm_jax.samplers.sample import SampleResult as SampleResult
from ebm_jax.samplers.sample import sample as sample
from ebm_jax.samplers.smc import SMCResult as SMCResult
from ebm_jax.samplers.smc import smc as smc
from ebm_jax.samplers.tempering import TemperingInfo as TemperingInfo
from ebm_jax.samplers.tempering import TemperingState as TemperingState
from ebm_jax.samplers.tempering import parallel_tempering as parallel_tempering
from ebm_jax.samplers.underdamped import UnderdampedState as UnderdampedState
from ebm_jax.samplers.underdamped import baoab_update as baoab_update
from ebm_jax.samplers.underdamped import underdamped_langevin as underdamped_langevin
from ebm_jax.samplers.walls import fold_into_box as fold_into_box
from ebm_jax.samplers.walls import reflecting_walls as reflecting_walls
from ebm_jax.samplers.warmup import WarmupResult as WarmupResult
from ebm_jax.samplers.warmup import warmup as warmup

# A kernel for exp(-E) from an energy and a step size, by name; a new one is a file and a line here.
KERNELS: dict[str, Callable[..., Kernel]] = {
    "hmc": hmc,
    "langevin": langevin,
    "mala": mala,
    "underdamped_langevin": underdamped_langevin,
}
