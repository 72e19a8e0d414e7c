"""Dual score matching (Guth, Kadkhodaie & Simoncelli 2025, arXiv 2506.05310): log p itself.

With y = x + sqrt(t) eps, the energy U(y, t) = -log p_t(y), *its normalizing constant included*, has
derivatives in y and in t that are conditional means of what is known when x is:

    grad_y U = E[eps | y] / sqrt(t),      t dU/dt = E[(d - |eps|^2) / 2 | y].

Both are regressed on, over all noises,

    loss = (t / d) |grad_y U - eps / sqrt(t)|^2 + (t dU/dt - (d - |eps|^2) / 2)^2 / d^2,

log t uniform. The first alone, score matching, leaves a constant free for every t and region. The
second ties them to the largest t, where the law is Gaussian and known. Here that is exact:

    U(y, t) = U_base(y, t) + g(t) f(y, t),

U_base the energy of N(mean, covariance + t I) with the data's moments, f the network, and g a fade
from 1 to 0 at the largest t, by which noise has drowned all else (`check_reaches_base`). With
`num_components` more than 1 the base is a mixture of so many Gaussians, fitted to the data by EM:
a density whose constant is known too, and closer to the data's, so that f has less to learn.

Both conditional means are at noised data. Where these never come the energy is free, and a region
there can hold more mass than all of the data, which short chains do not find. With `chain_weight`

    chain_weight (E_data[U(y, t_min)] - E_chains[U(y, t_min)]) / d

is added, maximum likelihood at the lowest noise by chains that persist (`persistent_chains`).
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ebm_jax import networks, samplers
from ebm_jax.data.mixture import Mixture
from ebm_jax.data.moments import Moments
from ebm_jax.energy import EnergyFn
from ebm_jax.methods import base, persistent_chains
from ebm_jax.methods.base import Index, MethodState, Params
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.methods.mixture_base import MixtureBase
from ebm_jax.methods.probability_flow import ProbabilityFlow
from ebm_jax.samplers import random
from ebm_jax.settings import check, setting

_NATS = 0.1  # of the noisiest law's divergence from a Gaussian, at most
_MAX_GROUPS = 8  # of noises in the metrics


def dual_losses(
    grad: jax.Array, time_slope: jax.Array, noise: jax.Array, t: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The two terms of the loss per example, of y and of t; both [batch].

    Args:
      grad: grad_y U and noise: eps [batch, ...]. time_slope: t dU/dt and t: [batch].
    """
    num_values = math.prod(noise.shape[1:])
    axes = range(1, noise.ndim)
    of_y = jnp.sum((base.per_example(jnp.sqrt(t), grad) * grad - noise) ** 2, axes) / num_values
    expected = (num_values - jnp.sum(noise**2, axes)) / 2
    return of_y, ((time_slope - expected) / num_values) ** 2


def fade(t: jax.Array, variance: float, largest_t: float) -> jax.Array:
    """g(t) = (h(t) - h(T)) / (h(0) - h(T)), h(t) = 1 / (1 + t / variance): 1 at 0, 0 at T."""
    at_end = 1 / (1 + largest_t / variance)
    return (1 / (1 + t / variance) - at_end) / (1 - at_end)


def check_reaches_base(max_noise: float, moments: Moments) -> None:
    """Raises ValueError unless x + max_noise eps is Gaussian to 0.1 nats, whatever x is.

    The divergence of x + sqrt(t) eps from the Gaussian with its moments is at most W^2 / 2 t, W the
    Wasserstein distance of x from its own Gaussian, and W^2 at most 2 tr(covariance).
    """
    least = float(np.sqrt(np.trace(moments.covariance) / _NATS))
    if max_noise < least * (1 - 1e-6):
        raise ValueError(
            f"method.max_noise: expected at least {least:.4g}, by which the data are drowned to "
            f"{_NATS} nats, so that the base distribution is known, got {max_noise:g}"
        )


@dataclasses.dataclass(frozen=True)
class DualScoreSampler:
    """From the Gaussian of the largest noise to the lowest; nothing of it matters to training."""

    kind: str = setting(
        "ode", "the probability flow, whose only noise is its start's, or annealed langevin",
        one_of=("ode", "langevin"),
    )  # fmt: skip
    num_steps: int = setting(
        5, "of Heun's rule from one level to the next, or of Langevin at each, which wants more",
        at_least=1,
    )  # fmt: skip
    step_scale: float = setting(0.2, "h / t of Langevin's steps at noise t", above=0)

    def __post_init__(self) -> None:
        check(self, "sampler.")


@dataclasses.dataclass(frozen=True, eq=False)
class DualScoreMatching:
    """Dual score matching about a base of one Gaussian or several; see the module.

    Metrics: 'score_loss' and 'time_loss', the two terms, each by up to 8 groups of noises, the
    lowest first; 'energy_noisy', U(y, t); of chains 'energy_pos', 'energy_neg', U at the lowest
    noise of data and chains, and 'acceptance', 1 before they move; about a mixture also
    'jump_acceptance', of the draws that are tried for each.

    network: f, called as network(y', log t) -> [batch], log t float, y' = y drawn in to the data's
    size where t is large. data_moments: of the data in model units. data_mixture: of the
    data in model units, where num_components is more than 1.

    Raises:
      ValueError: for a value that a setting cannot have, noises in the wrong order, settings of
        chains without any, a range that does not reach the base, or another mixture than is set.
    """

    network: nn.Module
    data_moments: Moments
    min_noise: float = setting(0.01, "sqrt(t) of the lowest level, model units", above=0)
    max_noise: float = setting(
        100.0, "sqrt(t) of the highest level: sqrt(10 tr(covariance)) of the data at least", above=0
    )
    num_levels: int = setting(
        20, "noise levels at equal ratios, of the densities and of sampling", at_least=2
    )
    num_components: int = setting(
        1, "Gaussians of the base, the mixture that EM fits to the data; 1: as published",
        at_least=1,
    )  # fmt: skip
    chain_weight: float = setting(
        0.0,
        "of maximum likelihood at the lowest noise, against chains that persist from step to step, "
        "one for each example of a batch; 0: none, as published",
        at_least=0,
    )
    chain_moves: int = setting(
        10, "of HMC that the chains make in a step, five gradients each", at_least=1
    )
    chain_after: int = setting(
        0, "training steps before the chains move and count: first there is little to hold them",
        at_least=0,
    )  # fmt: skip
    sampler: DualScoreSampler = DualScoreSampler()
    data_mixture: Mixture | None = None
    base_law: MixtureBase = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        check(self, "method.")
        if not self.min_noise < self.max_noise:
            raise ValueError(
                f"method.min_noise: expected less than method.max_noise, {self.max_noise:g}, got "
                f"{self.min_noise:g}"
            )
        usual_values = {field.name: field.default for field in dataclasses.fields(self)}
        for name in () if self.chain_weight else ("chain_moves", "chain_after"):
            if (value := getattr(self, name)) != (usual := usual_values[name]):
                raise ValueError(
                    f"method.{name} is read with method.chain_weight > 0 alone: expected {usual} "
                    f"with 0, got {value}"
                )
        check_reaches_base(self.max_noise, self.data_moments)
        object.__setattr__(self, "base_law", self._base_law())

    def _base_law(self) -> MixtureBase:
        if self.num_components == 1:
            return MixtureBase.of_moments(self.data_moments)
        mixture = self.data_mixture
        if mixture is None or mixture.num_components != self.num_components:
            raise ValueError(
                f"data_mixture: expected one of method.num_components = {self.num_components}, "
                f"got {mixture.num_components if mixture else 'none'}"
            )
        return MixtureBase.of_mixture(mixture)

    @property
    def sigma(self) -> np.ndarray:
        """sqrt(t) of the levels, the lowest first, float32 [num_levels]."""
        return np.geomspace(self.min_noise, self.max_noise, self.num_levels).astype(np.float32)

    @functools.cached_property
    def _size(self) -> float:
        """Mean variance of a value of the data."""
        return float(np.trace(self.data_moments.covariance)) / len(self.data_moments.mean)

    @functools.cached_property
    def _largest_variance(self) -> float:
        """Along any direction."""
        return float(max(np.linalg.eigvalsh(self.data_moments.covariance)[-1], 0))

    def energy(self, params: Params, log_t: jax.Array) -> EnergyFn:
        """U(., t) = -log p_t, for log t [] or [batch]; params: normalized already."""
        t, size = jnp.exp(log_t), self._size or 1.0
        faded = fade(t, self._largest_variance or 1.0, self.max_noise**2)
        learned = networks.bind(self.network, params, log_t, scale=faded)
        mean = jnp.asarray(self.data_moments.mean, jnp.float32).reshape(self.network.input_shape)
        factor = jnp.sqrt(size / (size + t))

        def energy_fn(y: jax.Array) -> jax.Array:
            drawn_in = mean + base.per_example(factor, y) * (y - mean)
            return self.base_law.energy(y, t) + learned(drawn_in)

        return energy_fn

    def init(
        self, rng_key: jax.Array, example_batch: Mapping[str, jax.Array]
    ) -> tuple[Params, MethodState]:
        """Parameters of the network, vectors of its spectral norm, and chains, if it has any.

        Chains start as draws of the base at the lowest noise.
        """
        params_key, state_key = jax.random.split(rng_key)
        x = example_batch["image"]
        params = self.network.init(params_key, x[:1], jnp.zeros(1))["params"]
        power_state = networks.init_power_state(state_key, self.network, params)
        if not self.chain_weight:
            return params, MethodState(power_state)
        chains = self.base_law.sample(
            jax.random.fold_in(state_key, 1), jnp.arange(len(x)), x, self.min_noise**2
        )
        return params, MethodState(power_state, chains)

    def loss(
        self,
        params: Params,
        method_state: MethodState,
        batch: Mapping[str, jax.Array],
        rng_key: jax.Array,
    ) -> tuple[jax.Array, tuple[MethodState, dict[str, Any]]]:
        """See the module, and `base.Method.loss`."""
        x, index = batch["image"], base.example_index(batch)
        time_key, noise_key = jax.random.split(rng_key)
        place = random.uniform(time_key, index, ())  # of log t in its range
        log_t = 2 * (np.log(self.min_noise) + place * np.log(self.max_noise / self.min_noise))
        t, noise = jnp.exp(log_t), random.normal(noise_key, index, x)
        y = x + base.per_example(jnp.sqrt(t), x) * noise
        normalized, power_state = networks.normalize_params(
            self.network, params, method_state.shared
        )

        def total(y: jax.Array, log_t: jax.Array) -> tuple[jax.Array, jax.Array]:
            energies = self.energy(normalized, log_t)(y)
            return jnp.sum(energies), energies

        slopes, energies = jax.grad(total, argnums=(0, 1), has_aux=True)(y, log_t)
        of_y, of_t = dual_losses(slopes[0], slopes[1], noise, t)
        groups = min(self.num_levels, _MAX_GROUPS)
        group = jnp.floor(groups * place).astype(jnp.int32)
        metrics = {
            "score_loss": base.mean_per_level(of_y, group, groups),
            "time_loss": base.mean_per_level(of_t, group, groups),
            "energy_noisy": base.mean_over_batch(energies),
        }
        loss, chains = jnp.mean(of_y + of_t), method_state.sharded
        if self.chain_weight:
            likelihood, chains, of_chains = self._likelihood_loss(
                normalized, chains, batch, jax.random.fold_in(rng_key, 1)
            )
            loss += self.chain_weight * likelihood
            metrics |= of_chains
        return loss, (MethodState(power_state, chains), jax.lax.stop_gradient(metrics))

    def _likelihood_loss(
        self, params: Params, chains: jax.Array, batch: Mapping[str, jax.Array], rng_key: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
        """(the loss per value, the chains after their moves, metrics); params: normalized."""
        noise_key, chain_key = jax.random.split(rng_key)
        x, index = batch["image"], base.example_index(batch)
        x_pos = x + self.min_noise * random.normal(noise_key, index, x)
        log_t = jnp.asarray(2 * np.log(self.min_noise))
        has_begun = batch["step"] >= self.chain_after
        fixed = jax.lax.stop_gradient(params)  # so that the chains have no gradient
        x_neg, of_chains = jax.lax.cond(
            has_begun,
            lambda x: self._moved_chains(fixed, x, chain_key, index),
            lambda x: (x, dict.fromkeys(self._chain_metrics, jnp.ones(x.shape[0]))),
            chains,
        )
        energy_fn = self.energy(params, log_t)
        energy_pos, energy_neg = energy_fn(x_pos), energy_fn(x_neg)
        contrast = jnp.mean(energy_pos - energy_neg) / math.prod(x.shape[1:])
        metrics = {"energy_pos": energy_pos, "energy_neg": energy_neg, **of_chains}
        means = {name: base.mean_over_batch(values) for name, values in metrics.items()}
        return jnp.where(has_begun, contrast, 0.0), x_neg, means

    @property
    def _chain_metrics(self) -> tuple[str, ...]:
        return ("acceptance",) if self.num_components == 1 else ("acceptance", "jump_acceptance")

    def _moved_chains(
        self, params: Params, x: jax.Array, rng_key: jax.Array, index: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Chains at the lowest noise after a step's moves, and by name acceptances [chains].

        About a mixture a draw of it is then tried for each.
        """
        t = self.min_noise**2
        energy_fn = self.energy(params, jnp.log(t))
        moved = persistent_chains.moved(
            rng_key, energy_fn, x, num_moves=self.chain_moves, least_std=self.min_noise,
            first_chain=index[0],
        )  # fmt: skip
        found = {"acceptance": moved.acceptance}
        if self.num_components == 1:
            return moved.x, found
        draw_key, test_key = jax.random.split(jax.random.fold_in(rng_key, self.chain_moves))
        jumped = persistent_chains.jumped(
            test_key,
            energy_fn,
            lambda x: self.base_law.energy(x, t),
            moved.x,
            self.base_law.sample(draw_key, index, x, t),
            index,
        )
        return jumped.x, {**found, "jump_acceptance": jumped.acceptance}

    def sample(self, params: Params, rng_key: jax.Array, index: Index) -> jax.Array:
        """Samples of the lowest level by the sampler's kind; see `base.Method.sample`."""
        start_key, chain_key = jax.random.split(rng_key)
        normalized, _ = networks.normalize_params(self.network, params)
        like = base.zeros_like_examples(self.network.input_shape, index)
        y = self.base_law.sample(start_key, index, like, self.max_noise**2)
        if self.sampler.kind == "ode":
            return self._flow(normalized).carry(y)
        log_t = 2 * jnp.log(jnp.asarray(self.sigma[::-1]))

        def make_kernel(log_t: jax.Array) -> samplers.Kernel:
            kernel = self._kernel(self.energy(normalized, log_t), jnp.exp(log_t))
            return base.index_chains(kernel, index)

        state, _ = samplers.run_schedule(chain_key, make_kernel, log_t, y, self.sampler.num_steps)
        return state.x

    def _flow(self, params: Params) -> ProbabilityFlow:
        """From the largest noise, where the energy is that of the base; params: normalized."""
        last, first = 2 * np.log(self.sigma[[0, -1]])
        steps = (self.num_levels - 1) * self.sampler.num_steps
        return ProbabilityFlow(
            lambda log_t: self.energy(params, log_t),
            lambda y: self.base_law.energy(y, self.max_noise**2),
            jnp.linspace(first, last, steps + 1),
        )

    def densities(self, params: Params) -> Densities:
        """p_t at the levels' noises, with the normalizing constants that they claim: log_z = 0.

        Annealing starts at N(center, (max_noise^2 + variance) I), the highest level but for what
        its covariance has of the data's.
        """
        normalized, _ = networks.normalize_params(self.network, params)
        sigma = jnp.asarray(self.sigma)
        return Densities(
            lambda level: self.energy(normalized, 2 * jnp.log(sigma[level])),
            jnp.ones(self.num_levels),
            sigma,
            BaseDistribution(
                center=float(self.data_moments.mean.mean()),
                std=float(np.hypot(self.max_noise, np.sqrt(self._size))),
            ),
            lambda energy_fn, level: self._kernel(energy_fn, sigma[level] ** 2),
            log_z=jnp.zeros(self.num_levels),
            flow=self._flow(normalized) if self.sampler.kind == "ode" else None,
        )

    def _kernel(self, energy_fn: EnergyFn, t: jax.Array) -> samplers.Kernel:
        return samplers.langevin(energy_fn, self.sampler.step_scale * t)
