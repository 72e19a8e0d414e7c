"""Methods and networks in small, registered by tests as a new one would be, and runs of them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from configs import default
from ebm_jax import networks, tasks
from ebm_jax.methods import BaseDistribution, Densities, MethodState
from ebm_jax.methods.base import mean_over_batch, zeros_like_examples
from ebm_jax.methods.registry import METHODS
from ebm_jax.networks.registry import NETWORKS
from ebm_jax.runs import preview
from ebm_jax.samplers import random
from ebm_jax.settings import setting


class Generator(nn.Module):
    """z [batch, input_size] -> x of the same shape."""

    input_size: int = 2
    width: int = setting(4, "of the hidden layer", at_least=1)

    @property
    def input_shape(self):
        return (self.input_size,)

    @nn.compact
    def __call__(self, z):
        hidden = nn.swish(nn.Dense(self.width, name="hidden")(z))
        return nn.Dense(self.input_size, name="out")(hidden)


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """Of a sampler without any."""


@dataclasses.dataclass(frozen=True, eq=False)
class Adversarial:
    """An energy, and a generator of its negatives that is trained to lower it.

    loss = E(x) - E(G(z)) in the energy's parameters, plus w E(G(z)) in the generator's, w = step /
    ramp_steps up to 1: two networks, two groups of parameters, and a weight that ramps.
    """

    energy: nn.Module
    generator: nn.Module
    ramp_steps: int = setting(10, "until the generator's weight is 1", at_least=1)
    sampler: NoSettings = NoSettings()

    def init(self, rng_key, example_batch):
        keys, x = jax.random.split(rng_key), example_batch["image"][:1]
        params = {
            "energy": self.energy.init(keys[0], x)["params"],
            "generator": self.generator.init(keys[1], x)["params"],
        }
        return params, MethodState()

    def loss(self, params, method_state, batch, rng_key):
        x_pos = batch["image"]
        x_neg = self._generate(params, random.normal(rng_key, batch["index"], x_pos))
        energy_fn = networks.bind(self.energy, params["energy"])
        constant = networks.bind(self.energy, jax.lax.stop_gradient(params["energy"]))
        energy_pos, energy_neg = energy_fn(x_pos), energy_fn(jax.lax.stop_gradient(x_neg))
        weight = jnp.minimum(batch["step"] / self.ramp_steps, 1.0)
        loss = jnp.mean(energy_pos - energy_neg) + weight * jnp.mean(constant(x_neg))
        metrics = {
            "energy_pos": mean_over_batch(energy_pos),
            "energy_neg": mean_over_batch(energy_neg),
            "weight": weight,
        }
        return loss, (method_state, jax.lax.stop_gradient(metrics))

    def sample(self, params, rng_key, index):
        z = random.normal(rng_key, index, zeros_like_examples(self.generator.input_shape, index))
        return self._generate(params, z)

    def densities(self, params):
        energy_fn = networks.make_energy_fn(self.energy, params["energy"])
        return Densities(lambda level: energy_fn, jnp.ones(1), jnp.zeros(1), BaseDistribution())

    def _generate(self, params, z):
        return self.generator.apply({"params": params["generator"]}, z)


@dataclasses.dataclass(frozen=True, eq=False)
class Overflowing:
    """Least squares whose gradient overflows at one step, but for other random numbers."""

    network: nn.Module
    at_step: int = setting(0, "updates before the one that overflows; 0: none does", at_least=0)
    always: bool = setting(False, "whatever the random numbers are")
    sampler: NoSettings = NoSettings()

    def init(self, rng_key, example_batch):
        return {"w": jnp.ones(example_batch["image"].shape[1:])}, MethodState()

    def loss(self, params, method_state, batch, rng_key):
        is_first = self.always | (jax.random.uniform(rng_key) < 0.5)
        overflows = (batch["step"] == self.at_step) & (self.at_step > 0) & is_first
        factor = jnp.where(overflows, 1e30, 1.0)
        return factor * jnp.mean((params["w"] - batch["image"]) ** 2), (method_state, {})

    def sample(self, params, rng_key, index):
        return zeros_like_examples(params["w"].shape, index)


@pytest.fixture(scope="module")
def toys():
    """The methods and networks above by name; figures are left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "adversarial", Adversarial)
        patch.setitem(METHODS, "overflowing", Overflowing)
        patch.setitem(NETWORKS, "generator", Generator)
        patch.setattr(preview, "figure", lambda *_: np.zeros((8, 8, 3), np.uint8))
        yield


def config_of(method, **values):
    """A short run of a method on the checkerboard; networks and optimizer are the caller's."""
    config = default.get_config()
    config.data.update(name="checkerboard", random_flip=False)
    config.network = default.network("mlp", width=8, depth=1)
    config.method = default.method(method, **values)
    config.sampler = default.sampler(method)
    config.optimizer = default.optimizer("adam", learning_rate=1e-2)
    config.training.update(batch_size=16, num_steps=6)
    config.train.update(log_every=1, sample_every=0, checkpoint_every=3)
    config.sampling.update(num_samples=8, batch_size=8)
    return config


def adversarial(*, energy_rate=1e-2, generator_rate=1e-3, **values):
    """The config of `Adversarial`, with a learning rate for each network."""
    config = config_of("adversarial", **values)
    networks_of, rates = {}, {"energy": energy_rate, "generator": generator_rate}
    networks_of["energy"] = default.network("mlp", width=8, depth=1)
    networks_of["generator"] = default.network("generator")
    config.network = type(config)(networks_of)
    config.optimizer = type(config)(
        {name: default.optimizer("adam", learning_rate=rate) for name, rate in rates.items()}
    )
    return config


def train(config, workdir):
    """Trains in this process; returns the exit code."""
    return tasks.run("train", config, workdir)


def logged(workdir):
    """The lines of metrics.jsonl, without what the clock decides."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = ("steps_per_second", "time")
    return [{name: v for name, v in line.items() if name not in timed} for line in lines]


def saved(workdir, step):
    """{name: checksum} of the arrays of a checkpoint."""
    manifest = workdir / "checkpoints" / str(step) / "manifest" / "metadata"
    return {leaf["name"]: leaf["crc32"] for leaf in json.loads(manifest.read_text())["leaves"]}
