"""Rollouts: true frames first, then states that are predicted from those before them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# (t, context [batch, c d], the oldest frame first) -> the next state [batch, d]
NextState = Callable[[jax.Array, jax.Array], jax.Array]


def rollout(next_state: NextState, context: jax.Array, num_steps: int) -> jax.Array:
    """States [batch, num_steps, d] that follow a context [batch, c d].

    next_state: called with t = 0, 1, .., for random numbers of its own at each.
    """

    def step(context: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = next_state(t, context)
        return jnp.concatenate([context[:, x.shape[1] :], x], axis=1), x

    _, states = jax.lax.scan(step, context, jnp.arange(num_steps))
    return jnp.swapaxes(states, 0, 1)


def repeat_last(t: jax.Array, context: jax.Array, *, size: int) -> jax.Array:
    """A `NextState`: the last frame, of `size` values, again."""
    del t
    return context[:, -size:]
