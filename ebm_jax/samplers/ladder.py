"""Temperatures of parallel tempering whose neighbors exchange equally often (Syed et al. 2022)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ebm_jax.samplers import random
from ebm_jax.samplers._compilation import compiled
from ebm_jax.samplers._trees import PyTree, check_count
from ebm_jax.samplers.base import Kernel, positions
from ebm_jax.samplers.run import Carry, filled, run_steps, start


class Ladder(NamedTuple):
    """An adapted ladder.

    Attributes:
        temperatures: [replicas], the ends as they were given.
        rejection: mean probability that a proposed exchange is refused in the last round, for each
            pair, [replicas - 1]. Their sum, the communication barrier, does not depend on the
            ladder: good is a number of replicas of about twice that sum.
        state: of the kernel at `temperatures`, to go on from.
    """

    temperatures: Array
    rejection: Array
    state: Any


def equal_rejection(temperatures: Array, rejection: Array) -> Array:
    """The temperatures between the same ends whose pairs would be refused equally often.

    The rejections add up to a barrier that is a function of 1 / T alone; the new ladder divides it
    into equal parts, by linear interpolation between the places where it is known.

    Args:
        temperatures: [replicas], falling or growing. rejection: of each pair, [replicas - 1].
    """
    inverse = 1 / temperatures
    barrier = jnp.concatenate([jnp.zeros(1), jnp.cumsum(jnp.maximum(rejection, 1e-6))])
    wanted = jnp.linspace(0, barrier[-1], temperatures.shape[0])
    new = 1 / jnp.interp(wanted, barrier, inverse)
    return new.at[0].set(temperatures[0]).at[-1].set(temperatures[-1]).astype(temperatures.dtype)


def adapt_temperatures(
    rng_key: Array,
    make_kernel: Callable[[Array], Kernel],
    x: PyTree,
    temperatures: Any,
    *,
    num_rounds: int = 6,
    num_steps: int = 50,
) -> Ladder:
    """Run parallel tempering in rounds, each on the ladder that the one before suggests.

    The first round has `num_steps` steps and each one twice as many as the one before, so that the
    last ladder comes of half of all exchanges. Draws are to be made after it.

    Args:
        rng_key: one key.
        make_kernel: from temperatures [replicas] to a `parallel_tempering` kernel, such as
            `lambda t: parallel_tempering(energy_fn, t, make_replica_kernel)`.
        x: positions, [chains, ...] or a pytree of such.
        temperatures: [replicas], at least three; the first and the last stay.
        num_rounds, num_steps: see above.

    Raises ValueError for fewer than three temperatures, and counts below 1.
    """
    check_count(num_rounds, "num_rounds")
    check_count(num_steps, "num_steps")
    temperatures = jnp.asarray(np.asarray(temperatures, float))
    if temperatures.ndim != 1 or temperatures.shape[0] < 3:
        raise ValueError(
            "expected temperatures [replicas], at least three of which the ends stay, got shape "
            f"{temperatures.shape}"
        )
    rejection: Any = None
    state = start(rng_key, make_kernel(temperatures), x, None)
    for n in range(num_rounds):
        # Energies and gradients are those of positions, whatever the ladder: replicas go on.
        state, rejection = compiled(
            _round,
            (random.fold_in(rng_key, n), make_kernel(temperatures), state, jnp.int32(2**n)),
            num_steps=int(num_steps),
        )
        if n + 1 < num_rounds:
            temperatures = equal_rejection(temperatures, rejection)
    return Ladder(temperatures, rejection, state)


def _round(
    rng_key: Array, kernel: Kernel, state: Any, num_pieces: Array, *, num_steps: int
) -> tuple[Any, Array]:
    """(state, rejection) after so many times `num_steps`: one program for rounds of all lengths."""

    def piece(carry: Carry) -> tuple[Carry, Array]:
        carry, info = run_steps(rng_key, kernel, carry, num_steps, 1)
        return carry, jnp.mean(info.swap_acceptance, axis=0)

    def add_piece(_: Any, loop: tuple[Carry, Array]) -> tuple[Carry, Array]:
        carry, total = loop
        carry, acceptance = piece(carry)
        return carry, total + acceptance

    carry = state, jnp.int32(0)
    shape = jax.eval_shape(piece, carry)[1]
    total = filled(shape, jnp.zeros_like, positions(state))
    (state, _), total = jax.lax.fori_loop(0, num_pieces, add_piece, (carry, total))
    return state, 1 - total / num_pieces
