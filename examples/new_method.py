"""A method of one's own: noise-contrastive estimation, in one file and one line of METHODS.

    python examples/new_method.py

Gutmann & Hyvärinen 2010: p(x) = q(x) exp(-f(x)), q a Gaussian and f the logit of a classifier that
tells points of q from data. At its optimum p is normalized, so that this method claims its log Z.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from ebm_jax import data, networks, samplers
from ebm_jax.methods import base
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.methods.registry import METHODS
from ebm_jax.samplers import random
from ebm_jax.settings import check, setting
from ebm_jax.training.state import init_train_state
from ebm_jax.training.train_step import make_train_step


@dataclasses.dataclass(frozen=True)
class NoiseContrastiveSampler:
    """Langevin chains that start at q."""

    num_steps: int = setting(500, "of each chain", at_least=1)
    step_size: float = setting(0.01, "h in x' = x - h grad E + sqrt(2 h) xi", above=0)


@dataclasses.dataclass(frozen=True, eq=False)
class NoiseContrastive:
    """Noise-contrastive estimation. network: called as network(x) -> [batch]."""

    network: nn.Module
    noise_std: float = setting(4.0, "of q, model units", above=0)
    sampler: NoiseContrastiveSampler = NoiseContrastiveSampler()

    def __post_init__(self):
        check(self, "method.")

    def init(self, rng_key, example_batch):
        params = self.network.init(rng_key, example_batch["image"][:1])["params"]
        return params, base.MethodState()

    def loss(self, params, method_state, batch, rng_key):
        x, index = batch["image"], base.example_index(batch)
        noise = self.noise.sample(rng_key, index, x.shape[1:])
        logit = networks.bind(self.network, params)
        logit_x, logit_noise = logit(x), logit(noise)
        losses = jax.nn.softplus(logit_x) + jax.nn.softplus(-logit_noise)
        found = (logit_x < 0) & (logit_noise > 0)
        return jnp.mean(losses), (method_state, {"accuracy": base.mean_over_batch(found)})

    def sample(self, params, rng_key, index):
        like = base.zeros_like_examples(self.network.input_shape, index)
        start = self.noise_std * random.normal(jax.random.fold_in(rng_key, 1), index, like)
        kernel = base.index_chains(self.kernel(self.energy(params)), index)
        return samplers.run_chain(rng_key, kernel, start, self.sampler.num_steps)[0].x

    def densities(self, params):
        energy_fn = self.energy(params)
        log_z = self.noise.log_z(int(np.prod(self.network.input_shape)))
        return Densities(
            lambda level: energy_fn, jnp.ones(1), jnp.zeros(1), self.noise,
            lambda energy_fn, level: self.kernel(energy_fn), log_z=jnp.full(1, log_z),
        )  # fmt: skip

    @property
    def noise(self):
        return BaseDistribution(std=self.noise_std)

    def energy(self, params):
        logit = networks.bind(self.network, params)
        return lambda x: logit(x) + self.noise.energy(x)

    def kernel(self, energy_fn):
        return samplers.langevin(energy_fn, self.sampler.step_size)


METHODS["noise_contrastive"] = NoiseContrastive  # see CONTRIBUTING.md


def main(num_steps: int = 1_000, batch_size: int = 512) -> tuple[float, jax.Array]:
    """(KL(true || learned) in nats, samples), after training on points of two moons."""
    density = data.toy_density("two_moons")
    points = jnp.asarray(data.load_dataset("two_moons").images)
    network = networks.EnergyMLP(input_size=2, width=64)
    method, key = NoiseContrastive(network), jax.random.key(0)
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, num_steps))
    state = init_train_state(key, method, optimizer, {"image": points[:batch_size]})
    step_fn = jax.jit(make_train_step(method, optimizer, rng_key=key, ema_decay=0.98))
    for step in range(num_steps):
        rows = data.batch_indices(len(points), batch_size, step, 0)
        state, _ = step_fn(state, {"image": points[rows]})
    learned = method.densities(state.ema_params)
    energy_fn = learned.energy(jnp.array(0))
    noise = method.noise.sample(jax.random.key(1), jnp.arange(100_000), (2,))
    log_weights = method.noise.energy(noise) - energy_fn(noise)  # of q as the proposal
    log_z = method.noise.log_z(2) + jax.nn.logsumexp(log_weights) - jnp.log(len(noise))
    held_out = jnp.asarray(data.load_dataset("two_moons", "test").images[:20_000])
    divergence = np.mean(density.log_density(np.asarray(held_out)) + energy_fn(held_out)) + log_z
    return float(divergence), method.sample(state.ema_params, key, jnp.arange(1_000))


if __name__ == "__main__":
    divergence, samples = main()
    print(f"KL(true || learned) is {divergence:.3f} nats; {len(samples)} samples")
