"""Denoising score matching as one object: its settings, and what is done with them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ebm_jax import networks, samplers
from ebm_jax.methods import base
from ebm_jax.methods.base import Index, MethodState, Params
from ebm_jax.methods.denoising_score_matching import sampling
from ebm_jax.methods.denoising_score_matching.loss import noise_ladder, score_matching_losses
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.samplers import random
from ebm_jax.settings import check, setting

_MAX_GROUPS = 8  # of neighboring levels in the metrics: a ladder may have one per example


@dataclasses.dataclass(frozen=True)
class AnnealedLangevinSampler:
    """Settings of annealed Langevin; none of them matters to training.

    Raises:
      ValueError: for a value that a setting cannot have.
    """

    step_size: float = setting(
        0.02, '"epsilon": x -= eps^2/2 dE/dx, with noise eps sqrt(T)', above=0
    )
    start_temperature: float = setting(100.0, '"T" of the first num_hot steps', above=0)
    num_hot: int = setting(500, "steps at that temperature", at_least=0)
    num_cooling: int = setting(2_000, "steps down to 1", at_least=0)
    num_final: int = setting(200, "steps from 1 to 0, linearly", at_least=0)
    cooling: str = setting("exp", "how the temperature falls to 1", one_of=("exp", "linear"))
    restore_temperature: float = setting(1.0, "the highest temperature when restoring", at_least=0)

    def __post_init__(self) -> None:
        check(self, "sampler.")
        if not len(self.temperatures):
            raise ValueError("sampler: expected at least one step of num_hot + .. , got none")

    @property
    def temperatures(self) -> np.ndarray:
        """T_i [steps]."""
        return np.asarray(
            samplers.mdsm_temperatures(
                start=self.start_temperature,
                num_hot=self.num_hot,
                num_cooling=self.num_cooling,
                num_final=self.num_final,
                cooling=self.cooling,
            ),
            np.float32,
        )

    @property
    def restoring_temperatures(self) -> np.ndarray:
        """The temperatures that are not above restore_temperature.

        Raises:
          ValueError: where there are none.
        """
        temperatures = self.temperatures
        cooler = temperatures[temperatures <= self.restore_temperature]
        if not len(cooler):
            raise ValueError(
                "sampler.restore_temperature: expected at least the coolest step's, "
                f"{np.min(temperatures):g}, got {self.restore_temperature:g}"
            )
        return cooler


@dataclasses.dataclass(frozen=True, eq=False)
class DenoisingScoreMatching:
    """(Multiscale) denoising score matching (Li, Chen & Sommer); see the package for its maths.

    Example i of the global batch has the level i mod num_levels, at each step the same, so that
    the noise does not depend on the number of devices.

    Metrics: 'normalized_loss', sigma_0^4 times the loss (as the paper's code logs it), and
    'normalized_loss_by_noise', the same for up to 8 groups of neighboring levels, both means over
    examples; 'energy_noisy', of x_noisy.

    network: called as network(x) -> [batch]. low, high: of the data; chains start about the middle.

    Raises:
      ValueError: for a value that a setting cannot have, and temperatures above 1 with one level: a
        single level says nothing of where such chains go; by init, for a batch that is no multiple
        of the levels.
    """

    network: nn.Module
    low: float = 0.0
    high: float = 1.0
    num_levels: int = setting(128, "noise levels; the batch is a multiple of it", at_least=1)
    min_noise: float = setting(0.05, "lowest noise level, model units", above=0)
    max_noise: float = setting(1.2, "highest noise level, model units", above=0)
    spacing: str = setting("linear", "of the noise levels", one_of=("linear", "log"))
    target_sigma: float = setting(
        0.1, '"sigma_0": the noise whose score the energy learns', above=0
    )
    sampler: AnnealedLangevinSampler = AnnealedLangevinSampler()

    def __post_init__(self) -> None:
        check(self, "method.")
        hottest = np.max(self.sampler.temperatures)
        if len(self.sigma) == 1 and hottest > 1:
            raise ValueError(
                "sampler.start_temperature: expected at most 1 with a single noise level, got "
                f"{hottest:g}"
            )

    @property
    def sigma(self) -> np.ndarray:
        """The noise levels, float32 [num_levels]."""
        ladder = noise_ladder(self.num_levels, self.min_noise, self.max_noise, spacing=self.spacing)
        return ladder.astype(np.float32)

    def init(
        self, rng_key: jax.Array, example_batch: Mapping[str, jax.Array]
    ) -> tuple[Params, MethodState]:
        """Parameters of the network, and the vectors of its spectral norm if it has one."""
        x = example_batch["image"]
        if len(x) % self.num_levels:
            nearest = max(1, round(len(x) / self.num_levels)) * self.num_levels
            raise ValueError(
                f"training.batch_size: expected a multiple of the {self.num_levels} noise levels, "
                f"such as {nearest}, got {len(x)}"
            )
        params_key, state_key = jax.random.split(rng_key)
        params = self.network.init(params_key, x[:1], None)["params"]
        return params, MethodState(networks.init_power_state(state_key, self.network, params))

    def loss(
        self,
        params: Params,
        method_state: MethodState,
        batch: Mapping[str, jax.Array],
        rng_key: jax.Array,
    ) -> tuple[jax.Array, tuple[MethodState, dict[str, Any]]]:
        """See the class, and `base.Method.loss`."""
        x, index = batch["image"], base.example_index(batch)
        level = index % self.num_levels
        sigma = jnp.asarray(self.sigma)[level]
        x_noisy = x + base.per_example(sigma, x) * random.normal(rng_key, index, x)
        normalized, power_state = networks.normalize_params(
            self.network, params, method_state.shared
        )
        energy_fn = networks.bind(self.network, normalized)
        losses, energies = score_matching_losses(energy_fn, x, x_noisy, sigma, self.target_sigma)
        relative = self.target_sigma**4 * losses
        num_groups = min(self.num_levels, _MAX_GROUPS)
        metrics = {
            "normalized_loss": base.mean_over_batch(relative),
            "normalized_loss_by_noise": base.mean_per_level(
                relative, level * num_groups // self.num_levels, num_groups
            ),
            "energy_noisy": base.mean_over_batch(energies),
        }
        new_state = method_state._replace(shared=power_state)
        return jnp.mean(losses), (new_state, jax.lax.stop_gradient(metrics))

    def sample(self, params: Params, rng_key: jax.Array, index: Index) -> jax.Array:
        """Annealed Langevin from noise; see `base.Method.sample`."""
        start_key, chain_key = jax.random.split(rng_key)
        x = self._starts(start_key, index)
        return self._anneal(params, chain_key, x, self.sampler.temperatures, index)

    def densities(self, params: Params) -> Densities:
        """The one energy, of data with noise sigma_0; see `base.Method.densities`.

        With a ladder of noises the energy is no log density at sigma_0 nor at any level. Its native
        chain is that of sampling at temperature 1.
        """
        energy_fn = networks.make_energy_fn(self.network, params)
        caveat = (
            "With a ladder of noises the best E is no log density of data at any noise: read these "
            "metrics as those of exp(-E) alone, and not as what this method reaches."
        )
        return Densities(
            lambda level: energy_fn,
            jnp.ones(1),
            jnp.full(1, self.target_sigma),
            BaseDistribution(center=self._center),
            lambda energy_fn, level: samplers.mdsm_langevin(energy_fn, 1.0, self.sampler.step_size),
            caveats=(caveat,) if self.num_levels > 1 else (),
        )

    def inpaint(
        self,
        params: Params,
        rng_key: jax.Array,
        x: jax.Array,
        is_known: random.AnyArray,
        index: jax.Array,
        label: jax.Array,
    ) -> jax.Array:
        """Unknown values by `sampling.inpaint_annealed`; see `base.Inpainter`."""
        del label
        start_key, chain_key = jax.random.split(rng_key)
        return sampling.inpaint_annealed(
            chain_key, networks.make_energy_fn(self.network, params),
            self._starts(start_key, index), x, is_known, self.sampler.temperatures, index,
            step_size=self.sampler.step_size, target_sigma=self.target_sigma,
        )  # fmt: skip

    def restore(
        self, params: Params, rng_key: jax.Array, x: jax.Array, index: jax.Array, label: jax.Array
    ) -> jax.Array:
        """Annealed Langevin from x that leaves out what is hotter than restore_temperature."""
        del label
        temperatures = self.sampler.restoring_temperatures
        return self._anneal(params, rng_key, x, temperatures, index)

    @property
    def _center(self) -> float:
        return (self.low + self.high) / 2

    def _starts(self, rng_key: jax.Array, index: Index) -> jax.Array:
        like = base.zeros_like_examples(self.network.input_shape, index)
        return self._center + random.normal(rng_key, index, like)

    def _anneal(
        self,
        params: Params,
        rng_key: jax.Array,
        x: jax.Array,
        temperatures: np.ndarray,
        index: Index,
    ) -> jax.Array:
        energy_fn = networks.make_energy_fn(self.network, params)
        return sampling.annealed_sample(
            rng_key, lambda temperature: energy_fn, x, temperatures, index,
            step_size=self.sampler.step_size, target_sigma=self.target_sigma,
        )  # fmt: skip
