"""Classification after a chain per class has moved the example: IGEBM's stochastic defense."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax import samplers
from ebm_jax.energy import EnergyFn
from ebm_jax.evaluation.classification.attacks import ScoreFn, Scores, scores_of_logits
from ebm_jax.samplers import random


class Refinement(NamedTuple):
    """A short chain of IGEBM under the energy of each class, in the units of x.

    num_steps, step_size, noise_std, max_grad (None: no bound): of its steps, see
    `samplers.igebm_update`. radius: no value moves further than this from where it was.
    box: of all values; None: *quirk* of the published code, which keeps to none.
    """

    num_steps: int = 10
    step_size: float = 10.0
    noise_std: float = 0.005
    radius: float = 8 / 255
    max_grad: float | None = None
    box: tuple[float, float] | None = None


def refined_logits(
    class_energy: Callable[[jax.Array], EnergyFn],
    num_classes: int,
    refinement: Refinement,
    rng_key: jax.Array,
    x: jax.Array,
    index: jax.Array,
) -> jax.Array:
    """Minus the energies of the chains' ends, each under its own class, [batch, num_classes].

    Differentiable in x, through the chains.

    Args:
      class_energy: (y int []) -> energy_fn. rng_key: the noise is a function of it, the class, the
        step and index, int [batch].
    """

    def of_class(label: jax.Array) -> jax.Array:
        energy_fn, key = class_energy(label), jax.random.fold_in(rng_key, label)

        @jax.checkpoint
        def step(point: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
            noise = random.normal(jax.random.fold_in(key, number), index, x)
            point = samplers.igebm_update(
                point,
                noise,
                jax.grad(lambda point: jnp.sum(energy_fn(point))),
                refinement.step_size,
                noise_std=refinement.noise_std,
                max_grad=refinement.max_grad,
                box=refinement.box,
            )
            return jnp.clip(point, x - refinement.radius, x + refinement.radius), None

        end, _ = jax.lax.scan(step, x, jnp.arange(refinement.num_steps))
        return -energy_fn(end)

    return jax.lax.map(of_class, jnp.arange(num_classes)).T


def expected_scores(
    logits_fn: Callable[[jax.Array, jax.Array], jax.Array],
    label: jax.Array,
    rng_key: jax.Array,
    num_draws: int,
) -> ScoreFn:
    """Means of the scores over draws of a stochastic classifier, the same draws at every point.

    What an attack through the defense climbs: expectation over its noise (Athalye et al., arXiv
    1802.00420).

    Args:
      logits_fn: (rng_key, x) -> [batch, classes].
    """

    def score_fn(x: jax.Array) -> Scores:
        @jax.checkpoint
        def draw(number: jax.Array) -> Scores:
            return scores_of_logits(logits_fn(jax.random.fold_in(rng_key, number), x), label)

        return jax.tree.map(lambda a: jnp.mean(a, 0), jax.lax.map(draw, jnp.arange(num_draws)))

    return score_fn
