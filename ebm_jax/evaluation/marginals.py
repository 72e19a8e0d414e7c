"""A trained model's energies as densities of images, level by level.

What likelihoods and long chains are measured on. All densities are of x_t in model units, so that
those of different levels are of one variable: the density of recovery likelihood's y_t =
multiplier_t x_t is moved to x_t (its Jacobian is a constant and goes with the normalising one).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ebm_jax import energy, networks, parallel, samplers
from ebm_jax.diffusion import NoiseSchedule
from ebm_jax.objectives import recovery_likelihood as recovery
from ebm_jax.objectives.chain_starts import box_noise
from ebm_jax.samplers import random

_LOG_2PI = float(np.log(2 * np.pi))


class Base(NamedTuple):
    """A law whose normalising constant is known: N(centre, std^2 I), or uniform on a box.

    With a box, positions are *unfolded*: u in all of space stands for x = `fold(u)`, which runs up
    and down between the box's faces with period 2 (high - low). Energies of fold(u) are continuous,
    chains are reflected at the faces, and no proposal is lost outside.
    """

    centre: float = 0.0
    std: float = 1.0
    box: tuple[float, float] | None = None

    def energy(self, u: jax.Array) -> jax.Array:
        """[batch]; zero on a box."""
        if self.box is not None:
            return jnp.zeros(u.shape[0], u.dtype)
        return 0.5 * jnp.sum(((u - self.centre) / self.std) ** 2, axis=tuple(range(1, u.ndim)))

    def log_z(self, num_values: int) -> float:
        """log of the integral of exp(-energy) over x of so many values."""
        if self.box is not None:
            return num_values * float(np.log(self.box[1] - self.box[0]))
        return num_values * (0.5 * _LOG_2PI + float(np.log(self.std)))

    def draw(self, rng_key: jax.Array, index: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """[len(index), *shape]; row i is a function of (rng_key, index[i])."""
        if self.box is not None:
            return box_noise("uniform", shape, *self.box)(rng_key, index)
        like = jnp.zeros((index.shape[0], *shape))
        return self.centre + self.std * random.normal(rng_key, index, like)

    def fold(self, u: jax.Array) -> jax.Array:
        """Positions as images: x itself, or the point of the box that u stands for."""
        if self.box is None:
            return u
        low, high = self.box
        width = high - low
        return low + jnp.abs(jnp.mod(u - low + width, 2 * width) - width)


class Marginals(NamedTuple):
    """p_t(x) ∝ exp(-energy(t)(x)), for the levels t = 0 (the lowest noise) .. num_levels - 1.

    energy: (t int [] or [batch]) -> energy_fn of x [batch, ...] -> [batch], in nats.
    a_bar, sigma_bar: float [num_levels]: p_t is the model of a_bar x + sigma_bar eps, x the data.
    base: law from which annealing starts; its box, if it has one, is where the densities are.
    own_kernel: (energy_fn, t) -> kernel of the method's own chain on an energy of x; None where the
        method has no chain.
    conditional: (t, x_{t+1}) -> energy_fn of x_t given x_{t+1}; None with a single level.
    conditional_start: (rng_key, t [], x_{t+1}) -> where chains on that conditional start.
    conditional_std: float [num_levels]: of x_t given x_{t+1} where the data do not vary.
    """

    energy: Callable[[jax.Array], energy.EnergyFn]
    a_bar: jax.Array
    sigma_bar: jax.Array
    base: Base
    own_kernel: Callable[[energy.EnergyFn, jax.Array], samplers.Kernel] | None = None
    conditional: Callable[[jax.Array, jax.Array], energy.EnergyFn] | None = None
    conditional_start: Callable[..., jax.Array] | None = None
    conditional_std: jax.Array | None = None

    @property
    def num_levels(self) -> int:
        """How many energies there are."""
        return len(self.a_bar)

    def noised(
        self, rng_key: jax.Array, level: int | jax.Array, x: jax.Array, index: jax.Array
    ) -> jax.Array:
        """Data x [batch, ...] brought to a level's noise; a draw is a function of (key, index)."""
        return self.a_bar[level] * x + self.sigma_bar[level] * random.normal(rng_key, index, x)


def recovery_marginals(
    module: nn.Module,
    params: Any,
    schedule: NoiseSchedule,
    energy_scale: jax.Array,
    langevin_scale: jax.Array,
) -> Marginals:
    """Of recovery likelihood: one energy per pair of levels, from N(0, I).

    Args:
      module, params: the network. schedule: its levels. energy_scale: see `recovery.energy_scale`.
      langevin_scale: s_t^2 [T] of the chains, in y_t.
    """
    of_y = recovery.network_level_energy(module, params, energy_scale)
    multiplier = schedule.multiplier

    def of_x(level: jax.Array) -> energy.EnergyFn:
        energy_fn, factor = of_y(level), multiplier[level]
        return lambda x: energy_fn(factor.reshape(factor.shape + (1,) * (x.ndim - 1)) * x)

    def conditional(level: jax.Array, x_noisy: jax.Array) -> energy.EnergyFn:
        energy_fn = recovery.conditional_energy(of_y(level), schedule, x_noisy, level)
        return lambda x: energy_fn(multiplier[level] * x)

    def own_kernel(energy_fn: energy.EnergyFn, level: jax.Array) -> samplers.Kernel:
        step = langevin_scale[level] / (2 * multiplier[level] ** 2)  # the step in y, moved to x
        return samplers.langevin(energy_fn, step)

    return Marginals(
        of_x,
        schedule.a_bar[:-1],
        schedule.sigma_bar[:-1],
        Base(),
        own_kernel,
        conditional,
        lambda rng_key, level, x_noisy: x_noisy / multiplier[level],
        schedule.conditional_std,
    )


def draw_marginals(
    module: nn.Module,
    params: Any,
    schedule: NoiseSchedule,
    energy_scale: jax.Array,
    draw: recovery.LevelKernel,
) -> Marginals:
    """Of T1k: pair t's energy is that of x_{t+1}, called level t.

    By Tweedie's formula the draw, of mean x~ - sigma^2 grad E(x~), has the mean of y_t given x~
    where E is minus the log density of x~ = x_{t+1}. Chains on a conditional start at that draw.

    Args:
      module, params, schedule, energy_scale: as `recovery_marginals` has them.
      draw: `recovery.normal_draw_per_level`.
    """
    of_y = recovery.network_level_energy(module, params, energy_scale)
    multiplier, sigma = (
        jnp.append(of_next, 1.0) for of_next in (schedule.multiplier[1:], schedule.sigma[2:])
    )
    weight = jnp.append(schedule.recovery_weight[1:], 0.0)

    def conditional(level: jax.Array, x_noisy: jax.Array) -> energy.EnergyFn:
        energy_fn = energy.recovery_energy(
            lambda y: of_y(level)(y / multiplier[level]), x_noisy, sigma[level], weight[level]
        )
        return lambda x: energy_fn(multiplier[level] * x)

    def conditional_start(rng_key: jax.Array, level: jax.Array, x_noisy: jax.Array) -> jax.Array:
        pair = level + 1  # whose energy is that of x_noisy
        kernel = draw(recovery.conditional_energy(of_y(pair), schedule, x_noisy, pair), pair)
        drawn, _ = kernel.step(rng_key, kernel.init(x_noisy))
        return drawn.x / schedule.multiplier[pair]

    return Marginals(
        of_y,
        schedule.a_bar[1:],
        schedule.sigma_bar[1:],
        Base(),
        conditional=conditional,
        conditional_start=conditional_start,
        conditional_std=jnp.append(schedule.conditional_std[1:], 1.0),
    )


def chain_marginals(
    module: nn.Module,
    params: Any,
    make_kernel: Callable[[energy.EnergyFn], samplers.Kernel],
    *,
    temperature: float,
    low: float,
    high: float,
) -> Marginals:
    """Of contrastive divergence: exp(-temperature E) on the box of its chains, from uniform noise.

    Of a conditional network it is that of the mixture of its classes, -log mean_y exp(-E(x, y)).
    """
    normalized, _ = networks.normalize_params(module, params)
    num_classes = getattr(module, "num_classes", None)

    def of_x(level: jax.Array) -> energy.EnergyFn:
        del level
        if num_classes is None:
            return networks.bind(module, normalized, scale=temperature)
        classes = (jnp.asarray(y) for y in range(num_classes))
        return energy.mixture_energy(
            [networks.bind(module, normalized, y, scale=temperature) for y in classes]
        )

    return Marginals(
        of_x,
        jnp.ones(1),
        jnp.zeros(1),
        Base(box=(low, high)),
        lambda energy_fn, level: make_kernel(energy_fn),
    )


def annealed_marginals(
    module: nn.Module, params: Any, *, step_size: float, target_sigma: float, centre: float
) -> Marginals:
    """Of denoising score matching: its one energy, of data with noise sigma_0, from N(centre, I).

    With a ladder of noises the energy is no log density at sigma_0 nor at any level. Its own chain
    is that of sampling at temperature 1. Arguments as `denoising_score_matching` has them.
    """
    energy_fn = networks.make_energy_fn(module, params)
    return Marginals(
        lambda level: energy_fn,
        jnp.ones(1),
        jnp.full(1, target_sigma),
        Base(centre=centre),
        lambda energy_fn, level: samplers.mdsm_langevin(energy_fn, 1.0, step_size),
    )


def level_energies(
    make: Callable[[Any], Marginals],
    params: Any,
    rng_key: jax.Array,
    level: int,
    x: np.ndarray,
    *,
    batch_size: int,
) -> np.ndarray:
    """Energies [n] of images x [n, ...] brought to a level's noise, on all local devices.

    Args:
      make: (params) -> Marginals. rng_key: image i's noise is a function of it and i.
      batch_size: images at once.
    """

    def energies(params, x, index):
        marginals = make(params)
        x_noisy = marginals.noised(rng_key, level, x, index)
        return {"energy": marginals.energy(jnp.asarray(level))(x_noisy)}

    devices = jax.local_device_count()
    batch_size = -(-min(batch_size, len(x)) // devices) * devices
    mapped, index = parallel.map_examples(energies, batch_size), np.arange(len(x))
    batches = [slice(first, first + batch_size) for first in range(0, len(x), batch_size)]
    return np.concatenate([mapped(params, x[part], index[part])["energy"] for part in batches])
