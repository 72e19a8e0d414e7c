"""A method whose losses and gradients are written down, trained with checkpoints in memory."""

import contextlib
import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effects_stubs import SHAPE

from configs import default
from ebm_jax import tasks
from ebm_jax.methods import MethodState
from ebm_jax.methods.base import Mean, mean_over_batch, zeros_like_examples
from ebm_jax.methods.registry import METHODS
from ebm_jax.runs import build, preview
from ebm_jax.settings import setting
from ebm_jax.tasks import train
from ebm_jax.training.divergence import DivergenceError

GRADIENTS = (1.0, 3.0, 2.0, 5.0, 4.0)  # of each of four parameters, step by step


@dataclasses.dataclass(frozen=True)
class NoSettings:
    """Of a sampler without any."""


@dataclasses.dataclass(frozen=True, eq=False)
class Ramp:
    """loss = g_step sum(w); metrics are the moments of the batch's images.

    not_finite_at: the step whose loss is NaN; 0: none.
    """

    network: object
    not_finite_at: int = setting(0, "updates before a loss that is NaN; 0: never", at_least=0)
    sampler: NoSettings = NoSettings()

    def init(self, rng_key, example_batch):
        return {"w": jax.random.uniform(rng_key, (4,))}, MethodState()

    def loss(self, params, method_state, batch, rng_key):
        x, step = batch["image"], batch["step"]
        wrong = (step == self.not_finite_at) & (self.not_finite_at > 0)
        factor = jnp.where(wrong, jnp.nan, jnp.asarray(GRADIENTS)[step % len(GRADIENTS)])
        flat = x.reshape(len(x), -1)
        metrics = {
            "energy_pos": mean_over_batch(flat.mean(1)),
            "left": mean_over_batch(x[:, 0, 0, 0]),
            "right": mean_over_batch(x[:, 0, 1, 0]),
            "square": mean_over_batch((flat**2).mean(1)),
            "count": Mean(jnp.asarray(float(len(x))), jnp.asarray(1 / jax.device_count())),
            "draw": jax.random.uniform(rng_key),
        }
        return factor * jnp.sum(params["w"]), (method_state, metrics)

    def sample(self, params, rng_key, index):
        noise = jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(rng_key, i), SHAPE))(index)
        return zeros_like_examples(SHAPE, index) + params["w"][0] + 10 * jnp.round(noise, 3)

    def densities(self, params):
        raise NotImplementedError


class Memory:
    """Checkpoints of one run in memory."""

    def __init__(self):
        self.states = {}

    def save(self, step, state, **_):
        self.states[step] = jax.tree.map(np.array, state)

    def restore(self, step, template, **_):
        return self.states[step]

    def restore_latest(self, template, **_):
        return None

    def steps(self):
        return sorted(self.states)

    def wait(self):
        pass


@pytest.fixture(scope="module", autouse=True)
def ramp(stubs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "ramp", Ramp)
        yield


def config_of(**values):
    config = default.get_config()
    config.data.update(random_flip=False, low=0.0, high=1.0)
    config.network = default.network("quadratic")
    config.method = default.method("ramp", **values)
    config.sampler = default.sampler("ramp")
    config.optimizer = default.optimizer("adam", learning_rate=0.01)
    config.training.update(batch_size=16, num_steps=3, ema_decay=0.9)
    config.train.update(log_every=1, sample_every=0, checkpoint_every=1)
    config.sampling.update(num_samples=16, batch_size=16)
    return config


def trained(config, path, monkeypatch, dataset=None):
    """--mode=train with checkpoints in memory; what it wrote and showed."""
    memory, grids = Memory(), []

    def figure(run, params, samples):
        grids.append((params, np.array(samples)))
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(train, "open_checkpoints", lambda *_, **__: contextlib.nullcontext(memory))
    monkeypatch.setattr(preview, "figure", figure)
    if dataset is not None:
        monkeypatch.setattr(build, "load_split", lambda config, split: dataset)
    error = None
    try:
        assert tasks.run("train", config, path) == 0
    except DivergenceError as diverged:
        error = diverged
    file = path / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    pictures = sorted(p.name for p in path.glob("samples/*.png"))
    return types.SimpleNamespace(
        states=memory.states, lines=lines, grids=grids, pictures=pictures, error=error
    )
