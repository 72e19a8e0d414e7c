"""A trained run whose densities are known: images N(0, .2^2), six levels with exact energies."""

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np

from configs import default
from ebm_jax import samplers, tasks
from ebm_jax.data import Dataset
from ebm_jax.diffusion import t6_schedule
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.methods.recovery_likelihood.transitions import conditional_energy
from ebm_jax.runs import build, modes
from ebm_jax.runs.trained import TrainedRun

SCHEDULE = t6_schedule()
A_BAR, SIGMA_BAR = SCHEDULE.a_bar[:-1], SCHEDULE.sigma_bar[:-1]
VARIANCE = A_BAR**2 * 0.04 + SIGMA_BAR**2  # of x_t
NUM_VALUES = 4


def images(split):
    """120 images of 2 x 2 pixels."""
    rng = np.random.default_rng(len(split))
    gray = np.clip(np.round(127.5 + 0.2 * 127.5 * rng.normal(size=(120, 2, 2, 1))), 0, 255)
    return Dataset("made", split, gray.astype(np.uint8), np.zeros(120, np.int32), 1, (0.0, 255.0))


def energy(level):
    """Of x_t [batch, ...]."""

    def energy_fn(x):
        variance = jnp.reshape(VARIANCE[level], (-1,))
        return jnp.sum(x**2, tuple(range(1, x.ndim))) / (2 * variance)

    return energy_fn


def conditional(level, x_noisy):
    """Of x_t given x_{t+1}."""
    factor = SCHEDULE.multiplier[level]
    energy_in_y = conditional_energy(lambda y: energy(level)(y / factor), SCHEDULE, x_noisy, level)
    return lambda x: energy_in_y(factor * x)


def native_kernel(energy_fn, level):
    """Langevin with a step that fits."""
    return samplers.langevin(energy_fn, 0.1 * VARIANCE[level])


DENSITIES = Densities(
    energy,
    A_BAR,
    SIGMA_BAR,
    BaseDistribution(),
    native_kernel,
    conditional,
    lambda rng_key, level, x_noisy: x_noisy / SCHEDULE.multiplier[level],
    SCHEDULE.conditional_std,
    num_conditionals=5,
)


@dataclasses.dataclass(frozen=True)
class ExactMethod:
    """A method that knows its densities."""

    known: Densities

    def densities(self, params):
        """Whatever the parameters."""
        del params
        return self.known


def install(monkeypatch, densities=DENSITIES):
    """Makes modes find this run in every workdir; returns its config."""

    def load_trained(config, workdir):
        del workdir
        general, sections = build.check_sections(config)
        method = ExactMethod(densities)
        run = build.Run(
            config, images("train"), method, general, sections["data"], sections["sampling"]
        )
        return TrainedRun(run, 7, {"unused": np.zeros(())}, 0.999)

    monkeypatch.setattr(modes, "load_trained", load_trained)
    monkeypatch.setattr(modes, "check_trained", lambda config, workdir: pathlib.Path(workdir))
    monkeypatch.setattr(build, "load_split", lambda config, split: images(split))
    config = default.get_config()
    config.data.random_flip = False
    return config


def small_config(config):
    """Short chains of 16, in both modes."""
    config.long_run.update(num_steps=20, num_chains=16, sampler="mala")
    config.likelihood.update(
        num_temperatures=(12,), num_chains=16, tuning_steps=20, num_images=20, reverse_steps=5,
        max_levels=2, num_components=(2,), num_conditional_images=8, num_conditional_temperatures=4,
    )  # fmt: skip
    return config


def run_mode(mode, config, workdir):
    """As main.py does; returns the exit code."""
    return tasks.run(mode, config, str(workdir))


def interrupt_after(monkeypatch, number, showing):
    """Ctrl-C after so many calls of ResumableWork.advance that show this metric."""
    from ebm_jax.io.resumable import ResumableWork

    usual, calls = ResumableWork.advance, []

    def advance(self, amount, metrics):
        usual(self, amount, metrics)
        if showing in metrics:
            calls.append(amount)
        if len(calls) == number:
            raise SystemExit(130)

    monkeypatch.setattr(ResumableWork, "advance", advance)
