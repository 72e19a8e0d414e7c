"""Running a sequence of kernels: annealing, noise levels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.samplers._compilation import compiled
from ebm_jax.samplers._trees import PyTree, check_count
from ebm_jax.samplers.base import Kernel
from ebm_jax.samplers.run import Chains, as_index, restart, run_steps, start


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
            compiles once for each such function (see `run_chain`).
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
        raise ValueError(
            f"expected levels with one leading axis, [levels, ...], got {sorted(sizes)}"
        )
    return compiled(
        _run_schedule,
        (rng_key, make_kernel, jax.tree.map(jnp.asarray, levels), x, as_index(first_chain)),
        num_steps=int(num_steps),
        keep=keep,
        unroll=int(unroll),
    )


def _run_schedule(
    rng_key: jax.Array,
    make_kernel: Callable[[Any], Kernel],
    levels: PyTree,
    x: PyTree,
    first_chain: jax.Array | None,
    *,
    num_steps: int,
    keep: Callable[[Any], PyTree] | None,
    unroll: int,
) -> tuple[Any, Any]:
    def at(place: int) -> PyTree:
        return jax.tree.map(lambda a: a[place], levels)

    def one_level(carry: tuple[Chains, jax.Array], level: PyTree) -> tuple[Any, Any]:
        opening, n = carry
        kernel = make_kernel(level)
        (state, n), info = run_steps(
            rng_key, kernel, (restart(kernel, opening), n), num_steps, unroll
        )
        if keep is not None:
            info = info._replace(kept=keep(state))
        return (Chains.of(state), n), info

    opening = Chains.of(start(rng_key, make_kernel(at(0)), x, first_chain))
    (end, _), info = jax.lax.scan(one_level, (opening, jnp.int32(0)), levels)
    return restart(make_kernel(at(-1)), end), info
