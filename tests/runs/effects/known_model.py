"""A trained run whose densities and samples are known, and modes that are run on it.

Images are N(0, .2^2) in model units; six levels of noise .3 to .95; samples are such images too.
"""

import dataclasses
import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effects_stubs import SHAPE, images
from effects_table import TABLE, changed

from configs import default
from ebm_jax import samplers, tasks
from ebm_jax.evaluation.fidelity import frechet
from ebm_jax.io import image_grids
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.runs import build, modes
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.samplers import random

SIGMA_BAR = np.linspace(0.3, 0.95, 6).astype(np.float32)
A_BAR = np.sqrt(1 - SIGMA_BAR**2)
VARIANCE = A_BAR**2 * 0.04 + SIGMA_BAR**2
KEY = jax.random.fold_in(jax.random.key(0), zlib.crc32(b"sample"))  # with the usual seed


def energy(level):
    def energy_fn(x):
        variance = jnp.reshape(jnp.asarray(VARIANCE)[level], (-1,))
        return jnp.sum(x**2, (1, 2, 3)) / (2 * variance)

    return energy_fn


DENSITIES = Densities(
    energy,
    jnp.asarray(A_BAR),
    jnp.asarray(SIGMA_BAR),
    BaseDistribution(),
    lambda energy_fn, level: samplers.langevin(energy_fn, 0.1 * jnp.asarray(VARIANCE)[level]),
)


def noise(rng_key, index, number):
    return 0.2 * random.normal(rng_key, index, jnp.zeros((number, *SHAPE)))


@dataclasses.dataclass(frozen=True)
class Known:
    """Everything that modes ask of a method."""

    network: object = None

    def densities(self, params):
        return DENSITIES

    def sample(self, params, rng_key, index):
        first = index.first if isinstance(index, random.Blend) else index
        return noise(rng_key, index, first.shape[0])

    def inpaint(self, params, rng_key, x, is_known, index, label):
        return jnp.where(is_known, x, noise(rng_key, index, len(x)))

    def restore(self, params, rng_key, x, index, label):
        return x

    num_pairs = len(SIGMA_BAR)

    def sample_from_level(self, params, rng_key, x, index, *, level):
        return x / level + 0.01 * index[:, None, None, None]


SAMPLES = np.asarray(noise(KEY, jnp.arange(400), 400))


@pytest.fixture
def run(tmp_path, monkeypatch, stubs):
    """(mode, config) -> its JSON."""

    def load_trained(config, workdir):
        general, sections = build.check_sections(config)
        data, sampling = sections["data"], sections["sampling"]
        described = build.Run(config, images("train"), Known(), general, data, sampling)
        return TrainedRun(described, 7, {"unused": np.zeros(())}, 0.999)

    monkeypatch.setattr(modes, "load_trained", load_trained)
    monkeypatch.setattr(modes, "check_trained", lambda config, workdir: pathlib.Path(workdir))

    def call(mode, config):
        assert tasks.run(mode, config, tmp_path) == 0
        name = {"evaluate": "evaluation", "sample": "samples"}.get(mode, mode)
        return json.loads((tmp_path / mode / f"{name}.json").read_text())

    return call


def config_of(*fields, **sections):
    config = default.get_config()
    config.data.random_flip = False
    config.sampling.batch_size = 64
    for name, values in sections.items():
        config[name].update(values)
    return changed(config, *fields)


def rows_of(mode):
    return [field for field in TABLE if field.startswith(f"{mode}.")]


def columns_of(monkeypatch):
    """Every picture of columns that is drawn from here on."""
    drawn, usual = [], image_grids.columns_picture

    def columns_picture(columns):
        drawn.append(columns)
        return usual(columns)

    monkeypatch.setattr(image_grids, "columns_picture", columns_picture)
    return drawn


def distance(x, y):
    return frechet.frechet_distance(frechet.fit_gaussian(x), frechet.fit_gaussian(y))
