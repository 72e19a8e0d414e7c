"""Rollouts: true frames first, then states that are predicted from those before them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

# (t, label [batch, a + c d]: the action, then the context, the oldest frame first) -> the next
# state [batch, d]
NextState = Callable[[jax.Array, jax.Array], jax.Array]


def rollout(next_state: NextState, context: jax.Array, actions: jax.Array) -> jax.Array:
    """States [batch, num_steps, d] that follow a context [batch, c d].

    next_state: called with t = 0, 1, .., for random numbers of its own at each.
    actions: recorded ones, [batch, num_steps, a]; a may be 0.
    """

    def step(context: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        t, action = now
        x = next_state(t, jnp.concatenate([action, context], axis=1))
        return jnp.concatenate([context[:, x.shape[1] :], x], axis=1), x

    times = jnp.arange(actions.shape[1])
    _, states = jax.lax.scan(step, context, (times, jnp.swapaxes(actions, 0, 1)))
    return jnp.swapaxes(states, 0, 1)


def repeat_last(t: jax.Array, label: jax.Array, *, size: int) -> jax.Array:
    """A `NextState`: the last frame, of `size` values, again."""
    del t
    return label[:, -size:]
