"""IGEBM's optimizer: Adam that clips each element of the gradient by its running magnitude."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class ClippedAdamState(NamedTuple):
    """count: updates done, int32. mu, nu: running means of the clipped gradient and its square."""

    count: jax.typing.ArrayLike
    mu: Any
    nu: Any


def scale_by_clipped_adam(
    *,
    b1: float = 0.0,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip_factor: float = 3.0,
    clip_offset: float = 0.1,
) -> optax.GradientTransformation:
    """Directions of Adam from gradients that are clipped first.

    At update t = 1, 2, ...

        c = clip_factor sqrt(nu / (1 - b2^t)) + clip_offset,   g <- clip(g, -c, c),
        mu <- b1 mu + (1 - b1) g,   nu <- b2 nu + (1 - b2) g^2,
        direction = sqrt(1 - b2^t) / (1 - b1^t) mu / (sqrt(nu) + eps).

    *quirk* (Du & Mordatch's code): the old nu in c is divided by 1 - b2^t, not by that of t - 1.
    """

    def init(params) -> ClippedAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return ClippedAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        correction = 1 - jnp.asarray(b2, jnp.float32) ** count

        def clip(g, nu):
            bound = clip_factor * jnp.sqrt(nu / correction) + clip_offset
            return jnp.clip(g, -bound, bound)

        grads = jax.tree.map(clip, updates, state.nu)
        share = 1 - jnp.asarray(b2, jnp.float32)  # all in float32, as there: 1.3e-5 from 1 - .999
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + share * g**2, state.nu, grads)
        size = jnp.sqrt(correction) / (1 - b1**count)
        directions = jax.tree.map(lambda m, v: size * m / (jnp.sqrt(v) + eps), mu, nu)
        return directions, ClippedAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def igebm_adam(
    learning_rate: optax.ScalarOrSchedule = 3e-4,
    *,
    b1: float = 0.0,
    b2: float = 0.999,
    eps: float = 1e-8,
    clip_factor: float = 3.0,
    clip_offset: float = 0.1,
) -> optax.GradientTransformation:
    """Du & Mordatch's optimizer: `scale_by_clipped_adam` at a learning rate or schedule."""
    return optax.chain(
        scale_by_clipped_adam(
            b1=b1, b2=b2, eps=eps, clip_factor=clip_factor, clip_offset=clip_offset
        ),
        optax.scale_by_learning_rate(learning_rate),
    )
