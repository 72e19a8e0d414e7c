"""Running kernels: many steps of many chains in one compiled loop."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.samplers import random
from ebm_jax.samplers.base import Kernel
from ebm_jax.samplers.positions import PyTree, distance


def _positions(state):
    return state.x


def run_chain(
    rng_key: jax.Array,
    kernel: Kernel,
    x: PyTree,
    num_steps: int,
    *,
    keep_every: int | None = None,
    keep: Callable[[Any], PyTree] = _positions,
    unroll: int = 1,
    first_step: Any = 0,
    first_chain: Any = None,
) -> tuple[Any, Any]:
    """Run `num_steps` of `kernel` on all chains in one loop; works under jit, vmap, pmap and grad.

    Step n uses the key `fold_in(rng_key, n)` and chain i the draws of its own index, so the result
    does not depend on the number of chains, of devices, or of pieces that a run is cut into:
    `run_chain(key, kernel, state, 50, first_step=50)` continues where the first 50 steps ended.

    Called outside a transformation it compiles once for each kernel's kind, energy function,
    `num_steps` and shape: new keys, positions and step sizes do not compile again. For that the
    `energy_fn` is recognised by identity and what it closes over is read once; parameters that
    change belong in `jax.tree_util.Partial(energy_fn, params)`, whose arrays are ordinary inputs.

    Args:
        rng_key: one key, typed or raw.
        kernel: the transition, from `langevin`, `mala`, ... or any (init, step).
        x: positions [chains, ...] or a pytree of such; or a state to continue from.
        num_steps: number of steps, a Python int >= 1.
        keep_every: keep the state of every so many steps; must divide `num_steps`. None keeps
            nothing but the last state, in memory that does not depend on `num_steps`.
        keep: what to keep of a state, by default its positions.
        unroll: steps per iteration of the compiled loop.
        first_step: number of the first step, to continue a run in pieces; may be traced.
        first_chain: index of the first chain of fresh positions (default 0), such as
            `jax.lax.axis_index(axis) * chains_per_device`; may be traced.

    Returns:
        (state, info). `info` sums the run up per chain, [chains] (see `Info`); with `keep_every`
        it does so per block of that many steps, [num_steps / keep_every, chains], and `info.kept`
        holds what was kept, [num_steps / keep_every, chains, ...]. `keep_every=1` is everything.

    Raises ValueError for a `num_steps`, `keep_every` or `unroll` that is no positive int, a
    `keep_every` that does not divide `num_steps`, and a `first_chain` together with a state.
    """
    check_count(num_steps, "num_steps")
    check_count(unroll, "unroll")
    if keep_every is not None:
        check_count(keep_every, "keep_every")
    if keep_every is not None and num_steps % keep_every:
        raise ValueError(
            f"keep_every={keep_every} does not divide num_steps={num_steps}: "
            f"run {num_steps - num_steps % keep_every or keep_every} steps"
        )
    first_step = jnp.asarray(first_step, jnp.int32)
    if first_chain is not None:
        first_chain = jnp.asarray(first_chain, jnp.int32)
    return compiled(
        _run,
        (rng_key, kernel, x, first_step, first_chain),
        num_steps=int(num_steps),
        keep_every=keep_every,
        keep=keep,
        unroll=int(unroll),
    )


def check_count(value: Any, name: str) -> None:
    """Raise ValueError unless `value` is a Python int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"{name} is {value}: give a Python int of at least 1")


def is_state(x: Any) -> bool:
    """Whether `x` is a kernel's state (a NamedTuple with x, energy and chain), not positions."""
    return all(hasattr(x, name) for name in ("x", "energy", "chain"))


def start(kernel: Kernel, x: PyTree, first_chain: Any) -> Any:
    """`x` itself if it is a state, else the kernel's state at `x` numbered from `first_chain`.

    Raises ValueError if `x` is a state and `first_chain` is given.
    """
    if is_state(x):
        if first_chain is not None:
            raise ValueError("first_chain numbers fresh positions: a state has its own indices")
        return x
    state = kernel.init(x)
    if first_chain is None:
        return state
    return state._replace(chain=state.chain + first_chain)


def _run(rng_key, kernel, x, first_step, first_chain, *, num_steps, keep_every, keep, unroll):
    carry = start(kernel, x, first_chain), first_step
    if keep_every is None:
        (state, _), info = run_steps(rng_key, kernel, carry, num_steps, unroll)
        return state, info

    def block(carry):
        carry, info = run_steps(rng_key, kernel, carry, keep_every, unroll)
        return carry, info._replace(kept=keep(carry[0]))

    def body(loop, row):
        carry, rows = loop
        carry, info = block(carry)
        return (carry, _write(rows, info, row)), None

    # As in run_steps the last block stands outside the loop. Rows are written in place.
    num_blocks = num_steps // keep_every
    shapes = jax.eval_shape(block, carry)[1]
    rows = _filled(shapes, lambda s: jnp.zeros((num_blocks, *s.shape), s.dtype), carry[0])
    if num_blocks > 1:
        row_unroll = unroll if keep_every == 1 else 1
        indices = jnp.arange(num_blocks - 1)
        (carry, rows), _ = jax.lax.scan(body, (carry, rows), indices, unroll=row_unroll)
    (state, _), info = block(carry)
    return state, _write(rows, info, num_blocks - 1)


def _filled(shapes, make, state):
    """`make` of each shape, as values that count as depending on the positions.

    Under shard_map a loop's carry must vary over the devices from the start if it does so later.
    """
    never = jnp.isnan(jax.tree.leaves(state.x)[0]).any() & False
    return jax.tree.map(lambda s: jnp.where(never, jnp.ones_like(make(s)), make(s)), shapes)


def _write(rows, info, row):
    return jax.tree.map(lambda a, b: a.at[row].set(b), rows, info)


def run_steps(
    rng_key: jax.Array, kernel: Kernel, carry: tuple[Any, jax.Array], num_steps: int, unroll: int
) -> tuple[tuple[Any, jax.Array], Any]:
    """`num_steps` steps from `carry = (state, number of the next step)`, and their summary.

    The last step stands outside the loop: its new gradient, which in the loop serves the step that
    follows, is there dead code unless the caller reads it.
    """

    @jax.jit  # traced once for its three uses
    def one_step(carry):
        state, n = carry
        state, info = kernel.step(random.fold_in(rng_key, n), state)
        return (state, n + 1), info

    start_x = carry[0].x
    sums = None
    if num_steps > 1:
        shapes = _accumulable(jax.eval_shape(one_step, carry)[1])
        zeros = _filled(shapes, lambda s: jnp.full(s.shape, s.dtype == bool, s.dtype), carry[0])

        def body(loop, _):
            carry, sums = loop
            carry, info = one_step(carry)
            return (carry, _accumulate(sums, _accumulable(info))), None

        (carry, sums), _ = jax.lax.scan(body, (carry, zeros), None, num_steps - 1, unroll=unroll)
    carry, info = one_step(carry)
    if sums is None:
        return carry, info
    sums = _accumulate(sums, _accumulable(info))
    means = {
        name: total if name == "is_finite" else jax.tree.map(lambda a: a / num_steps, total)
        for name, total in sums.items()
    }
    return carry, info._replace(displacement=distance(carry[0].x, start_x), **means)


_LAST_OF_BLOCK = ("energy", "grad_norm", "displacement", "kept")


def _accumulable(info):
    """Fields of an Info that a block sums up over its steps: acceptance, is_finite, any extra."""
    return {name: value for name, value in info._asdict().items() if name not in _LAST_OF_BLOCK}


def _accumulate(sums, new):
    return {
        name: sums[name] & value
        if name == "is_finite"
        else jax.tree.map(jnp.add, sums[name], value)
        for name, value in new.items()
    }


_DATA = (jax.Array, np.ndarray, np.generic, float)


def compiled(fn: Callable, args: Any, **static: Any) -> Any:
    """`fn(*args, **static)`, through a shared `jit` unless a transformation is already at work.

    `args` may hold kernels: their arrays and floats become inputs of the compiled function, their
    functions and other values become part of its cache key.
    """
    leaves, structure = jax.tree.flatten(args)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return fn(*args, **static)
    is_data = tuple(
        isinstance(leaf, jax.Array | np.ndarray | np.generic | float) for leaf in leaves
    )
    data = [leaf for leaf, d in zip(leaves, is_data, strict=True) if d]
    fixed = tuple(leaf for leaf, d in zip(leaves, is_data, strict=True) if not d)
    return _compiled(data, fn, structure, is_data, fixed, tuple(static.items()))


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _compiled(data, fn, structure, is_data, fixed, static):
    data, fixed = iter(data), iter(fixed)
    leaves = [next(data) if d else next(fixed) for d in is_data]
    return fn(*structure.unflatten(leaves), **dict(static))
