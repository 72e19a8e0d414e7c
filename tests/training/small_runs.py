"""Train steps that compile fast: least squares, recovery likelihood with a tiny network."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import recovery_in_numpy as plain
from flax import linen as nn

from ebm_jax.methods import ContrastiveDivergence, MethodState, RecoveryLikelihood
from ebm_jax.methods.base import mean_over_batch, mean_per_level
from ebm_jax.networks.function import FunctionNetwork
from ebm_jax.networks.prepared import prepared
from ebm_jax.samplers import random
from ebm_jax.training.state import init_train_state
from ebm_jax.training.train_step import make_train_step

BATCH, NUM_UPDATES, EMA_DECAY, RATE = 16, 3, 0.9, 0.1
KEY = jax.random.key(0)
OPTIMIZERS = {
    "sgd": optax.sgd(RATE),
    "adam": optax.adam(0.01),
    "clipped adam": optax.chain(optax.clip_by_global_norm(0.05), optax.adam(0.01)),
}


def batches(num_updates=NUM_UPDATES):
    rng = np.random.default_rng(0)
    return [{"image": rng.normal(size=(BATCH, 3)).astype(np.float32)} for _ in range(num_updates)]


@dataclasses.dataclass(frozen=True)
class NoisyLeastSquares:
    """loss = mean_i |w - x_i - noise xi_i|^2 / 2; its gradient is w - mean(x + noise xi)."""

    noise: float

    def init(self, rng_key, example_batch):
        return {"w": jnp.array([1.0, -2.0, 3.0])}, MethodState()

    def loss(self, params, method_state, batch, rng_key):
        x = batch["image"] + self.noise * random.normal(rng_key, batch["index"], batch["image"])
        losses = 0.5 * jnp.sum((params["w"] - x) ** 2, axis=1)
        group = (x[:, 0] > 0).astype(jnp.int32)
        metrics = {"all": mean_over_batch(losses), "group": mean_per_level(losses, group, 3)}
        return jnp.mean(losses), (method_state, metrics)


def mirror(keys, x):
    """A draw per example, as flips are."""
    return jnp.where(jax.vmap(jax.random.bernoulli)(keys)[:, None], -x, x)


def toy(optimizer="sgd", noise=0.1, preprocess=mirror, num_parts=1):
    """(step, state before the first step) of the least squares."""
    method = NoisyLeastSquares(noise)
    step = make_train_step(
        method, OPTIMIZERS[optimizer],
        rng_key=KEY, ema_decay=EMA_DECAY, preprocess=preprocess, num_parts=num_parts,
    )  # fmt: skip
    return step, init_train_state(KEY, method, OPTIMIZERS[optimizer], batches()[0])


class TinyEnergy(nn.Module):
    """Two normalised layers and a level's own vector: all that a recovery network is, in small."""

    input_shape = (3,)

    @staticmethod
    def spectral_norm_mode(path):
        return {"first": "unit", "second": "cap"}.get(path[0]) if path[-1] == "kernel" else None

    @nn.compact
    def __call__(self, x, level):
        x = nn.swish(nn.Dense(4, name="first")(x))
        embedding = nn.Embed(3, 4, name="level")
        x = x * prepared(self, "level_vector", lambda: embedding(jnp.atleast_1d(level)))
        return jnp.sum(nn.swish(nn.Dense(4, name="second")(x)), axis=-1)


def recovery(optimizer="sgd", num_parts=1):
    """(step, state before the first step) of recovery likelihood with spectral norm."""
    method = RecoveryLikelihood(TinyEnergy(), num_pairs=3, num_steps=3, step_scale=1e-2)
    params = jax.tree.map(jnp.asarray, plain.as_tree(plain.random_weights(TinyEnergy())))
    step = make_train_step(
        method, OPTIMIZERS[optimizer],
        rng_key=KEY, ema_decay=EMA_DECAY, preprocess=mirror, num_parts=num_parts,
    )  # fmt: skip
    state = init_train_state(KEY, method, OPTIMIZERS[optimizer], batches()[0])
    return step, state._replace(params=params, ema_params=jax.tree.map(jnp.copy, params))


def replay(optimizer="sgd", num_parts=1):
    """(step, state before the first step) of contrastive divergence with a replay buffer."""
    network = FunctionNetwork(
        lambda params, x: 0.5 * jnp.sum((x - params["center"]) ** 2, axis=1),
        lambda rng_key: {"center": jnp.array([0.5, -0.5, 0.0])},
        input_shape=(3,),
    )
    method = ContrastiveDivergence(
        network, low=-5.0, high=5.0, num_steps=2, step_size=0.1,
        buffer_size=32, buffer_shards=8, buffer_storage="float",
    )  # fmt: skip
    step = make_train_step(
        method, OPTIMIZERS[optimizer], rng_key=KEY, ema_decay=EMA_DECAY, num_parts=num_parts
    )
    return step, init_train_state(KEY, method, OPTIMIZERS[optimizer], batches()[0])
