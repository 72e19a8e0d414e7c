"""Attacks on a classifier: examples changed a little, so that they are told wrong.

`strict_pgd` is what a claim of robustness has to stand: projected about the clean example, inside
the box, from several starts. `published_pgd` is that of the published IGEBM code, with what it does
otherwise. All draws of example i are a function of (rng_key, its index), so that no number depends
on batches or devices. Distances are in the units of x.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax.methods.base import per_example
from ebm_jax.methods.densities import uniform_noise
from ebm_jax.samplers import random

NORMS = ("linf", "l2")
_RELATIVE_STEP = 2.5  # times radius / steps: far enough to reach the other side of the ball
_PUBLISHED_START = 8  # intensities


class Scores(NamedTuple):
    """What an attack looks at, [batch] each.

    loss: what it increases, nats. margin: logit of the true class minus the largest other; an
    example is told wrong where it is 0 or less.
    """

    loss: jax.Array
    margin: jax.Array


class Attacked(NamedTuple):
    """x [batch, ...]: the point of the lowest margin that was met. margin: [batch], there."""

    x: jax.Array
    margin: jax.Array


ScoreFn = Callable[[jax.Array], Scores]


def scores_of_logits(logits: jax.Array, label: jax.Array) -> Scores:
    """The cross-entropy and the margin of logits [batch, classes]; label: int [batch]."""
    is_true = jnp.arange(logits.shape[1]) == label[:, None]
    true = jnp.sum(jnp.where(is_true, logits, 0.0), axis=1)
    other = jnp.max(jnp.where(is_true, -jnp.inf, logits), axis=1)
    return Scores(jax.nn.logsumexp(logits, axis=1) - true, true - other)


def project(change: jax.Array, radius: jax.Array, norm: str) -> jax.Array:
    """The point of the ball that is nearest to a change [batch, ...]. radius: [batch]."""
    radius = per_example(radius, change)
    if norm == "linf":
        return jnp.clip(change, -radius, radius)
    length = _length(change)
    return change * jnp.where(length > radius, radius / length, 1.0)


def uniform_in_ball(
    rng_key: jax.Array, index: jax.Array, like: jax.Array, radius: jax.Array, norm: str
) -> jax.Array:
    """Changes [batch, ...], uniform in the ball; row i is a function of (rng_key, index[i])."""
    if norm == "linf":
        unit = uniform_noise(rng_key, index, like.shape[1:], -1.0, 1.0)
    else:
        num_values = like[0].size
        share = random.uniform(rng_key, index, like) ** (1 / num_values)
        unit = _direction(random.normal(rng_key, index, like)) * per_example(share, like)
    return per_example(radius, like) * unit


def strict_pgd(
    score_fn: ScoreFn,
    x: jax.Array,
    radius: jax.Array,
    rng_key: jax.Array,
    index: jax.Array,
    *,
    norm: str,
    num_steps: int,
    num_restarts: int,
    box: tuple[float, float] | None = (0.0, 1.0),
) -> Attacked:
    """Projected gradient ascent (Madry et al., arXiv 1706.06083), the best of several starts.

    Starts are uniform in the ball; a step is 2.5 radius / num_steps along the sign of the gradient,
    or along its direction for L2; then it is projected into the ball about x and into the box.
    The first start and every second one after it climb minus the margin, the others the loss, whose
    gradient vanishes where the classifier is sure, and is that of all other classes alike where its
    logits are small. Of all points on the way, x among them, the one of the lowest margin is
    kept.

    Args:
      x: [batch, ...] inside the box. radius: [batch]. index: int [batch]. norm: of NORMS.
    """
    step_size = _RELATIVE_STEP * radius / num_steps

    def inside(point: jax.Array) -> jax.Array:
        point = x + project(point - x, radius, norm)
        return point if box is None else jnp.clip(point, *box)

    def restart(best: Attacked, number: jax.Array) -> tuple[Attacked, None]:
        def climbed(point: jax.Array) -> tuple[jax.Array, jax.Array]:
            scores = score_fn(point)
            return jnp.sum(jnp.where(number % 2 == 0, -scores.margin, scores.loss)), scores.margin

        def step(carry: tuple[jax.Array, Attacked], _: None):
            point, best = carry
            (_, margin), grad = jax.value_and_grad(climbed, has_aux=True)(point)
            best = _lower(best, Attacked(point, margin))
            direction = jnp.sign(grad) if norm == "linf" else _direction(grad)
            return (inside(point + per_example(step_size, x) * direction), best), None

        key = jax.random.fold_in(rng_key, number)
        start = inside(x + uniform_in_ball(key, index, x, radius, norm))
        (point, best), _ = jax.lax.scan(step, (start, best), None, num_steps)
        return _lower(best, Attacked(point, score_fn(point).margin)), None

    clean = Attacked(x, score_fn(x).margin)
    return jax.lax.scan(restart, clean, jnp.arange(num_restarts))[0]


def published_pgd(
    score_fn: ScoreFn,
    x: jax.Array,
    radius: jax.Array,
    rng_key: jax.Array,
    index: jax.Array,
    *,
    norm: str,
    num_steps: int,
    intensity: float = 1 / 255,
) -> jax.Array:
    """The attack of the published IGEBM code on x [batch, ...], in [0, 1]; returns its last point.

    Steps of 2 intensities along the sign of the cross-entropy's gradient, for L2 too. *Quirks*: the
    start is moved by whole intensities, -8 to 8, whatever the radius; for L2 each step is
    projected about the *point before it*, so that the radius bounds a step and not the attack;
    nothing is kept in the box.

    Args:
      intensity: one of 255 steps of the range, in the units of x. Others as in `strict_pgd`.
    """

    def step(point: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        before = point
        start = uniform_noise(rng_key, index, x.shape[1:], -_PUBLISHED_START, _PUBLISHED_START + 1)
        point = point + jnp.where(number == 0, intensity * jnp.floor(start), 0.0)
        grad = jax.grad(lambda point: jnp.sum(score_fn(point).loss))(point)
        point = point + 2 * intensity * jnp.sign(grad)
        center = x if norm == "linf" else before
        return center + project(point - center, radius, norm), None

    return jax.lax.scan(step, x, jnp.arange(num_steps))[0]


def random_search(
    score_fn: ScoreFn,
    x: jax.Array,
    radius: jax.Array,
    rng_key: jax.Array,
    index: jax.Array,
    *,
    norm: str,
    num_draws: int,
    box: tuple[float, float] | None = (0.0, 1.0),
) -> Attacked:
    """The best of random points, without gradients: a check on attacks that have them.

    Every second point is on the surface: a corner of the cube, or on the sphere. Arguments as in
    `strict_pgd`.
    """

    def draw(best: Attacked, number: jax.Array) -> tuple[Attacked, None]:
        key = jax.random.fold_in(rng_key, number)
        change = uniform_in_ball(key, index, x, radius, norm)
        unit = jnp.sign(change) if norm == "linf" else _direction(change)
        change = jnp.where(number % 2 == 0, change, per_example(radius, x) * unit)
        point = x + change if box is None else jnp.clip(x + change, *box)
        return _lower(best, Attacked(point, score_fn(point).margin)), None

    clean = Attacked(x, score_fn(x).margin)
    return jax.lax.scan(draw, clean, jnp.arange(num_draws))[0]


def _lower(best: Attacked, other: Attacked) -> Attacked:
    is_lower = other.margin < best.margin
    return Attacked(
        jnp.where(per_example(is_lower, best.x), other.x, best.x),
        jnp.where(is_lower, other.margin, best.margin),
    )


def _length(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(x**2, axis=range(1, x.ndim), keepdims=True))


def _direction(x: jax.Array) -> jax.Array:
    """x over its length, 0 where it is 0; of lengths whose squares are no floats too."""
    largest = jnp.max(jnp.abs(x), axis=range(1, x.ndim), keepdims=True)
    scaled = x / jnp.where(largest > 0, largest, 1.0)
    return scaled / jnp.maximum(_length(scaled), 1.0)  # 1 or more, or 0
