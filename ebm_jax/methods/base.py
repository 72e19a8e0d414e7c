"""The contract of a method, and what every method's loss and sampler are made with."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ebm_jax import samplers
from ebm_jax.methods.densities import Densities
from ebm_jax.samplers import random

Params = Any
Index = jax.Array | random.Blend[jax.Array]


class MethodState(NamedTuple):
    """What a method carries from one training step to the next, beside the parameters.

    shared: a pytree that is the same on every device: spectral-norm vectors.
    sharded: a pytree whose leaves have a leading axis that is split over the devices: replay
        buffers, persistent chains.
    """

    shared: Any = ()
    sharded: Any = ()


@runtime_checkable
class Method(Protocol):
    """An energy-based model and how it is trained: pure functions that share their settings.

    A method makes its own parameters, of one network or of several: `params` is any dict, whose
    top-level keys name the groups that may have optimizers of their own. Every random number of an
    example is a function of (rng_key, its index) alone, so that devices and batches can each make
    a part of one set.
    """

    def init(
        self, rng_key: jax.Array, example_batch: Mapping[str, jax.Array]
    ) -> tuple[Params, MethodState]:
        """Parameters and state before the first step.

        Args:
          example_batch: a global batch of preprocessed examples; shapes and types matter alone.
        Raises:
          ValueError: for settings that do not fit the batch.
        """
        ...

    def loss(
        self,
        params: Params,
        method_state: MethodState,
        batch: Mapping[str, jax.Array],
        rng_key: jax.Array,
    ) -> tuple[jax.Array, tuple[MethodState, dict[str, Any]]]:
        """(loss [], (the next state, metrics by name)).

        A metric is a `Mean`, or an array of which the mean over the devices is taken.

        Args:
          batch: 'image' [batch, ...] in model units, 'label' int [batch], 'index' int [batch] in
            the global batch, 'step' int []: the training step, so that weights may change with it.
        """
        ...

    def sample(self, params: Params, rng_key: jax.Array, index: Index) -> jax.Array:
        """Samples [batch, ...] in model units.

        Args:
          index: int32 [batch] in the whole set; or `samplers.random.Blend`: samples whose noise
            lies between that of two others.
        """
        ...

    def densities(self, params: Params) -> Densities:
        """The densities that the parameters stand for, level by level."""
        ...


@runtime_checkable
class OneNetwork(Protocol):
    """A method whose energies are those of one network."""

    @property
    def network(self) -> nn.Module:
        """A field of the method."""
        ...


@runtime_checkable
class KernelSampler(Protocol):
    """A method whose samples any kernel can make."""

    def sample_with(
        self, rng_key: jax.Array, kernel: samplers.Kernel, index: Index, num_steps: int = 0
    ) -> jax.Array:
        """Ends of the kernel's chains from where samples start; num_steps 0: those of `sample`."""
        ...


@runtime_checkable
class Inpainter(Protocol):
    """A method that draws some values of x given the others."""

    def inpaint(
        self,
        params: Params,
        rng_key: jax.Array,
        x: jax.Array,
        is_known: random.AnyArray,
        index: jax.Array,
        label: jax.Array,
    ) -> jax.Array:
        """x [batch, ...] with the entries that are not known (bool, broadcasting) drawn."""
        ...


@runtime_checkable
class Restorer(Protocol):
    """A method whose chains repair corrupted examples."""

    def restore(
        self,
        params: Params,
        rng_key: jax.Array,
        x: jax.Array,
        index: jax.Array,
        label: jax.Array,
    ) -> jax.Array:
        """Samples near x [batch, ...], by chains that start there."""
        ...


@runtime_checkable
class LevelSampler(Protocol):
    """A method of noise levels whose samples can be begun at any of them."""

    @property
    def num_pairs(self) -> int:
        """T: levels are 1 .. T, the last of which is noise."""
        ...

    def sample_from_level(
        self, params: Params, rng_key: jax.Array, x: jax.Array, index: jax.Array, *, level: int
    ) -> jax.Array:
        """Examples x [batch, ...] brought to a noise level, and sampled down from there."""
        ...


Move = Callable[[Params, np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@runtime_checkable
class BlockSampler(Protocol):
    """A method that can make samples in blocks, whose samples depend on each other."""

    @property
    def block_size(self) -> int:
        """Samples of a block; 0: as its settings are, each sample is made by itself."""
        ...

    @property
    def num_moved(self) -> int:
        """Entries of a block that move at once."""
        ...

    def sample_block(
        self,
        params: Params,
        rng_key: jax.Array,
        block: int,
        move: Move,
        on_round: Callable[[int], None],
    ) -> np.ndarray:
        """The samples of one block [block_size, ...], on the host; sample i is in i // block_size.

        Args:
          move: (params, round int [moved], x, index int [moved], label) -> `move_entries` of them,
            over devices as it likes. on_round: called with the number of rounds done.
        """
        ...

    def move_entries(
        self,
        params: Params,
        rng_key: jax.Array,
        number: jax.Array,
        x: jax.Array,
        index: jax.Array,
        label: jax.Array,
    ) -> jax.Array:
        """Entries x [batch, ...] of a block after the steps of a round.

        params: as `sample_block` gives them. number: of the round, int [batch], all equal. index:
        of the entry among those that move.
        """
        ...


class Mean(NamedTuple):
    """A metric as a sum and a count of equal shapes, so that shards of a batch add up."""

    total: jax.Array
    count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]  # of tuple

    def value(self) -> jax.Array:
        """total / count; NaN where nothing was counted (a level that no example had)."""
        return jnp.where(self.count > 0, self.total / jnp.maximum(self.count, 1), jnp.nan)


def mean_over_batch(values: jax.Array) -> Mean:
    """The mean of values [batch]."""
    return Mean(jnp.sum(values), jnp.asarray(values.shape[0], jnp.float32))


def mean_where(values: jax.Array, member: jax.Array) -> Mean:
    """The mean of values [batch] over those that are members, bool [batch]."""
    return Mean(jnp.sum(jnp.where(member, values, 0.0)), jnp.sum(member, dtype=jnp.float32))


def mean_per_level(values: jax.Array, level: jax.Array, num_levels: int) -> Mean:
    """Means of values [batch] by level [batch]: a Mean of arrays [num_levels]."""
    member = jax.nn.one_hot(level, num_levels, dtype=jnp.float32)
    return Mean(values @ member, member.sum(axis=0))


_MOST_LOGGED, _GROUPS = 20, 10  # levels by themselves; else groups of levels


def metrics_per_level(
    values: Mapping[str, jax.Array], level: jax.Array, num_levels: int
) -> dict[str, Mean]:
    """Means of named values [batch] by level [batch], for the log.

    An array over the levels each; of more than 20 levels, ten scalars 'name/levels_0_to_99', ..,
    as a batch has few of a thousand levels and a log of all of them is no log.
    """
    if num_levels <= _MOST_LOGGED:
        return {name: mean_per_level(v, level, num_levels) for name, v in values.items()}
    first = [-(-i * num_levels // _GROUPS) for i in range(_GROUPS + 1)]  # where i-th groups begin
    metrics = {}
    for name, array in values.items():
        total, count = mean_per_level(array, level * _GROUPS // num_levels, _GROUPS)
        for i in range(_GROUPS):
            metrics[f"{name}/levels_{first[i]}_to_{first[i + 1] - 1}"] = Mean(total[i], count[i])
    return metrics


def example_index(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Index of each example in the global batch, int [batch]."""
    return batch.get("index", jnp.arange(batch["image"].shape[0]))


def per_example(values: jax.Array, x: jax.Array) -> jax.Array:
    """values [] or [batch], shaped so that they multiply x [batch, ...]."""
    values = jnp.asarray(values)
    return values.reshape(values.shape + (1,) * (x.ndim - values.ndim)) if values.ndim else values


def first_index(index: Index) -> jax.Array:
    """The indices themselves, or those of the first of each blend's two."""
    return index.first if isinstance(index, random.Blend) else index


def zeros_like_examples(shape: tuple[int, ...], index: Index) -> jax.Array:
    """Zeros [batch, *shape], an example for each index: the shape of the noise to be drawn."""
    return jnp.zeros((first_index(index).shape[0], *shape))


def index_chains(kernel: samplers.Kernel, index: Index) -> samplers.Kernel:
    """The kernel with its chains numbered as given: int32 [chains], or blends of two each."""
    return samplers.Kernel(lambda x: kernel.init(x)._replace(chain=index), kernel.step)


def settings_of(method: Any) -> dict[str, Any]:
    """Plain settings of a method by name, for provenance."""
    return {
        field.name: getattr(method, field.name)
        for field in dataclasses.fields(method)
        if "meaning" in field.metadata
    }
