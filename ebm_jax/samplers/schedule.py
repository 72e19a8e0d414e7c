"""Running a sequence of kernels: annealing, noise levels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.samplers.base import Kernel
from ebm_jax.samplers.chains import check_count, compiled, run_steps, start
from ebm_jax.samplers.positions import PyTree


def run_schedule(
    rng_key: jax.Array,
    make_kernel: Callable[[Any], Kernel],
    levels: PyTree,
    x: PyTree,
    num_steps: int,
    *,
    keep: Callable[[Any], PyTree] | None = None,
    unroll: int = 1,
    first_chain: Any = None,
) -> tuple[Any, Any]:
    """Run `num_steps` steps of `make_kernel(level)` at each level in turn, in one compiled loop.

    Energies may differ from level to level, so each level starts from the positions alone, with
    the kernel's `init`. An unadjusted Langevin run of L levels with K steps costs L K gradients if
    only positions are read. Step k of level l uses the key `fold_in(rng_key, l num_steps + k)`.

    Args:
        rng_key: one key.
        make_kernel: from one level to a kernel. Called outside a transformation, the schedule
            compiles once for each such function: define it once, not in the loop.
        levels: array [levels, ...] or a pytree of such: temperatures, noise levels, step sizes.
        x: positions [chains, ...] or a pytree of such, or a state, whose positions and chain
            indices are taken.
        num_steps: steps at each level, a Python int >= 1.
        keep: what to keep of the state at the end of each level, such as `lambda s: s.x`; None
            keeps nothing.
        unroll: steps per iteration of the inner loop.
        first_chain: index of the first chain, as in `run_chain`.

    Returns:
        (state, info): the last level's state, and an Info that sums up each level, each field
        [levels, chains], with `info.kept` [levels, ...] if asked for.

    Raises ValueError for a `num_steps` or `unroll` that is no positive int, and for levels without
    one common, non-empty leading axis.
    """
    check_count(num_steps, "num_steps")
    check_count(unroll, "unroll")
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(levels)}
    if len(sizes) != 1 or sizes in ({()}, {(0,)}):
        raise ValueError(f"levels have leading axes {sorted(sizes)}: give all the same, [levels]")
    levels = jax.tree.map(jnp.asarray, levels)
    if first_chain is not None:
        first_chain = jnp.asarray(first_chain, jnp.int32)
    return compiled(
        _run_schedule,
        (rng_key, make_kernel, levels, x, first_chain),
        num_steps=int(num_steps),
        keep=keep,
        unroll=int(unroll),
    )


def _run_schedule(rng_key, make_kernel, levels, x, first_chain, *, num_steps, keep, unroll):
    def fresh(level, x, chain):
        kernel = make_kernel(level)
        return kernel, start(kernel, x, None)._replace(chain=chain)

    first_level = jax.tree.map(lambda a: a[0], levels)
    last_level = jax.tree.map(lambda a: a[-1], levels)
    opening = start(make_kernel(first_level), x, first_chain)

    def one_level(carry, level):
        x, chain, n = carry
        kernel, state = fresh(level, x, chain)
        (state, n), info = run_steps(rng_key, kernel, (state, n), num_steps, unroll)
        if keep is not None:
            info = info._replace(kept=keep(state))
        return (state.x, state.chain, n), info

    carry = opening.x, opening.chain, jnp.int32(0)
    (x, chain, _), info = jax.lax.scan(one_level, carry, levels)
    return fresh(last_level, x, chain)[1], info
