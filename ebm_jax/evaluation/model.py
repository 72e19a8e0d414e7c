"""What can be done with a trained network, whichever method trained it.

A `Model` is to evaluation what an `Objective` is to training: pure functions of one shape for all
methods. Draws of example i are a function of (rng_key, its index) alone.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ebm_jax import energy, networks, samplers
from ebm_jax.diffusion import NoiseSchedule, q_sample
from ebm_jax.evaluation import guided_chains as guided
from ebm_jax.objectives import recovery_likelihood as recovery
from ebm_jax.objectives.chain_starts import box_noise
from ebm_jax.samplers import norm, random
from ebm_jax.samplers.base import energy_and_grad


class Model(NamedTuple):
    """Functions of a network and its parameters; x [batch, ...] in model units.

    num_levels: energies that it has: one per pair of noise levels, or 1.
    generate: (rng_key, chain) -> x: samples, chain int [batch] or `random.Blend`; those of
        `Objective.sample` with the same key and first_sample + i = chain[i].
    inpaint: (rng_key, x, is_known, index, label, num_steps, num_rounds) -> x filled in. num_steps:
        of one energy's chain, 0 for as many as when sampling; num_rounds: per level.
    restore: (rng_key, x, index, label, how: `Restoration`) -> x by chains started there.
    score: (rng_key, level [], x, index) -> {'energy', 'grad_norm'} [batch], in nats and nats per
        model unit, of x brought to a level's noise and scaled to its variable.
    """

    num_levels: int
    generate: Callable[..., jax.Array]
    inpaint: Callable[..., jax.Array]
    restore: Callable[..., jax.Array]
    score: Callable[..., dict[str, jax.Array]]


class Restoration(NamedTuple):
    """How far restoring goes from its start; each method reads the one that it has.

    level: of recovery likelihood, to whose noise the image is brought first, 1 .. T.
    num_steps: of a contrastive-divergence chain; 0: as many as when sampling.
    temperature: of annealed Langevin, the highest.
    """

    level: int
    num_steps: int
    temperature: float


def recovery_model(
    module: nn.Module,
    params: Any,
    schedule: NoiseSchedule,
    energy_scale: jax.Array,
    make_kernel: recovery.LevelKernel,
    *,
    num_steps: int,
) -> Model:
    """Of recovery likelihood.

    A level's score is that of y_t = multiplier_t (abar_t x + sbar_t eps), one eps per example,
    level and key.

    Args:
      module, params: the network. schedule: its levels. energy_scale: see `recovery.energy_scale`.
      make_kernel, num_steps: of the chains when sampling, as in `progressive_sample`.
    """
    level_energy = recovery.network_level_energy(module, params, energy_scale)

    def generate(rng_key, chain):
        start_key, chain_key = jax.random.split(rng_key)

        def numbered(energy_fn: energy.EnergyFn, level: jax.Array) -> samplers.Kernel:
            return guided.with_noise_of(make_kernel(energy_fn, level), chain)

        return recovery.progressive_sample(
            chain_key,
            level_energy,
            schedule,
            random.normal(start_key, chain, _like(module, chain)),
            make_kernel=numbered,
            num_steps=num_steps,
            first_chain=None,
        )

    def inpaint(rng_key, x, is_known, index, label, steps, num_rounds):
        del label
        return guided.inpaint_levels(
            rng_key, level_energy, schedule, x, is_known,
            make_kernel=make_kernel, num_steps=steps or num_steps, num_rounds=num_rounds,
            index=index,
        )  # fmt: skip

    def restore(rng_key, x, index, label, how):
        del label
        if not 1 <= how.level <= schedule.num_pairs:
            raise ValueError(
                f"restore.level is {how.level} and the model has the levels 1 to "
                f"{schedule.num_pairs}: write one of them"
            )
        return guided.restore_levels(
            rng_key, level_energy, schedule, x, how.level,
            make_kernel=make_kernel, num_steps=num_steps, index=index,
        )  # fmt: skip

    def score(rng_key, level, x, index):
        noise = random.normal(jax.random.fold_in(rng_key, level), index, x)
        y = schedule.multiplier[level] * q_sample(schedule, x, level, noise)
        return _score(level_energy(level), y)

    return Model(schedule.num_pairs, generate, inpaint, restore, score)


def chain_model(
    module: nn.Module,
    params: Any,
    make_kernel: Callable[[energy.EnergyFn], samplers.Kernel],
    *,
    num_steps: int,
    temperature: float,
    start_noise: str,
    low: float,
    high: float,
) -> Model:
    """Of contrastive divergence. Arguments as `contrastive_divergence` has them.

    Of a conditional network `generate` takes the classes in turn, inpaint and restore the images'
    own; its score is that of the mixture of its classes, -log mean_y exp(-E(x, y)).
    """
    num_classes = getattr(module, "num_classes", None)
    normalized, _ = networks.normalize_params(module, params)
    noise = box_noise(start_noise, module.input_shape, low, high)

    def energy_of(label: jax.Array | None) -> energy.EnergyFn:
        condition = None if num_classes is None else label
        return networks.bind(module, normalized, condition, scale=temperature)

    def starts(rng_key: jax.Array, chain: guided.Chain) -> jax.Array:
        draw = functools.partial(noise, rng_key)
        return guided.blended_starts(draw, start_noise, chain, low, high)

    def run(rng_key, energy_fn, x, chain, steps):
        kernel = guided.with_noise_of(make_kernel(energy_fn), chain)
        return samplers.run_chain(rng_key, kernel, x, steps)[0].x

    def generate(rng_key, chain):
        start_key, chain_key = jax.random.split(rng_key)
        first = chain.first if isinstance(chain, random.Blend) else chain
        energy_fn = energy_of(None if num_classes is None else first % num_classes)
        return run(chain_key, energy_fn, starts(start_key, chain), chain, num_steps)

    def inpaint(rng_key, x, is_known, index, label, steps, num_rounds):
        del num_rounds
        start_key, chain_key = jax.random.split(rng_key)
        clamped = energy.clamp(energy_of(label), is_known, x)
        start = jnp.where(is_known, x, starts(start_key, index))
        return jnp.where(is_known, x, run(chain_key, clamped, start, index, steps or num_steps))

    def restore(rng_key, x, index, label, how):
        return run(rng_key, energy_of(label), x, index, how.num_steps or num_steps)

    def score(rng_key, level, x, index):
        del rng_key, level, index
        if num_classes is None:
            return _score(energy_of(None), x)
        classes = [energy_of(jnp.asarray(y)) for y in range(num_classes)]
        return _score(energy.mixture_energy(classes), x)

    return Model(1, generate, inpaint, restore, score)


def annealed_model(
    module: nn.Module,
    params: Any,
    temperatures: np.ndarray,
    *,
    step_size: float,
    target_sigma: float,
    centre: float,
) -> Model:
    """Of denoising score matching. Arguments as `denoising_score_matching` has them.

    inpaint and restore anneal as sampling does; restore leaves out what is hotter than its
    temperature. num_steps has no meaning here.
    """
    energy_fn = networks.make_energy_fn(module, params)
    steps = {"step_size": step_size, "target_sigma": target_sigma}

    def start(rng_key: jax.Array, chain: guided.Chain) -> jax.Array:
        return centre + random.normal(rng_key, chain, _like(module, chain))

    def anneal(rng_key, x, chain, schedule):
        return guided.anneal(rng_key, lambda _: energy_fn, x, schedule, chain=chain, **steps)

    def generate(rng_key, chain):
        start_key, chain_key = jax.random.split(rng_key)
        return anneal(chain_key, start(start_key, chain), chain, temperatures)

    def inpaint(rng_key, x, is_known, index, label, num_steps, num_rounds):
        del label, num_steps, num_rounds
        start_key, chain_key = jax.random.split(rng_key)
        return guided.inpaint_annealed(
            chain_key, energy_fn, start(start_key, index), x, is_known, temperatures,
            index=index, **steps,
        )  # fmt: skip

    def restore(rng_key, x, index, label, how):
        del label
        cooler = temperatures[temperatures <= how.temperature]
        if not len(cooler):
            raise ValueError(
                f"restore.temperature is {how.temperature:g} and the coolest step has "
                f"{np.min(temperatures):g}: write a higher one"
            )
        return anneal(rng_key, x, index, cooler)

    def score(rng_key, level, x, index):
        del rng_key, level, index
        return _score(energy_fn, x)

    return Model(1, generate, inpaint, restore, score)


def _score(energy_fn: energy.EnergyFn, x: jax.Array) -> dict[str, jax.Array]:
    energies, grad = energy_and_grad(energy_fn, x)
    return {"energy": energies, "grad_norm": norm(grad)}


def _like(module: nn.Module, chain: guided.Chain) -> jax.Array:
    return jnp.zeros((jax.tree.leaves(chain)[0].shape[0], *module.input_shape))
