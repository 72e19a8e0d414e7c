"""A model's energies as densities, level by level: the one place that says what they mean.

All densities are of x_t in model units, so that those of different levels are of one variable.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import samplers
from ebm_jax.energy import EnergyFn
from ebm_jax.methods.probability_flow import ProbabilityFlow
from ebm_jax.samplers import energy_and_grad, norm, random

_LOG_2PI = float(np.log(2 * np.pi))


class BaseDistribution(NamedTuple):
    """A tractable distribution from which annealing starts: N(center, std^2 I), or a box.

    With a box, positions are *reflected*: any u stands for x = `reflect(u)`, as in
    `samplers.fold_into_box`: chains bounce off the faces, and no proposal is lost outside.
    """

    center: float = 0.0
    std: float = 1.0
    box: tuple[float, float] | None = None

    def energy(self, u: jax.Array) -> jax.Array:
        """[batch]; zero on a box."""
        if self.box is not None:
            return jnp.zeros(u.shape[0], u.dtype)
        return 0.5 * jnp.sum(((u - self.center) / self.std) ** 2, axis=range(1, u.ndim))

    def log_z(self, num_values: int) -> float:
        """log of the integral of exp(-energy) over x of so many values."""
        if self.box is not None:
            return num_values * float(np.log(self.box[1] - self.box[0]))
        return num_values * (0.5 * _LOG_2PI + float(np.log(self.std)))

    def sample(
        self, rng_key: jax.Array, index: random.AnyArray, shape: tuple[int, ...]
    ) -> jax.Array:
        """[len(index), *shape]; row i is a function of (rng_key, index[i])."""
        if self.box is not None:
            return uniform_noise(rng_key, index, shape, *self.box)
        like = jnp.zeros((index.shape[0], *shape))
        return self.center + self.std * random.normal(rng_key, index, like)

    def reflect(self, u: jax.Array) -> jax.Array:
        """Positions in model units: u itself, or the point of the box that u stands for."""
        return u if self.box is None else samplers.fold_into_box(u, *self.box)


class Densities(NamedTuple):
    """p_t(x) ∝ exp(-energy(t)(x)), for the levels t = 0 (the lowest noise) .. num_levels - 1.

    energy: (t int [] or [batch]) -> energy_fn of x [batch, ...] -> [batch], in nats.
    a_bar, sigma_bar: float [num_levels]: p_t models a_bar x + sigma_bar eps, x the data.
    base: where annealing starts; its box, if it has one, is where the densities are.
    native_kernel: (energy_fn, t) -> kernel of the method's own chain on an energy of x; None where
        the method has no chain.
    conditional: (t, x_{t+1}) -> energy_fn of x_t given x_{t+1}; None with a single level.
    conditional_start: (rng_key, t [], x_{t+1}) -> where chains on that conditional start.
    conditional_std: float [num_levels]: of x_t given x_{t+1} where the data do not vary.
    num_conditionals: n, of how many levels, the lowest first, `conditional` depends on x_{t+1};
        that of level n is its marginal density. The sampler goes down from there.
    log_z: float [num_levels], the log normalizing constants that the method claims; None: unknown.
    flow: that the method samples level 0 with; None where it samples with chains.
    num_classes: of a model with an energy per class; 0: it has none.
    class_energy: (t, y int [] or [batch], or values [batch, k]) -> energy_fn of x given y, in nats:
        p_t(x, y) ∝ exp(-class_energy(t, y)(x)); None without labels.
    caveats: sentences that belong beside every likelihood of this model.
    """

    energy: Callable[[jax.Array], EnergyFn]
    a_bar: jax.Array
    sigma_bar: jax.Array
    base: BaseDistribution
    native_kernel: Callable[[EnergyFn, jax.Array], samplers.Kernel] | None = None
    conditional: Callable[[jax.Array, jax.Array], EnergyFn] | None = None
    conditional_start: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None
    conditional_std: jax.Array | None = None
    num_conditionals: int = 0
    log_z: jax.Array | None = None
    flow: ProbabilityFlow | None = None
    num_classes: int = 0
    class_energy: Callable[[jax.Array, jax.Array], EnergyFn] | None = None
    caveats: tuple[str, ...] = ()

    @property
    def num_levels(self) -> int:
        """How many energies there are."""
        return len(self.a_bar)

    def class_energies(self, level: jax.Array, x: jax.Array) -> jax.Array:
        """E(x, y) of every class, [batch, num_classes]; p(y | x) is the softmax of minus these.

        Class after class, so that neither the program nor the memory of its gradient grows with
        their number.
        Raises:
          ValueError: for a model without classes.
        """
        of_class = self._of_class()
        energies = jax.checkpoint(lambda label: of_class(level, label)(x))
        return jax.lax.map(energies, jnp.arange(self.num_classes)).T

    def lowest_class(self) -> "Densities":
        """These with the energy min_y E(x, y) in place of that of the mixture, of any scale.

        Raises:
          ValueError: for a model without classes.
        """
        self._of_class()
        return self._replace(
            energy=lambda level: lambda x: jnp.min(self.class_energies(level, x), axis=1)
        )

    def _of_class(self) -> Callable[[jax.Array, jax.Array], EnergyFn]:
        if self.class_energy is None or not self.num_classes:
            raise ValueError("expected a model with an energy per class, got one without classes")
        return self.class_energy

    def noised(
        self, rng_key: jax.Array, level: int | jax.Array, x: random.AnyArray, index: random.AnyArray
    ) -> jax.Array:
        """Data x [batch, ...] at a level's noise; the noise is a function of (key, index)."""
        return self.a_bar[level] * x + self.sigma_bar[level] * random.normal(rng_key, index, x)

    def noising_steps(self) -> tuple[jax.Array, jax.Array]:
        """(a, sigma) [num_conditionals] of x_{t+1} = a_t x_t + sigma_t eps between the levels."""
        used = self.num_conditionals + 1
        a_bar, sigma_bar = self.a_bar[:used], self.sigma_bar[:used]
        a = a_bar[1:] / a_bar[:-1]
        return a, jnp.sqrt(sigma_bar[1:] ** 2 - (a * sigma_bar[:-1]) ** 2)

    def noised_further(
        self, rng_key: jax.Array, level: int | jax.Array, x: random.AnyArray, index: random.AnyArray
    ) -> jax.Array:
        """x_{t+1} of x_t [batch, ...], for a level t below num_conditionals."""
        a, sigma = self.noising_steps()
        return a[level] * x + sigma[level] * random.normal(rng_key, index, x)

    def energy_and_grad_norm(
        self, rng_key: jax.Array, level: jax.Array, x: jax.Array, index: jax.Array
    ) -> dict[str, jax.Array]:
        """'energy' [nats] and 'grad_norm' [nats per model unit] of data at a level, [batch] each.

        The noise of x is a function of (rng_key, level, index).
        """
        noisy = self.noised(jax.random.fold_in(rng_key, level), level, x, index)
        energies, grad = energy_and_grad(self.energy(level), noisy)
        return {"energy": energies, "grad_norm": norm(grad)}


def uniform_noise(
    rng_key: jax.Array, index: random.AnyArray, shape: tuple[int, ...], low: float, high: float
) -> jax.Array:
    """Uniform in a box, [len(index), *shape]; row i is a function of (rng_key, index[i])."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(rng_key, index)
    return jax.vmap(lambda key: jax.random.uniform(key, shape, minval=low, maxval=high))(keys)
