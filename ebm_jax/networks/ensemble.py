"""Several networks as one: the energies of several checkpoints of a run, together."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from ebm_jax import energy

CYCLE = "cycle"  # no energy together: a chain runs on one after the other


def _none_together(energy_fns: Sequence[energy.EnergyFn]) -> energy.EnergyFn:
    raise ValueError(f"{len(energy_fns)} energies that take turns have no energy together")


COMBINATIONS: dict[str, Callable[[Sequence[energy.EnergyFn]], energy.EnergyFn]] = {
    "mean": energy.mean_energy,
    "sum": energy.sum_energies,
    "mixture": energy.mixture_energy,
    CYCLE: _none_together,
}


class Ensemble(nn.Module):
    """E(x, condition): the mean, the sum or the mixture of the energies of equal networks, over T.

    mean: geometric mean of the densities; sum: their product; mixture: their arithmetic mean before
    normalization, -log mean exp(-E_i), which wants energies in nats. See `ebm_jax.energy`. cycle:
    none of these, as energies that a chain runs on in turn have no energy together; whoever runs
    the chain takes `turns`.

    Its parameters are {'member_0': those of the first network, 'member_1': ...}.

    Fields:
      base: the network. num_members: how often. combine: of COMBINATIONS. temperature: T > 0.
    """

    base: nn.Module
    num_members: int
    combine: str = "mean"
    temperature: float = 1.0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input of each network."""
        return self.base.input_shape

    @property
    def num_classes(self) -> int | None:
        """Of each network; None where it is not conditional."""
        return getattr(self.base, "num_classes", None)

    @property
    def label_size(self) -> int:
        """Values of each network's label; 0 where it takes none."""
        return getattr(self.base, "label_size", 0)

    @property
    def has_level_constants(self) -> bool:
        """Whether each network has a constant per noise level."""
        return getattr(self.base, "has_level_constants", False)

    @property
    def spectral_norm_mode(self) -> Callable[[tuple[str, ...]], str | None] | None:
        """That of the networks; None where they have none."""
        mode = getattr(self.base, "spectral_norm_mode", None)
        return mode and (lambda path: mode(path[1:]))

    def turns(self, params: Mapping[str, Any]) -> list[Any]:
        """Parameters of each network, in the order of its turns."""
        return [params[f"member_{i}"] for i in range(self.num_members)]

    def scale(self, scale: float) -> float:
        """That of one network's energies, of chains that run on them in turn: scale / T."""
        return scale / self.temperature

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """Energies [batch] of x [batch, ...]."""
        members = [
            self.base.clone(parent=self, name=f"member_{i}", _deep_clone=True)
            for i in range(self.num_members)
        ]
        energy_fns = [lambda x, member=member: member(x, condition) for member in members]
        return energy.temper(COMBINATIONS[self.combine](energy_fns), self.temperature)(x)
