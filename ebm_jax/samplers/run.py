"""Running kernels: many steps of many chains in one compiled loop."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax.samplers import random
from ebm_jax.samplers._compilation import compiled
from ebm_jax.samplers._numbering import first_of_row
from ebm_jax.samplers._trees import PyTree, check_count, distance, wide_dtype
from ebm_jax.samplers.base import Kernel, positions

_LAST_OF_BLOCK = ("energy", "grad_norm", "displacement", "kept")

Carry = tuple[Any, jax.Array]  # a state, and the number of the next step


def _positions(state: Any) -> PyTree:
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
    does not depend on the number of chains, of devices, or of chunks that a run is cut into:
    `run_chain(key, kernel, state, 50, first_step=50)` continues where the first 50 steps ended.

    Called outside a transformation it compiles once for each kernel's kind, energy function,
    `num_steps` and shape: new keys, positions and step sizes do not compile again. For that a
    function is recognized by its code and by the values that it reads, an object that may change
    by identity, and what it closes over is read once; parameters that change belong in
    `jax.tree_util.Partial(energy_fn, params)`, whose arrays are ordinary inputs.

    Args:
        rng_key: one key, typed or raw.
        kernel: the transition, from `langevin`, `mala`, ... or any (init, step).
        x: positions [chains, ...] or a pytree of such; or a state to continue from.
        num_steps: number of steps, a Python int >= 1.
        keep_every: keep the state of every so many steps; must divide `num_steps`. None keeps
            nothing but the last state, in memory that does not depend on `num_steps`.
        keep: what to keep of a state, by default its positions.
        unroll: steps per iteration of the compiled loop.
        first_step: number of the first step, to continue a run in chunks; may be traced.
        first_chain: index of the first chain of fresh positions; may be traced. By default 0; under
            `pmap` and `shard_map` where this device's share begins, and under `vmap` over positions
            with one key where this row's does, so that no two chains share their noise.

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
        nearest = num_steps - num_steps % keep_every or keep_every
        raise ValueError(
            f"expected num_steps to be a multiple of keep_every={keep_every}, such as {nearest}, "
            f"got {num_steps}"
        )
    return compiled(
        _run,
        (rng_key, kernel, x, jnp.asarray(first_step, jnp.int32), as_index(first_chain)),
        num_steps=int(num_steps),
        keep_every=keep_every,
        keep=keep,
        unroll=int(unroll),
    )


def as_index(first_chain: Any) -> jax.Array | None:
    """`first_chain` as int32, None if it is not given."""
    return None if first_chain is None else jnp.asarray(first_chain, jnp.int32)


def is_state(x: Any) -> bool:
    """Whether `x` is a kernel's state (a NamedTuple with x, energy and chain), not positions."""
    return all(hasattr(x, name) for name in ("x", "energy", "chain"))


def start(rng_key: jax.Array, kernel: Kernel, x: PyTree, first_chain: jax.Array | None) -> Any:
    """`x` itself if it is a state, else the kernel's state at `x` with its chains numbered.

    Raises ValueError if `first_chain` is given and `x` is a state or its chains are blends.
    """
    if is_state(x):
        if first_chain is not None:
            raise ValueError("expected fresh positions beside first_chain, got a numbered state")
        return x
    state = kernel.init(x)
    if isinstance(state.chain, random.Blend):
        if first_chain is not None:
            raise ValueError("expected numbered chains beside first_chain, got blends of chains")
        return state
    num_chains = state.chain.shape[0]
    if first_chain is None:
        return state._replace(chain=state.chain + first_of_row(rng_key, x, num_chains))
    return state._replace(chain=first_chain + jnp.arange(num_chains, dtype=jnp.int32))


class Chains(NamedTuple):
    """Part of a state that chains take along from one kernel to the next."""

    x: PyTree
    chain: Any
    remainder: PyTree

    @classmethod
    def of(cls, state: Any) -> "Chains":
        """The part of a kernel's state."""
        return cls(state.x, state.chain, getattr(state, "remainder", None))


def restart(kernel: Kernel, state: Chains) -> Any:
    """State of another kernel for the same chains."""
    new = kernel.init(state.x)._replace(chain=state.chain)
    is_half = getattr(new, "remainder", None) is not None and state.remainder is not None
    return new._replace(remainder=state.remainder) if is_half else new


def _run(
    rng_key: jax.Array,
    kernel: Kernel,
    x: PyTree,
    first_step: jax.Array,
    first_chain: jax.Array | None,
    *,
    num_steps: int,
    keep_every: int | None,
    keep: Callable[[Any], PyTree],
    unroll: int,
) -> tuple[Any, Any]:
    carry = start(rng_key, kernel, x, first_chain), first_step
    if keep_every is None:
        (state, _), info = run_steps(rng_key, kernel, carry, num_steps, unroll)
        return state, info

    def block(carry: Carry) -> tuple[Carry, Any]:
        carry, info = run_steps(rng_key, kernel, carry, keep_every, unroll)
        return carry, info._replace(kept=keep(carry[0]))

    def body(loop: tuple[Carry, Any], row: jax.Array) -> tuple[tuple[Carry, Any], None]:
        carry, rows = loop
        carry, info = block(carry)
        return (carry, _write(rows, info, row)), None

    # As in run_steps the last block stands outside the loop. Rows are written in place.
    num_blocks = num_steps // keep_every
    shapes = jax.eval_shape(block, carry)[1]
    rows = filled(shapes, lambda s: jnp.zeros((num_blocks, *s.shape), s.dtype), carry[0].x)
    if num_blocks > 1:
        row_unroll = unroll if keep_every == 1 else 1
        indices = jnp.arange(num_blocks - 1)
        (carry, rows), _ = jax.lax.scan(body, (carry, rows), indices, unroll=row_unroll)
    (state, _), info = block(carry)
    return state, _write(rows, info, num_blocks - 1)


def filled(shapes: PyTree, make: Callable[[Any], jax.Array], x: PyTree) -> PyTree:
    """`make` of each shape, as values that count as depending on the positions.

    Under shard_map a loop's carry must vary over the devices from the start if it does so later.
    """
    never = jnp.isnan(jax.tree.leaves(x)[0]).any() & False
    return jax.tree.map(lambda s: jnp.where(never, jnp.ones_like(make(s)), make(s)), shapes)


def _write(rows: Any, info: Any, row: Any) -> Any:
    return jax.tree.map(lambda a, b: a.at[row].set(b), rows, info)


def run_steps(
    rng_key: jax.Array, kernel: Kernel, carry: Carry, num_steps: int, unroll: int
) -> tuple[Carry, Any]:
    """`num_steps` steps from `carry = (state, number of the next step)`, and their summary.

    The last step stands outside the loop: its new gradient, which in the loop serves the step that
    follows, is there dead code unless the caller reads it.
    """

    @jax.jit  # traced once for its three uses
    def one_step(carry: Carry) -> tuple[Carry, Any]:
        state, n = carry
        state, info = kernel.step(random.fold_in(rng_key, n), state)
        return (state, n + 1), info

    start_x = positions(carry[0])
    sums: Any = None
    if num_steps > 1:
        shapes = jax.eval_shape(lambda carry: _summed(one_step(carry)[1]), carry)
        zeros = {
            name: filled(
                s, lambda s, n=name: jnp.full(s.shape, n == "is_finite", s.dtype), carry[0].x
            )
            for name, s in shapes.items()
        }

        def body(loop: tuple[Carry, Any], _: None) -> tuple[tuple[Carry, Any], None]:
            carry, sums = loop
            carry, info = one_step(carry)
            return (carry, _accumulate(sums, _summed(info))), None

        (carry, sums), _ = jax.lax.scan(body, (carry, zeros), None, num_steps - 1, unroll=unroll)
    carry, info = one_step(carry)
    if sums is None:
        return carry, info
    sums = _accumulate(sums, _summed(info))
    means = jax.tree.map(lambda a: a if a.dtype == bool else a / num_steps, sums)
    return carry, info._replace(displacement=distance(positions(carry[0]), start_x), **means)


def _summed(info: Any) -> dict[str, Any]:
    """Fields of an Info that a block sums up over its steps, float32 at least."""

    def one(value: jax.Array) -> jax.Array:
        if value.dtype == bool:
            return value
        is_float = jnp.issubdtype(value.dtype, jnp.floating)
        return value.astype(wide_dtype(value.dtype) if is_float else float)

    fields: dict[str, Any] = info._asdict()
    return {n: jax.tree.map(one, value) for n, value in fields.items() if n not in _LAST_OF_BLOCK}


def _accumulate(sums: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Sums of numbers; of flags, whether `is_finite` held at all steps and others at any."""

    def one(name: str, a: jax.Array, b: jax.Array) -> jax.Array:
        if a.dtype != bool:
            return a + b
        return a & b if name == "is_finite" else a | b

    return {n: jax.tree.map(lambda a, b, n=n: one(n, a, b), sums[n], new[n]) for n in sums}
