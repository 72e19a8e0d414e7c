"""Energy discrepancy (Schroeder et al. 2023, arXiv 2307.06431): no chain and no gradient in x.

The energy of a datum is compared with those of M points about it, which share half of their noise,

    loss = mean_b log( w / M + 1/M sum_j exp(E(x_b) - E(x_b + sqrt(t) xi_b + sqrt(t) xi'_bj)) ).

As t -> 0 its gradient becomes t times that of score matching, as t -> infinity that of maximum
likelihood. The points see nothing of what lies beyond sqrt(t): the energy has to confine by itself.

*quirk*: the published code has no 1/M before the sum; its w is this w / M.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ebm_jax import networks, samplers
from ebm_jax.energy import EnergyFn
from ebm_jax.methods import base
from ebm_jax.methods.base import Index, MethodState, Params
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.samplers import random
from ebm_jax.settings import check, setting


def energy_discrepancy_losses(
    energy: jax.Array, perturbed_energies: jax.Array, stabilization: float = 1.0
) -> jax.Array:
    """log(w / M + 1/M sum_j exp(E - E_j)) per example, [batch].

    Args:
      energy: E of the data [batch]. perturbed_energies: E_j of the points about each [batch, M].
      stabilization: w, which bounds the loss from below by log(w / M).
    """
    gaps = energy[:, None] - perturbed_energies
    num_points = perturbed_energies.shape[1]
    if stabilization:
        gaps = jnp.pad(gaps, ((0, 0), (0, 1)), constant_values=np.log(stabilization))
    return jax.nn.logsumexp(gaps, axis=1) - np.log(num_points)


def perturbed_points(
    rng_key: jax.Array, x: jax.Array, index: jax.Array, num_points: int, noise_std: float
) -> jax.Array:
    """x + sqrt(t) xi + sqrt(t) xi'_j, [batch, num_points, ...], functions of (rng_key, index).

    Args:
      x: [batch, ...]. index: of each example in the global batch. noise_std: sqrt(t), model units.
    """
    noise = random.normal(rng_key, index, jnp.zeros((len(x), 1 + num_points, *x.shape[1:])))
    return x[:, None] + noise_std * (noise[:, :1] + noise[:, 1:])


@dataclasses.dataclass(frozen=True)
class EnergyDiscrepancySampler:
    """Annealed chains from the base distribution; nothing of it matters to training."""

    num_steps: int = setting(1_000, "of each chain, the first half of them annealed", at_least=2)
    step_size: float = setting(0.01, "h in x' = x - h grad E + sqrt(2 h) xi", above=0)
    kernel: str = setting(
        "langevin", "or mala, which is exact but has no blends to interpolate with",
        one_of=("langevin", "mala"),
    )  # fmt: skip

    def __post_init__(self) -> None:
        check(self, "sampler.")


@dataclasses.dataclass(frozen=True, eq=False)
class EnergyDiscrepancy:
    """Energy discrepancy with E(x) = network(x) + |x - center|^2 / (2 s^2); see the module.

    Metrics: 'energy_pos', 'energy_neg' (of the perturbed points).

    network: called as network(x) -> [batch]. low, high: of the data; center is between them.
    """

    network: nn.Module
    low: float = 0.0
    high: float = 1.0
    noise_std: float = setting(1.0, '"sqrt(t)" of the perturbations, model units', above=0)
    num_points: int = setting(16, 'perturbed points per example, "M"', at_least=1)
    stabilization: float = setting(1.0, '"w"', at_least=0)
    base_std: float = setting(4.0, '"s" of the Gaussian that confines, model units', above=0)
    sampler: EnergyDiscrepancySampler = EnergyDiscrepancySampler()

    def __post_init__(self) -> None:
        check(self, "method.")

    @property
    def base_distribution(self) -> BaseDistribution:
        """N(center, s^2 I)."""
        return BaseDistribution(center=(self.low + self.high) / 2, std=self.base_std)

    def init(
        self, rng_key: jax.Array, example_batch: Mapping[str, jax.Array]
    ) -> tuple[Params, MethodState]:
        """Parameters of the network, and the vectors of its spectral norm if it has one."""
        params_key, state_key = jax.random.split(rng_key)
        params = self.network.init(params_key, example_batch["image"][:1], None)["params"]
        return params, MethodState(networks.init_power_state(state_key, self.network, params))

    def loss(
        self,
        params: Params,
        method_state: MethodState,
        batch: Mapping[str, jax.Array],
        rng_key: jax.Array,
    ) -> tuple[jax.Array, tuple[MethodState, dict[str, Any]]]:
        """See the module, and `base.Method.loss`."""
        x, index = batch["image"], base.example_index(batch)
        normalized, power_state = networks.normalize_params(
            self.network, params, method_state.shared
        )
        points = perturbed_points(rng_key, x, index, self.num_points, self.noise_std)
        both = jnp.concatenate([x[:, None], points], axis=1).reshape(-1, *x.shape[1:])
        energies = self._tempered(normalized, 1.0)(both).reshape(len(x), -1)
        losses = energy_discrepancy_losses(energies[:, 0], energies[:, 1:], self.stabilization)
        metrics = {
            "energy_pos": base.mean_over_batch(energies[:, 0]),
            "energy_neg": base.mean_over_batch(energies[:, 1:].mean(1)),
        }
        new_state = method_state._replace(shared=power_state)
        return jnp.mean(losses), (new_state, jax.lax.stop_gradient(metrics))

    def sample(self, params: Params, rng_key: jax.Array, index: Index) -> jax.Array:
        """Chains from the base distribution while the network fades in, then on E."""
        start_key, chain_key = jax.random.split(rng_key)
        normalized, _ = networks.normalize_params(self.network, params)
        like = base.zeros_like_examples(self.network.input_shape, index)
        x = self.base_distribution.center + self.base_distribution.std * random.normal(
            start_key, index, like
        )

        def make_kernel(beta: jax.Array) -> samplers.Kernel:
            return base.index_chains(self._kernel(self._tempered(normalized, beta)), index)

        annealed = self.sampler.num_steps // 2
        betas = jnp.minimum(jnp.arange(self.sampler.num_steps) / annealed, 1.0)
        state, _ = samplers.run_schedule(chain_key, make_kernel, betas, x, 1)
        return state.x

    def densities(self, params: Params) -> Densities:
        """One density, of the data themselves; annealing starts at N(center, s^2 I)."""
        normalized, _ = networks.normalize_params(self.network, params)
        return Densities(
            lambda level: self._tempered(normalized, 1.0),
            jnp.ones(1),
            jnp.zeros(1),
            self.base_distribution,
            lambda energy_fn, level: self._kernel(energy_fn),
        )

    def _kernel(self, energy_fn: EnergyFn) -> samplers.Kernel:
        make = samplers.mala if self.sampler.kernel == "mala" else samplers.langevin
        return make(energy_fn, self.sampler.step_size)

    def _tempered(self, normalized: Params, beta: jax.Array | float) -> EnergyFn:
        """beta network(x) + |x - center|^2 / (2 s^2)."""
        energy_fn = networks.bind(self.network, normalized, scale=beta)
        return lambda x: energy_fn(x) + self.base_distribution.energy(x)
