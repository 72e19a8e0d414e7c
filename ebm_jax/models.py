"""Trained models to start from, by name or from a folder that `--mode=card` wrote.

    model = models.load("digits_drl")
    x = model.sample(jax.random.key(0), 100)             # float32 [100, 8, 8, 1] in model units
    pixels = model.to_pixels(x)                          # uint8
    energies = model.energy_fn(level=0)(x)               # [100] in nats
    print(model.card)                                    # what it is of, and how good it is

No data are read. `training.init_from=digits_drl` trains one further.
"""

import dataclasses
import os
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from ebm_jax.energy import EnergyFn
from ebm_jax.io import image_grids
from ebm_jax.methods.base import Method, Params
from ebm_jax.runs import model_folder
from ebm_jax.runs.trained import TrainedRun


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained model.

    name: of its folder. card: Markdown. trained: the run that it is of, with EMA parameters, whose
    data set has no examples.
    """

    name: str
    card: str
    trained: TrainedRun

    @property
    def method(self) -> Method:
        """With its networks: `sample`, `densities`, and what else it can."""
        return self.trained.run.method

    @property
    def params(self) -> Params:
        """EMA parameters, on the host."""
        return self.trained.params

    @property
    def config(self) -> ml_collections.ConfigDict:
        """That of its training."""
        return self.trained.run.config

    def sample(self, rng_key: jax.Array, number: int, *, first: int = 0) -> np.ndarray:
        """Samples [number, ...] in model units; sample i is a function of (key, first + i).

        Raises:
          ValueError: for a number below 1.
        """
        if number < 1:
            raise ValueError(f"number: expected a whole number >= 1, got {number}")
        sampler, size = self.trained.sampler(rng_key), self.trained.run.sampling.batch_size
        starts = range(first, first + number, size)
        return np.concatenate([sampler(i, min(i + size, first + number)) for i in starts])

    def energy_fn(self, level: int = 0) -> EnergyFn:
        """x [n, ...] in model units -> energies [n] in nats, of a level's density of noisy data.

        In float32 with products at highest precision, whatever it was trained in: as the modes
        measure energies, whose differences decide on large ones.

        Raises:
          ValueError: for a level that there is not.
        """
        densities = self.trained.run.in_float32().method.densities(self.params)
        if not 0 <= level < densities.num_levels:
            raise ValueError(
                f"level: expected a whole number from 0 to {densities.num_levels - 1}, got {level}"
            )
        of_level = densities.energy(jnp.asarray(level))

        def energy_fn(x: jax.Array) -> jax.Array:
            with jax.default_matmul_precision("highest"):
                return of_level(x)

        return energy_fn

    def to_pixels(self, x: Any) -> np.ndarray:
        """Images in model units as uint8 [n, height, width, channels]."""
        return self.trained.run.to_pixels(x)

    def from_pixels(self, images: np.ndarray) -> np.ndarray:
        """uint8 images [n, height, width, channels] in model units, float32."""
        return self.trained.run.scale(images)

    def to_data_units(self, points: np.ndarray) -> np.ndarray:
        """Points [n, d] from model units to those of the data."""
        return self.trained.run.to_data_units(points)

    def grid(self, x: Any) -> np.ndarray:
        """Images in model units side by side in one, uint8 [H, W, channels]."""
        return image_grids.image_grid(self.to_pixels(x))


def names() -> list[str]:
    """The models that come with the package."""
    return model_folder.names()


def load(name: str | os.PathLike) -> Model:
    """A model of the package by its name, or one in a folder.

    Raises:
      ConfigError: (a ValueError) one line, with the nearest name, or for what is damaged.
    """
    folder = model_folder.find(name)
    trained = model_folder.read(folder)
    card = folder / model_folder.CARD
    return Model(folder.name, card.read_text("utf-8") if card.exists() else "", trained)
