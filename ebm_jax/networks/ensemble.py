"""Several networks as one: the energies of several checkpoints of a run, together."""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn

from ebm_jax import energy

COMBINATIONS: dict[str, Callable[[Sequence[energy.EnergyFn]], energy.EnergyFn]] = {
    "mean": energy.mean_energy,
    "sum": energy.sum_energies,
    "mixture": energy.mixture_energy,
}


class Ensemble(nn.Module):
    """E(x, condition): the mean, the sum or the mixture of the energies of equal networks, over T.

    mean: geometric mean of the densities; sum: their product; mixture: their arithmetic mean before
    normalization, -log mean exp(-E_i), which wants energies in nats. See `ebm_jax.energy`.

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
        """Values in a label of each network; 0 where labels are classes, or there are none."""
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

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """Energies [batch] of x [batch, ...]."""
        members = [
            self.base.clone(parent=self, name=f"member_{i}") for i in range(self.num_members)
        ]
        energy_fns = [lambda x, member=member: member(x, condition) for member in members]
        return energy.temper(COMBINATIONS[self.combine](energy_fns), self.temperature)(x)
