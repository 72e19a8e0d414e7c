"""Contrastive divergence as one object: its settings, and what is done with them."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.core import Tracer

from ebm_jax import energy, networks, samplers
from ebm_jax.energy import EnergyFn
from ebm_jax.methods import base
from ebm_jax.methods.base import Index, MethodState, Move, Params
from ebm_jax.methods.contrastive_divergence import chain_init as starting
from ebm_jax.methods.contrastive_divergence import labels as labeling
from ebm_jax.methods.contrastive_divergence.chain_init import ChainInit, Noise
from ebm_jax.methods.contrastive_divergence.dropout import keep_masks, with_dropout
from ebm_jax.methods.contrastive_divergence.loss import FORMS, energy_penalty, likelihood_loss
from ebm_jax.methods.contrastive_divergence.refreshed_buffer import refreshed_buffer
from ebm_jax.methods.contrastive_divergence.sampler_settings import (
    ContrastiveDivergenceSampler,
)
from ebm_jax.methods.contrastive_divergence.turns import cycle_of, energies_in_turn, run_in_turn
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.networks.labels import check_classes
from ebm_jax.samplers import random
from ebm_jax.settings import check, setting


@dataclasses.dataclass(frozen=True, eq=False)
class ContrastiveDivergence:
    """Contrastive divergence with IGEBM's chains (Du & Mordatch 2019); see the package.

    In conditional training a chain has the label of the example that it stands beside, whatever it
    started from (*quirk* of the published code: its buffer holds no labels), unless the buffer has
    labels. Samples of a conditional network are of all classes in turn.

    Metrics: 'energy_pos', and by the start of the chains, with 'buffer', 'chain' (persistent),
    'data', 'noise' or 'context' for S: 'energy_neg_from_S', 'displacement_from_S' (L2 distance
    between the ends), 'grad_norm_from_S' (at the last step); 'l2_penalty', unweighted.

    network: called as network(x, label), label None unless it has `num_classes` or `label_size`.
    low, high: values of black and white in the data: the box of the noise, of the chains and of the
    buffer. make_kernel: (energy_fn) -> kernel of the chains in place of IGEBM's; None: IGEBM's.
    labels: vectors [m, k] that samples of such a network have in turn.

    Raises:
      ValueError: for a value that a setting cannot have, an empty box, two bounds on the gradient,
        dropout in a network without, labels in a buffer that there is not, or of a network without,
        a refreshed buffer of chains that start from a context; by init, for data outside the box,
        missing labels, classes out of range, and a buffer that is too small.
    """

    network: nn.Module
    low: float = 0.0
    high: float = 1.0
    num_steps: int = setting(60, 'Langevin steps in training, "K"', at_least=1)
    step_size: float = setting(10.0, '"lambda": x -= lambda clip(dE/dx)', above=0)
    noise_std: float = setting(
        0.005, "added before the gradient, in units of the data's range", at_least=0
    )
    max_grad: float = setting(
        0.01, "each element of dE/dx is clipped to +- this; 0: no clipping", at_least=0
    )
    max_total_grad_norm: float = setting(
        0.0, "instead, bound on the norm of the whole batch's gradient; 0: none", at_least=0
    )
    init_noise: str = setting(
        "uniform", "distribution of fresh chains' starts", one_of=starting.NOISES
    )
    chain_init: str = setting(
        "replay_buffer", "where chains start in training", one_of=starting.INITS
    )
    context_noise: float = setting(
        0.3,
        "of chain_init context: chains start at its last frame plus U(-this, this), model units",
        at_least=0,
    )
    buffer_size: int = setting(10_000, "entries, over all devices", at_least=1)
    buffer_shards: int = setting(
        8, "rings of the buffer that never mix; a multiple of the number of devices", at_least=1
    )
    buffer_storage: str = setting(
        "uint8", "or float, or igebm_uint8, which darkens as the published one does",
        one_of=("float", "uint8", "igebm_uint8"),
    )  # fmt: skip
    buffer_has_labels: bool = setting(
        False, "entries keep their chain's label, under which chains go on from them"
    )
    replay_probability: float = setting(
        0.95, "share of the chains that start from the buffer", at_least=0, at_most=1
    )
    form: str = setting("cd", "of the likelihood term, see `likelihood_loss`", one_of=FORMS)
    likelihood_weight: float = setting(1.0, "of the likelihood term", at_least=0)
    energy_l2: float = setting(
        1.0, '"alpha": weight of mean E(x_pos)^2 + mean E(x_neg)^2', at_least=0
    )
    temperature: float = setting(
        1.0, "factor of the energy in the chain and in the likelihood term", above=0
    )
    dropout: bool = setting(
        False,
        "masks of rate 1/2 in every block, fresh ones for each evaluation, the chain's included "
        "(*quirk* of the published unconditional training); samples have none",
    )
    sampler: ContrastiveDivergenceSampler = ContrastiveDivergenceSampler()  # noqa: RUF009, it is frozen
    make_kernel: Callable[[EnergyFn], samplers.Kernel] | None = None
    labels: np.ndarray | None = None

    def __post_init__(self) -> None:
        check(self, "method.")
        if not self.low < self.high:
            raise ValueError(
                f"low, high: expected low < high, got the box {self.low} to {self.high}"
            )
        if self.max_grad and self.max_total_grad_norm:
            raise ValueError(
                "method.max_total_grad_norm replaces max_grad: expected 0 with "
                f"max_grad={self.max_grad:g}, got {self.max_total_grad_norm:g}"
            )
        size = math.prod(self.network.input_shape)
        label_size = getattr(self.network, "label_size", 0)
        if self.chain_init == "context" and label_size < size:
            raise ValueError(
                "method.chain_init: expected labels that end with a frame like an example, of "
                f"{size} values, with 'context', got labels of {label_size} values"
            )
        if self.chain_init == "context" and self.block_size:
            raise ValueError(
                "sampler.chains: expected 'fresh' with method.chain_init=context, as a buffer is "
                f"refreshed from noise, got {self.sampler.chains!r}"
            )
        if self.dropout and not hasattr(self.network, "mask_shapes"):
            raise ValueError(
                f"method.dropout: expected False, as {type(self.network).__name__} has no dropout"
            )
        if self.buffer_has_labels and not (
            self.is_conditional and self.chain_init == "replay_buffer"
        ):
            lacking = "labels" if self.chain_init == "replay_buffer" else "replay buffer"
            raise ValueError(
                f"method.buffer_has_labels: expected False, as this model has no {lacking}"
            )

    @property
    def num_classes(self) -> int | None:
        """Of the network; None: unconditional, or labels are vectors."""
        return labeling.num_classes(self.network)

    @property
    def is_conditional(self) -> bool:
        """Whether the energy is one of an example and its label."""
        return labeling.is_conditional(self.network)

    def init(
        self, rng_key: jax.Array, example_batch: Mapping[str, jax.Array]
    ) -> tuple[Params, MethodState]:
        """Parameters of the network, vectors of its spectral norm, and empty buffers."""
        params_key, state_key = jax.random.split(rng_key)
        x, label = example_batch["image"], labeling.of_batch(self.network, example_batch)
        if not isinstance(x, Tracer):
            starting.check_box(x, self.low, self.high)
            if label is not None and self.num_classes is not None:
                check_classes(label, self.num_classes)
        condition = None if label is None else label[:1]
        params = self.network.init(params_key, x[:1], condition)["params"]
        power_state = networks.init_power_state(state_key, self.network, params)
        return params, MethodState(power_state, self._chain_init(x.shape[0]).init(x, label))

    def loss(
        self,
        params: Params,
        method_state: MethodState,
        batch: Mapping[str, jax.Array],
        rng_key: jax.Array,
    ) -> tuple[jax.Array, tuple[MethodState, dict[str, Any]]]:
        """See the class, and `base.Method.loss`."""
        start_key, chain_key, mask_key, kl_key = jax.random.split(rng_key, 4)
        x_pos, index = batch["image"], base.example_index(batch)
        label = labeling.of_batch(self.network, batch)
        normalized, power_state = networks.normalize_params(
            self.network, params, method_state.shared
        )
        constant = jax.lax.stop_gradient(normalized)
        memory = method_state.sharded
        chain_starts = self._chain_init(self._global_batch_size(memory, x_pos.shape[0]))
        x, label_neg, origin = chain_starts.start(start_key, memory, x_pos, label, index)
        chain_params = normalized if self.form == "cd_with_kl" else constant
        end, info = samplers.run_chain(
            chain_key,
            self._training_kernel(chain_params, label_neg),
            x,
            self.num_steps,
            first_chain=index[0],
        )
        x_neg = jax.lax.stop_gradient(end.x)

        energy_pos, energy_neg = self._energies(
            normalized, (label, label_neg), x_pos, x_neg, mask_key, index
        )
        likelihood = likelihood_loss(
            energy_pos, energy_neg, form=self.form, temperature=self.temperature
        )
        penalty = energy_penalty(energy_pos, energy_neg)
        total = self.likelihood_weight * likelihood + self.energy_l2 * penalty
        if self.form == "cd_with_kl":  # x_neg differentiated through the chain
            masks = self._masks(kl_key, index)
            fixed = networks.bind(self.network, constant, label_neg, **masks)
            total = total + jnp.mean(fixed(end.x))

        metrics = {
            "energy_pos": base.mean_over_batch(energy_pos),
            "l2_penalty": base.mean_over_batch(energy_pos**2 + energy_neg**2),
        }
        for name, values in (
            ("energy_neg", energy_neg),
            ("displacement", info.displacement),
            ("grad_norm", info.grad_norm),
        ):
            for place, is_there in origin.items():
                metrics[f"{name}_from_{place}"] = base.mean_where(values, is_there)
        new_state = MethodState(power_state, chain_starts.update(memory, x_neg, label_neg))
        return total, (new_state, jax.lax.stop_gradient(metrics))

    def sample(
        self, params: Params, rng_key: jax.Array, index: Index, *, label: jax.Array | None = None
    ) -> jax.Array:
        """Ends of fresh chains from noise, never from a buffer; see `base.Method.sample`.

        label: as the network takes it; None: the classes, or the vectors `labels`, in turn, those
        of a blend's two mixed by the squares of its weights.
        """
        if label is None and self.is_conditional:
            label = self._labels_in_turn(index)
        normalized, _ = networks.normalize_params(self.network, params)
        start_key, chain_key = jax.random.split(rng_key)
        energy_fns, x = self._turns(normalized, label), self._starts(start_key, index, label)
        return self._run(chain_key, energy_fns, x, index, self._sampling_num_steps)

    @property
    def block_size(self) -> int:
        """Entries of a refreshed buffer; 0 where samples are ends of fresh chains."""
        return self.sampler.buffer_size if self.sampler.chains == "refreshed_buffer" else 0

    @property
    def num_moved(self) -> int:
        """Entries drawn in a round."""
        return self.sampler.buffer_drawn

    def sample_block(
        self,
        params: Params,
        rng_key: jax.Array,
        block: int,
        move: Move,
        on_round: Callable[[int], None] = lambda number: None,
    ) -> np.ndarray:
        """The entries of one refreshed buffer; see `base.BlockSampler` and `refreshed_buffer`.

        Where checkpoints take turns, a round is a turn, as published.
        """
        own = self.sampler
        index = np.arange(own.buffer_drawn, dtype=np.int32)
        known = labeling.known(self.network, self.labels)
        cycle = cycle_of(self.network)
        turns = [params] if cycle is None else cycle.turns(params)
        if own.buffer_rounds < len(turns):
            raise ValueError(
                f"sampler.buffer_rounds: expected at least {len(turns)}, a round for each of the "
                f"checkpoints in turn, got {own.buffer_rounds}"
            )

        def moved(number: int, x: np.ndarray, label: np.ndarray) -> np.ndarray:
            rounds = np.full(own.buffer_drawn, number, np.int32)
            return move(turns[number % len(turns)], rounds, x, index, known[label])

        first = block * own.buffer_size + np.arange(own.buffer_size)
        return refreshed_buffer(
            jax.random.fold_in(rng_key, block), moved, self._noise(), first % len(known),
            len(known), own.refresh, on_round,
        )[0]  # fmt: skip

    def move_entries(
        self,
        params: Params,
        rng_key: jax.Array,
        number: jax.Array,
        x: jax.Array,
        index: jax.Array,
        label: jax.Array,
    ) -> jax.Array:
        """See `base.BlockSampler`; params are those of one checkpoint."""
        cycle = cycle_of(self.network)
        network = self.network if cycle is None else cycle.base
        normalized, _ = networks.normalize_params(network, params)
        condition = label if self.is_conditional else None
        scale = self.temperature if cycle is None else cycle.scale(self.temperature)
        energy_fn = networks.bind(network, normalized, condition, scale=scale)
        key = jax.random.fold_in(rng_key, number[0])
        num_steps = self.sampler.buffer_num_steps or self.num_steps
        return self._run(key, (energy_fn,), x, index, num_steps)

    def sample_with(
        self,
        rng_key: jax.Array,
        kernel: samplers.Kernel,
        index: Index,
        num_steps: int = 0,
        *,
        label: jax.Array | None = None,
    ) -> jax.Array:
        """Ends of chains of any kernel from where samples start: noise, or the label's last frame.

        num_steps: 0: as many as `sample` makes.
        """
        start_key, chain_key = jax.random.split(rng_key)
        kernel = base.index_chains(kernel, index)
        x = self._starts(start_key, index, label)
        num_steps = num_steps or self._sampling_num_steps
        return samplers.run_chain(chain_key, kernel, x, num_steps)[0].x

    def densities(self, params: Params) -> Densities:
        """exp(-temperature E) on the box of the chains; see `base.Method.densities`.

        Of a conditional network, that of the mixture of its classes, -log mean_y exp(-E(x, y)).

        Raises:
          ValueError: for checkpoints in turn.
        """
        if cycle_of(self.network) is not None:
            raise ValueError(
                "ensemble.combine: expected 'mean', 'sum' or 'mixture' for what asks for a "
                "density, got 'cycle', whose checkpoints take turns and have none together"
            )
        normalized, _ = networks.normalize_params(self.network, params)

        def energy_in_x(level: jax.Array) -> EnergyFn:
            del level
            if self.is_conditional and self.num_classes is None:
                raise ValueError(
                    "expected a density of examples alone: this one is of examples given labels "
                    f"of {self.network.label_size} values; use --mode=compose, or --mode=rollout "
                    "of trajectories"
                )
            if self.num_classes is None:
                return self._energy(normalized, None)
            return networks.class_mixture(
                self.network, normalized, self.num_classes, scale=self.temperature
            )

        noise = self.noise_std * (self.high - self.low)
        caveat = (
            "E is taken at temperature 1, as in the loss; the noise of the chains in training and "
            f"sampling is that of temperature {noise**2 / (2 * self.step_size):.2g}."
        )
        return Densities(
            energy_in_x,
            jnp.ones(1),
            jnp.zeros(1),
            BaseDistribution(box=(self.low, self.high)),
            lambda energy_fn, level: self._kernel(energy_fn),
            num_classes=self.num_classes or 0,
            class_energy=(lambda level, label: self._energy(normalized, label))
            if self.is_conditional
            else None,
            caveats=() if self.make_kernel else (caveat,),
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
        """Unknown values by chains on the energy with the known ones clamped."""
        start_key, chain_key = jax.random.split(rng_key)
        normalized, _ = networks.normalize_params(self.network, params)
        turns = self._turns(normalized, label)
        clamped = [energy.clamp(energy_fn, is_known, x) for energy_fn in turns]
        start = jnp.where(is_known, x, self._starts(start_key, index, label))
        num_steps = self.sampler.inpaint_num_steps or self._sampling_num_steps
        return jnp.where(is_known, x, self._run(chain_key, clamped, start, index, num_steps))

    def restore(
        self, params: Params, rng_key: jax.Array, x: jax.Array, index: jax.Array, label: jax.Array
    ) -> jax.Array:
        """Ends of chains that start at x."""
        normalized, _ = networks.normalize_params(self.network, params)
        num_steps = self.sampler.restore_num_steps or self._sampling_num_steps
        return self._run(rng_key, self._turns(normalized, label), x, index, num_steps)

    @property
    def _sampling_num_steps(self) -> int:
        return self.sampler.num_steps or self.num_steps

    def _noise(self) -> Noise:
        return starting.box_noise(self.init_noise, self.network.input_shape, self.low, self.high)

    def _chain_init(self, batch_size: int) -> ChainInit:
        """Of a global batch."""
        match self.chain_init:
            case "context":
                return starting.from_context(self._near_context)
            case "persistent":
                return starting.from_last_step(self._noise())
            case "data":
                return starting.from_data()
            case "noise":
                return starting.from_noise(self._noise())
        return starting.from_replay_buffer(
            self._noise(),
            capacity=self.buffer_size,
            batch_size=batch_size,
            num_shards=self.buffer_shards,
            low=self.low,
            high=self.high,
            storage=self.buffer_storage,
            replay_probability=self.replay_probability,
            has_labels=self.buffer_has_labels,
        )

    def _global_batch_size(self, memory: Any, batch_size: int) -> int:
        """Examples on all devices, from those here and from the share of the rings that is here."""
        buffer = memory.x if isinstance(memory, starting.LabeledBuffer) else memory
        if not isinstance(buffer, samplers.ReplayState):
            return batch_size
        return batch_size * self.buffer_shards // buffer.storage.shape[0]

    def _kernel(self, energy_fn: EnergyFn) -> samplers.Kernel:
        if self.make_kernel is not None:
            return self.make_kernel(energy_fn)
        return samplers.igebm_langevin(
            energy_fn,
            self.step_size,
            noise_std=self.noise_std * (self.high - self.low),
            max_grad=self.max_grad or None,
            max_batch_norm=self.max_total_grad_norm or None,
            box=(self.low, self.high),
        )

    def _energy(self, normalized: Params, label: jax.Array | None) -> EnergyFn:
        condition = label if self.is_conditional else None
        return networks.bind(self.network, normalized, condition, scale=self.temperature)

    def _turns(self, normalized: Params, label: jax.Array | None) -> Sequence[EnergyFn]:
        condition = label if self.is_conditional else None
        return energies_in_turn(self.network, normalized, condition, self.temperature)

    def _labels_in_turn(self, index: Index) -> jax.Array:
        known = jnp.asarray(labeling.known(self.network, self.labels))
        return labeling.in_turn(index, known, self.num_classes)

    def _masks(self, rng_key: jax.Array, index: jax.Array) -> dict[str, Any]:
        return keep_masks(self.network, rng_key, index) if self.dropout else {}

    def _training_kernel(self, params: Params, label: jax.Array | None) -> samplers.Kernel:
        kernel = self._kernel(self._energy(params, label))
        if not self.dropout:
            return kernel

        def masked(**masks):
            return self._kernel(
                networks.bind(self.network, params, label, scale=self.temperature, **masks)
            )

        return with_dropout(kernel, masked, self.network)

    def _energies(
        self,
        params: Params,
        labels: tuple[jax.Array | None, jax.Array | None],
        x_pos: jax.Array,
        x_neg: jax.Array,
        rng_key: jax.Array,
        index: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        """E+ and E- [batch] in one evaluation, x_pos and x_neg each under its labels."""
        halves = [self._masks(key, index) for key in jax.random.split(rng_key)]
        masks = jax.tree.map(lambda *half: jnp.concatenate(half), *halves)
        given = [label for label in labels if label is not None]
        both = jnp.concatenate(given) if given else None
        energy_fn = networks.bind(self.network, params, both, **masks)
        energy_pos, energy_neg = jnp.split(energy_fn(jnp.concatenate([x_pos, x_neg])), 2)
        return energy_pos, energy_neg

    def _near_context(
        self, rng_key: jax.Array, index: jax.Array, label: jax.Array | None
    ) -> jax.Array:
        assert label is not None  # a network with a label size wants one
        shape = self.network.input_shape
        return starting.near_last_frame(rng_key, index, label, shape, self.context_noise)

    def _starts(
        self, rng_key: jax.Array, index: Index, label: jax.Array | None = None
    ) -> jax.Array:
        if self.chain_init == "context":
            if isinstance(index, random.Blend):
                raise ValueError("chains that start from a context have no interpolations")
            return self._near_context(rng_key, index, label)
        noise = functools.partial(self._noise(), rng_key)
        return starting.blended_noise(noise, self.init_noise, index, self.low, self.high)

    def _run(
        self,
        rng_key: jax.Array,
        energy_fns: Sequence[EnergyFn],
        x: jax.Array,
        index: Index,
        num_steps: int,
    ) -> jax.Array:
        """Ends of chains; of several energies each has turns of K steps, one after the other."""
        kernels = [base.index_chains(self._kernel(energy_fn), index) for energy_fn in energy_fns]
        return run_in_turn(rng_key, kernels, x, num_steps, turn=self.num_steps)
