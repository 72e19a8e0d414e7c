"""Runs as ArviZ InferenceData. ArviZ itself is imported only where it is needed."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ebm_jax.samplers._trees import leaf_names
from ebm_jax.samplers.base import Info


def to_arviz(
    info: Any,
    *,
    log_density: jax.Array | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
) -> Any:
    """The draws and the statistics of a run as `arviz.InferenceData`.

    Group `posterior` has the kept positions with their names in the tree: a dict's keys, 'a.b' for
    one inside another, 'x' for a single array. Group `sample_stats` has `acceptance_rate`, of HMC
    also `diverging` and `energy_error`, and `lp` where `log_density` is given. ArviZ's axes are
    [chain, draw, ...]; this library stacks [draws, chains, ...].

    Example:
        _, info = run_chain(rng_key, kernel, x, 1_000, keep_every=1)
        arviz.summary(to_arviz(info))

    Args:
        info: of `run_chain(..., keep_every=k)`: an Info whose fields are [draws, chains, ...].
        log_density: of each draw, [draws, chains].
        coords: the labels along an axis, by the axis's name. dims: the names of a position's own
            axes, by its name in the tree. `to_arviz(info, coords={"school": "ABC"}, dims={"theta":
            ["school"]})` names three schools; by default axes are numbered.

    Raises ImportError without ArviZ (`pip install 'ebm_jax[arviz]'`), ValueError for an info that
    kept no positions.
    """
    if info.kept is None:
        raise ValueError(
            "expected the info of run_chain(..., keep_every=1), got one that kept nothing"
        )
    try:
        import arviz
    except ImportError as error:
        raise ImportError("expected ArviZ to be installed: pip install 'ebm_jax[arviz]'") from error
    return arviz.from_dict(
        posterior={name: _chains_first(leaf) for name, leaf in leaf_names(info.kept).items()},
        sample_stats=_statistics(info, log_density),
        coords=coords and {name: list(labels) for name, labels in coords.items()},
        dims=dims and {name: list(axes) for name, axes in dims.items()},
    )


def _statistics(info: Info, log_density: jax.Array | None) -> dict[str, np.ndarray]:
    found = {
        "acceptance_rate": info.acceptance,
        "diverging": getattr(info, "is_divergent", None),
        "energy_error": getattr(info, "energy_error", None),
        "lp": log_density,
    }
    return {name: _chains_first(value) for name, value in found.items() if value is not None}


def _chains_first(values: Any) -> np.ndarray:
    return np.swapaxes(np.asarray(values), 0, 1)
