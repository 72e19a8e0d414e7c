"""Diffusion recovery likelihood as one object: its settings, and what is done with them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ebm_jax import networks, samplers
from ebm_jax.diffusion import NoiseSchedule, make_schedule
from ebm_jax.energy import EnergyFn
from ebm_jax.methods import base
from ebm_jax.methods.base import Index, MethodState, Params
from ebm_jax.methods.densities import Densities
from ebm_jax.methods.recovery_likelihood import level_classifier, sampling, transitions
from ebm_jax.methods.recovery_likelihood.densities import gaussian_densities, langevin_densities
from ebm_jax.methods.recovery_likelihood.loss import Pairs, recovery_losses, sample_pairs
from ebm_jax.methods.recovery_likelihood.transitions import LevelEnergy, Transition
from ebm_jax.networks.level_constants import LevelConstants
from ebm_jax.samplers import energy_and_grad, norm, random
from ebm_jax.settings import check, setting

_CLASSIFIER_TERMS = {
    "neighbors": level_classifier.neighbor_losses,
    "levels": level_classifier.level_losses,
}


@dataclasses.dataclass(frozen=True)
class RecoverySampler:
    """Settings of a trained model's chains; none of them matters to training.

    Raises:
      ValueError: for a value that a setting cannot have.
    """

    num_steps: int = setting(0, "Langevin steps per level; 0: K, as in training", at_least=0)
    noise_scale: float = setting(0.99, '"nu" of the chains', at_least=0)
    inpaint_rounds: int = setting(
        5, "times down and up again at each level when inpainting; 1 goes down alone", at_least=1
    )
    restore_level: int = setting(1, "noise level, 1 .. T, that restoring starts from", at_least=1)

    def __post_init__(self) -> None:
        check(self, "sampler.")


@dataclasses.dataclass(frozen=True, eq=False)
class RecoveryLikelihood:
    """Diffusion recovery likelihood (Gao et al. 2020); see the package for its maths.

    Per example a level t uniform on 0 .. T-1, a pair (x_t, x_{t+1}), a transition from x_{t+1} to
    a negative y on the conditional, and

        loss = mean (sigma_1 / sigma_{t+1}) (E(y_pos, t) - E(y_neg, t)),

    the negatives held constant. Metrics, each by `base.metrics_per_level`: 'level_loss',
    'energy_pos', 'energy_neg', 'displacement' (L2 distance from a chain's start x_{t+1} to its end
    as x_t, as published), 'chain_grad_norm' (of the conditional energy in y, at the last step).

    With a weight `level_classifier` the two terms of that module are added, metrics
    'classifier_of_neighbors' and 'classifier_of_levels', and the densities claim log_z = 0.

    network: called as network(y, t) -> [batch]; with a level classifier it becomes one with a
    constant per level, `LevelConstants`, unless it has them. schedule: the noise levels, made of
    the settings.

    Raises:
      ValueError: for a value that a setting cannot have, or settings that exclude each other.
    """

    network: nn.Module
    num_pairs: int = setting(6, 'pairs of noise levels, "T"', at_least=1)
    noise_levels: tuple[float, ...] = setting(
        (), "sbar_t of the pairs, growing; (): the paper's num_pairs", above=0, below=1
    )
    transition: str = setting(
        "langevin",
        "from x_{t+1} to x_t: K Langevin steps; mala, which tests each of them and so does not "
        "climb where an energy is steep, and which has no blends to interpolate with; or gaussian "
        "(one step, T1k)",
        one_of=("langevin", "mala", "gaussian"),
    )
    num_steps: int = setting(30, 'Langevin steps per level in training, "K"', at_least=1)
    step_scale: float = setting(
        2e-4, '"b^2": s_t^2 = b^2 c_t^2 sigma_{t+1}^2; it fixes the energy scale 1 / s_t^2', above=0
    )
    step_growth: float = setting(1.0, "g in c_t^2 = (sbar_t / sbar_0)^g; the paper's is 1")
    energy_in_nats: bool = setting(
        False,
        "the network's output is the energy itself: with 1 / s_t^2 in front, a level of short steps"
        " wants small outputs, which one step of Adam on the last layer then upsets",
    )
    noise_scale: float = setting(1.0, '"nu" of the chains in training', at_least=0)
    transition_variance: str = setting(
        "step", "of the gaussian transition: the paper's sigma_{t+1}^2, or posterior",
        one_of=transitions.VARIANCES,
    )  # fmt: skip
    level_classifier: float = setting(
        0.0,
        "weight of a classifier of the level, which fixes every level's normalizing constant and "
        "the relative mass of far regions; 0: none, as published",
        at_least=0,
    )
    sampler: RecoverySampler = RecoverySampler()
    schedule: NoiseSchedule = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        check(self, "method.")
        if self.transition != "gaussian" and self.transition_variance != "step":
            raise ValueError(
                "method.transition_variance is read with transition='gaussian' alone: expected "
                f"'step' with {self.transition!r}, got {self.transition_variance!r}"
            )
        for name, scale in (("method", self.noise_scale), ("sampler", self.sampler.noise_scale)):
            if self.transition == "mala" and scale == 0:
                raise ValueError(
                    f"{name}.noise_scale: expected > 0 with method.transition='mala', as chains "
                    "without noise have nothing to test, got 0"
                )
        if self.transition == "gaussian" and self.sampler.num_steps:
            raise ValueError(
                "sampler.num_steps: expected 0, as the gaussian transition is one step, got "
                f"{self.sampler.num_steps}"
            )
        if self.sampler.restore_level > self.num_pairs:
            raise ValueError(
                f"sampler.restore_level: expected one of the levels 1 to {self.num_pairs}, got "
                f"{self.sampler.restore_level}"
            )
        if self.level_classifier and not self.energy_in_nats:
            raise ValueError(
                "method.level_classifier compares energies in nats: expected "
                "method.energy_in_nats=True with it, or 0, got "
                f"{self.level_classifier:g}"
            )
        with jax.ensure_compile_time_eval():
            schedule = make_schedule(self.num_pairs, self.noise_levels)
        object.__setattr__(self, "schedule", schedule)
        if self.level_classifier and not getattr(self.network, "has_level_constants", False):
            network = LevelConstants(self.network, self.num_pairs)
            object.__setattr__(self, "network", network)

    @property
    def energy_scale(self) -> jax.Array:
        """[T] factor of the network's output, see `transitions.energy_scale`."""
        with jax.ensure_compile_time_eval():  # the same numbers whatever is compiled around them
            return transitions.energy_scale(
                self.schedule,
                transition=self.transition,
                step_scale=self.step_scale,
                step_growth=self.step_growth,
                energy_in_nats=self.energy_in_nats,
            )

    @property
    def training_transition(self) -> Transition:
        """Makes the negatives of training."""
        return self._transition(self.num_steps, self.noise_scale)

    @property
    def sampling_transition(self) -> Transition:
        """Makes samples."""
        return self._transition(self.sampler.num_steps or self.num_steps, self.sampler.noise_scale)

    def _transition(self, num_steps: int, noise_scale: float) -> Transition:
        with jax.ensure_compile_time_eval():  # as in energy_scale
            if self.transition == "gaussian":
                return transitions.gaussian_transition(
                    self.schedule, variance=self.transition_variance, noise_scale=noise_scale
                )
            return transitions.langevin_transition(
                self.schedule,
                num_steps=num_steps,
                step_scale=self.step_scale,
                step_growth=self.step_growth,
                noise_scale=noise_scale,
                make_chain=self._make_chain,
            )

    @property
    def _make_chain(self) -> transitions.MakeChain:
        return transitions.bounded_mala if self.transition == "mala" else samplers.langevin

    def init(
        self, rng_key: jax.Array, example_batch: Mapping[str, jax.Array]
    ) -> tuple[Params, MethodState]:
        """Parameters of the network, and the vectors of its spectral norm."""
        params_key, state_key = jax.random.split(rng_key)
        x, level = example_batch["image"][:1], jnp.zeros((1,), jnp.int32)
        params = self.network.init(params_key, x, level)["params"]
        return params, MethodState(networks.init_power_state(state_key, self.network, params))

    def loss(
        self,
        params: Params,
        method_state: MethodState,
        batch: Mapping[str, jax.Array],
        rng_key: jax.Array,
    ) -> tuple[jax.Array, tuple[MethodState, dict[str, Any]]]:
        """See the class, and `base.Method.loss`."""
        pair_key, chain_key = jax.random.split(rng_key)
        index = base.example_index(batch)
        pairs = sample_pairs(pair_key, self.schedule, batch["image"], index)
        level, multiplier = pairs.level, self.schedule.multiplier[pairs.level]
        multiplier = base.per_example(multiplier, pairs.x)
        y_pos = multiplier * pairs.x

        normalized, power_state = networks.normalize_params(
            self.network, params, method_state.shared
        )
        constant = jax.lax.stop_gradient(normalized)
        marginal = networks.bind(self.network, constant, level, scale=self.energy_scale[level])
        y_neg, grad_norm = self._negatives(chain_key, marginal, pairs, index)
        y_neg = jax.lax.stop_gradient(y_neg)

        energy_of_both = networks.bind(self.network, normalized, jnp.concatenate([level, level]))
        energy_pos, energy_neg = jnp.split(energy_of_both(jnp.concatenate([y_pos, y_neg])), 2)
        losses = recovery_losses(energy_pos, energy_neg, level, self.schedule)
        values = {
            "level_loss": losses,
            "energy_pos": energy_pos,
            "energy_neg": energy_neg,
            "displacement": norm(y_neg / multiplier - pairs.x_noisy),
            "chain_grad_norm": grad_norm,
        }
        metrics = base.metrics_per_level(values, level, self.num_pairs)
        loss = jnp.mean(losses)
        if self.level_classifier:
            densities = self._densities(self._level_energy(normalized))
            terms = {
                f"classifier_of_{name}": term(
                    jax.random.fold_in(rng_key, i), densities, batch["image"], index
                )
                for i, (name, term) in enumerate(_CLASSIFIER_TERMS.items())
            }
            loss += self.level_classifier * sum(jnp.mean(term) for term in terms.values())
            metrics |= {name: base.mean_over_batch(term) for name, term in terms.items()}
        new_state = method_state._replace(shared=power_state)
        return loss, (new_state, jax.lax.stop_gradient(metrics))

    def _negatives(
        self, rng_key: jax.Array, marginal: EnergyFn, pairs: Pairs, index: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Negatives y_t, and the norm of the gradient that the last step went along."""
        if self.transition == "gaussian":  # with the noise that belongs to the pair
            step, temperature = transitions.gaussian_as_langevin(
                self.schedule, self.transition_variance, self.noise_scale
            )
            _, grad = energy_and_grad(marginal, pairs.x_noisy)
            noise = transitions.posterior_noise(
                self.schedule, pairs.level, pairs.noise, pairs.next_noise
            )
            moved = samplers.langevin_update(
                pairs.x_noisy, grad, noise, step[pairs.level], temperature[pairs.level]
            )
            return moved, norm(grad)
        transition = self.training_transition
        conditional = transitions.conditional_energy(
            marginal, self.schedule, pairs.x_noisy, pairs.level
        )
        state, info = samplers.run_chain(
            rng_key,
            transition.make_kernel(conditional, pairs.level),
            pairs.x_noisy,
            transition.num_steps,
            first_chain=index[0],
        )
        return state.x, info.grad_norm

    def level_energy(self, params: Params) -> LevelEnergy:
        """(t) -> the marginal energy E(y, t) / s_t^2 of y_t, the parameters normalized once."""
        normalized, _ = networks.normalize_params(self.network, params)
        return self._level_energy(normalized)

    def _level_energy(self, normalized: Params) -> LevelEnergy:
        scale = self.energy_scale
        return lambda level: networks.bind(self.network, normalized, level, scale=scale[level])

    def sample(
        self,
        params: Params,
        rng_key: jax.Array,
        index: Index,
        *,
        keep_trajectory: bool = False,
    ):
        """Samples of level 0 by `sampling.progressive_sample`; see `base.Method.sample`."""
        start_key, chain_key = jax.random.split(rng_key)
        like = base.zeros_like_examples(self.network.input_shape, index)
        return sampling.progressive_sample(
            chain_key,
            self.level_energy(params),
            self.schedule,
            self.sampling_transition,
            random.normal(start_key, index, like),
            index,
            keep_trajectory=keep_trajectory,
        )

    def densities(self, params: Params) -> Densities:
        """With Langevin chains pair t's energy is that of x_t, with Gaussian ones of x_{t+1}."""
        return self._densities(self.level_energy(params))

    def _densities(self, level_energy: LevelEnergy) -> Densities:
        if self.transition == "gaussian":
            found = gaussian_densities(level_energy, self.schedule, self.sampling_transition)
        else:
            scale = self.schedule.langevin_scale(self.step_scale, self.step_growth)
            found = langevin_densities(level_energy, self.schedule, scale, self._make_chain)
        log_z = jnp.zeros(found.num_levels) if self.level_classifier else None
        return found._replace(log_z=log_z)

    def inpaint(
        self,
        params: Params,
        rng_key: jax.Array,
        x: jax.Array,
        is_known: random.AnyArray,
        index: jax.Array,
        label: jax.Array,
    ) -> jax.Array:
        """Unknown values by `sampling.inpaint_levels`; see `base.Inpainter`."""
        del label
        return sampling.inpaint_levels(
            rng_key, self.level_energy(params), self.schedule, self.sampling_transition,
            x, is_known, index, num_rounds=self.sampler.inpaint_rounds,
        )  # fmt: skip

    def restore(
        self, params: Params, rng_key: jax.Array, x: jax.Array, index: jax.Array, label: jax.Array
    ) -> jax.Array:
        """Samples near x, from `sampler.restore_level`; see `base.Restorer`."""
        del label
        return self.sample_from_level(params, rng_key, x, index, level=self.sampler.restore_level)

    def sample_from_level(
        self, params: Params, rng_key: jax.Array, x: jax.Array, index: jax.Array, *, level: int
    ) -> jax.Array:
        """By `sampling.restore_levels`; see `base.LevelSampler`."""
        return sampling.restore_levels(
            rng_key, self.level_energy(params), self.schedule, self.sampling_transition,
            x, index, level=level,
        )  # fmt: skip
