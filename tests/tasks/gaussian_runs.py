"""A trained run whose densities are known: images N(0, .2^2), six levels with exact energies."""

import jax.numpy as jnp
import numpy as np

from configs import default
from ebm_jax import experiment, samplers, workdir
from ebm_jax.data import Dataset
from ebm_jax.diffusion import t6_schedule
from ebm_jax.evaluation.marginals import Base, Marginals
from ebm_jax.objectives import recovery_likelihood as recovery

SCHEDULE = t6_schedule()
A_BAR, SIGMA_BAR = SCHEDULE.a_bar[:-1], SCHEDULE.sigma_bar[:-1]
VARIANCE = A_BAR**2 * 0.04 + SIGMA_BAR**2  # of x_t
NUM_VALUES = 4


def images(split):
    """120 images of 2 x 2 grey values."""
    rng = np.random.default_rng(len(split))
    grey = np.clip(np.round(127.5 + 0.2 * 127.5 * rng.normal(size=(120, 2, 2, 1))), 0, 255)
    return Dataset("made", split, grey.astype(np.uint8), np.zeros(120, np.int32), 1, (0.0, 255.0))


def energy(level):
    """Of x_t [batch, ...]."""

    def energy_fn(x):
        variance = jnp.reshape(VARIANCE[level], (-1,))
        return jnp.sum(x**2, tuple(range(1, x.ndim))) / (2 * variance)

    return energy_fn


def conditional(level, x_noisy):
    """Of x_t given x_{t+1}."""
    factor = SCHEDULE.multiplier[level]
    of_y = recovery.conditional_energy(
        lambda y: energy(level)(y / factor), SCHEDULE, x_noisy, level
    )
    return lambda x: of_y(factor * x)


def own_kernel(energy_fn, level):
    """Langevin with a step that fits."""
    return samplers.langevin(energy_fn, 0.1 * VARIANCE[level])


MARGINALS = Marginals(
    energy,
    A_BAR,
    SIGMA_BAR,
    Base(),
    own_kernel,
    conditional,
    lambda rng_key, level, x_noisy: x_noisy / SCHEDULE.multiplier[level],
    SCHEDULE.conditional_std,
)


def install(monkeypatch, marginals=MARGINALS):
    """Makes tasks find this run in every workdir; returns its config."""
    parts = experiment.Experiment(images("train"), None, None, None, None)
    trained = workdir.Trained(parts, 7, {"unused": np.zeros(())})
    for name in ("load_trained", "load_trained_on_images"):
        monkeypatch.setattr(workdir, name, lambda *_: trained)
    monkeypatch.setattr(experiment, "make_marginals", lambda *_: lambda params: marginals)
    monkeypatch.setattr(experiment, "load_split", lambda config, split: images(split))
    config = default.get_config()
    config.data.random_flip = False
    return config


def interrupt_after(monkeypatch, number, showing):
    """Ctrl-C after so many calls of ResumableWork.advance that show this figure."""
    from ebm_jax.io.resumable import ResumableWork

    usual, calls = ResumableWork.advance, []

    def advance(self, amount, figures):
        usual(self, amount, figures)
        if showing in figures:
            calls.append(amount)
        if len(calls) == number:
            raise SystemExit(130)

    monkeypatch.setattr(ResumableWork, "advance", advance)
