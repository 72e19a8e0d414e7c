"""Trajectories, cut into next states and the frames before them.

An example is a state x_t; its label is its context, the frames x_{t-c} .. x_{t-1} one after the
other, and before them, where it is asked for, the action a_t that led to x_t. All are z-scores:
columns less their mean, over their standard deviation + 1e-5, of the trajectories to train on alone
(the published program takes those of all).

| name | trajectories |
|---|---|
| pendulum | `simulators.pendulum`, 100 states, 3,000 to train on and 1,000 to test |
| linear_gaussian | `simulators.linear_gaussian`, as many |
| trajectories | those of a file: `simulators.generate` writes such of a robot hand |
"""

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ebm_jax.data.dataset import Dataset, Trajectories
from ebm_jax.data.simulators import linear_gaussian, pendulum
from ebm_jax.data.sources.base import Source
from ebm_jax.data.storage.paths import reading

LENGTH = 100
NUM_TRAJECTORIES = {"train": 3_000, "test": 1_000}
BOUND = 10.0  # of a z-score: chains run between its ends
_SEEDS = {"train": 0, "test": 1}
_TEST_SHARE = 0.1  # of a file's trajectories, its last ones


def cut(
    name: str,
    split: str,
    states: np.ndarray,
    *,
    of_training: np.ndarray,
    columns: Sequence[str],
    context: int,
    actions: tuple[np.ndarray, np.ndarray] | None = None,
) -> Dataset:
    """Trajectories as a Dataset of next states.

    Args:
        states: `[n, length, d]`, of this split. of_training: `[m, length, d]`, from which mean and
            standard deviation are taken.
        columns: names of the d values.
        context: c, number of frames before a state that are in its label.
        actions: those that led to the states, `[n, length, a]`, and those of training,
            `[m, length, a]`; None: labels have none.

    Returns:
        images float32 `[n (length - c), d]`, trajectory after trajectory; labels float32
        `[n (length - c), a + c d]`: the action, then the frames, the oldest first.

    Raises:
        ValueError: for more frames of context than the trajectories have, or a z-score beyond
            `BOUND`.
    """
    _, length, size = states.shape
    if not 1 <= context < length:
        raise ValueError(
            f"data.context: expected 1 to {length - 1}, as trajectories of {name} have {length} "
            f"states, got {context}"
        )
    mean, std = _moments(of_training)
    scores = ((states - mean) / std).astype(np.float32)
    if not (largest := np.abs(scores).max()) <= BOUND:  # of a NaN too
        raise ValueError(
            f"{name}: expected states within {BOUND:g} standard deviations of the mean, got one "
            f"at {largest:.3g}"
        )
    given = scores[:, :, :0]
    if actions is not None:
        acted, acted_in_training = actions
        action_mean, action_std = _moments(acted_in_training)
        given = ((acted - action_mean) / action_std).astype(np.float32)
    frames = [scores[:, first : first + length - context] for first in range(context)]
    labels = np.concatenate([given[:, context:], *frames], axis=2)
    return Dataset(
        name,
        split,
        scores[:, context:].reshape(-1, size),
        labels.reshape(-1, labels.shape[2]),
        1,
        (-BOUND, BOUND),
        Trajectories(scores, mean, std, tuple(columns), context, given),
    )


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation + 1e-5) of each column, float64."""
    flat = values.reshape(-1, values.shape[2])
    return flat.mean(0, dtype=np.float64), flat.std(0, dtype=np.float64) + 1e-5


def load_simulated(
    name: str,
    simulate: Callable[[np.random.Generator, int, int], np.ndarray],
    columns: Sequence[str],
    split: str,
    data_dir: Path,
    *,
    context: int = 1,
) -> Dataset:
    """Trajectories drawn once and for all, see `cut`; `data_dir` is not used.

    Raises:
        ValueError: another split, or as `cut`.
    """
    del data_dir
    _check_split(name, split)
    drawn = {
        part: simulate(np.random.default_rng(_SEEDS[part]), NUM_TRAJECTORIES[part], LENGTH)
        for part in dict.fromkeys(("train", split))
    }
    return cut(
        name, split, drawn[split], of_training=drawn["train"], columns=columns, context=context
    )


def load_file(
    split: str,
    data_dir: Path,
    *,
    path: str | os.PathLike = "",
    context: int = 1,
    actions: bool = False,
) -> Dataset:
    """Trajectories of a file, the last tenth of which are the split `test`.

    Args:
        split: `'train'` or `'test'`.
        data_dir: not used.
        path: of a .npy, `[n, length, d]`, or of a .npz with that as `states`, and perhaps the names
            of the columns as `columns` and `[n, length, a]` as `actions`.
        context: see `cut`. actions: whether labels have the file's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another split, no path, another shape, no actions where they are asked for, a
            damaged file; or as `cut`.
    """
    del data_dir
    _check_split("trajectories", split)
    if not path:
        raise ValueError(
            "data.path: expected a .npy or .npz of trajectories, such as `python -m "
            "ebm_jax.data.simulators.generate hand.npz` writes, got ''"
        )
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"data.path: there is no file {file}")
    with reading(file, "a .npy or .npz of trajectories [n, length, d]", "write it again"):
        states, columns, acted = _read(file)
    if actions and acted is None:
        raise ValueError(f"data.actions: expected False, as {file} has no array 'actions'")
    num_test = max(1, round(_TEST_SHARE * len(states)))
    rows = {"train": slice(None, -num_test), "test": slice(-num_test, None)}
    given = acted if actions else None
    return cut(
        "trajectories",
        split,
        states[rows[split]],
        of_training=states[rows["train"]],
        columns=columns,
        context=context,
        actions=None if given is None else (given[rows[split]], given[rows["train"]]),
    )


def _read(file: Path) -> tuple[np.ndarray, tuple[str, ...], np.ndarray | None]:
    """(states, columns, actions or None)."""
    actions = None
    found = np.load(file, allow_pickle=False)
    names: tuple[str, ...] = ()
    if isinstance(found, np.ndarray):
        states = found
    else:
        with found as archive:
            if "states" not in archive:
                raise ValueError(f"it has no array 'states' but {', '.join(archive.files)}")
            states = archive["states"]
            names = tuple(map(str, archive["columns"])) if "columns" in archive else ()
            actions = archive["actions"] if "actions" in archive else None
    if states.ndim != 3 or states.dtype.kind != "f" or len(states) < 2 or 0 in states.shape:
        shape = " x ".join(map(str, states.shape))
        raise ValueError(f"its states are {states.dtype} of shape {shape}")
    names = names or tuple(f"x_{i}" for i in range(states.shape[2]))
    if len(names) != states.shape[2]:
        raise ValueError(f"it names {len(names)} columns of {states.shape[2]}")
    if actions is not None and (
        actions.ndim != 3 or actions.shape[:2] != states.shape[:2] or actions.dtype.kind != "f"
    ):
        shape = " x ".join(map(str, actions.shape))
        raise ValueError(f"its actions are {actions.dtype} of shape {shape}")
    return states, names, actions


def _check_split(name: str, split: str) -> None:
    if split not in _SEEDS:
        raise ValueError(f"{name} has no split {split!r}; it has train and test")


_SIMULATED = {
    "pendulum": (pendulum.simulate, pendulum.COLUMNS),
    "linear_gaussian": (linear_gaussian.simulate, linear_gaussian.COLUMNS),
}
SOURCES = (
    *(
        Source(name, functools.partial(load_simulated, name, *simulated), options=("context",))
        for name, simulated in _SIMULATED.items()
    ),
    Source("trajectories", load_file, options=("path", "context", "actions")),
)
