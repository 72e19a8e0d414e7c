"""Trajectories of the Shadow hand as a file that the data set `trajectories` reads.

    pip install 'ebm_jax[hand]'
    python -m ebm_jax.data.simulators.generate hand.npz --num_trajectories=3000 --processes=2

The file has `states` float32 [n, length, 31], `columns` (their names), `actions` float32
[n, length, 20] (that of a row led to its state), `seed` and `num_discarded`.
Trajectory i is a function of (seed, i) alone. Parts of 50 are kept in `hand.npz.parts/`: the same
command goes on where it was interrupted, and one with a larger number adds to what is there.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ebm_jax.data.simulators import shadow_hand

_PART = 50  # trajectories


def generate(
    path: Path, *, num_trajectories: int, length: int = 100, seed: int = 0, processes: int = 1
) -> int:
    """Writes the file; see the module.

    Returns:
        How many attempts were discarded, as the cube was dropped.

    Raises:
        ImportError: one line, where the simulator is not installed.
        ValueError: for numbers that cannot be, or parts that were begun with others.
    """
    if path.suffix != ".npz":
        raise ValueError(f"expected a path that ends in .npz, got {path}")
    for name, value, least in (
        ("num_trajectories", num_trajectories, 1), ("length", length, 2), ("seed", seed, 0),
        ("processes", processes, 1),
    ):  # fmt: skip
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    shadow_hand.load_hand()  # what is missing is told before anything is written
    parts = path.with_name(path.name + ".parts")
    _begin(parts, {"seed": seed, "length": length})
    starts = range(0, num_trajectories, _PART)
    jobs = [(parts, seed, length, first, min(first + _PART, num_trajectories)) for first in starts]
    missing = [job for job in jobs if not _part_path(*job).exists()]
    began = time.monotonic()
    for done, _ in enumerate(_run(missing, processes), 1):
        spent = (time.monotonic() - began) / done
        print(
            f"\rtrajectories: {len(jobs) - len(missing) + done} of {len(jobs)} parts of {_PART}, "
            f"{spent * (len(missing) - done) / 60:.1f} min left",
            end="\n" if done == len(missing) else "",
            file=sys.stderr,
            flush=True,
        )
    states, actions, discarded = [], [], 0
    for job in jobs:
        with np.load(_part_path(*job)) as part:
            states.append(part["states"])
            actions.append(part["actions"])
            discarded += int(part["num_discarded"])
    _write(
        path,
        states=np.concatenate(states),
        actions=np.concatenate(actions),
        columns=shadow_hand.COLUMNS,
        seed=seed,
        num_discarded=discarded,
    )
    return discarded


def _run(jobs: Sequence[tuple], processes: int) -> Iterator[None]:
    if processes == 1 or len(jobs) < 2:
        yield from map(_make_part, jobs)
        return
    # Spawned, as a process that has started JAX must not be forked.
    with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs))) as pool:
        yield from pool.imap_unordered(_make_part, jobs)


def _make_part(job: tuple[Path, int, int, int, int]) -> None:
    _, seed, length, first, stop = job
    hand = shadow_hand.load_hand()
    episodes = [
        shadow_hand.simulate(hand, seed=seed, number=number, length=length)
        for number in range(first, stop)
    ]
    discarded = sum(episode.num_discarded for episode in episodes)
    _write(
        _part_path(*job),
        states=[episode.states for episode in episodes],
        actions=[episode.actions for episode in episodes],
        num_discarded=discarded,
    )


def _part_path(parts: Path, seed: int, length: int, first: int, stop: int) -> Path:
    del seed, length  # of the folder
    return parts / f"{first:06d}-{stop - 1:06d}.npz"


def _begin(parts: Path, settings: dict[str, int]) -> None:
    """Makes the folder of the parts, which are all of the same settings."""
    parts.mkdir(parents=True, exist_ok=True)
    file = parts / "settings.json"
    if not file.exists():
        file.write_text(json.dumps(settings))
    elif (found := json.loads(file.read_text())) != settings:
        raise ValueError(
            f"{parts} was begun with seed {found['seed']} and length {found['length']}: give "
            "these, or another path"
        )


def _write(path: Path, **arrays: np.ndarray | Sequence[np.ndarray] | Sequence[str] | int) -> None:
    """Writes an .npz in one step, so that an interruption leaves none that is cut off."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.npz")
    try:
        np.savez(scratch, **arrays)  # pyright: ignore[reportArgumentType]  # none is allow_pickle
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Trajectories of a simulated Shadow hand.")
    parser.add_argument("path", type=Path, help="of the .npz that is written")
    parser.add_argument("--num_trajectories", type=int, default=1000)
    parser.add_argument("--length", type=int, default=100, help="states, 40 ms apart")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args(arguments)
    began = time.monotonic()
    try:
        discarded = generate(
            given.path,
            num_trajectories=given.num_trajectories,
            length=given.length,
            seed=given.seed,
            processes=given.processes,
        )
    except (ImportError, ValueError, OSError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(
        f"{given.path}: {given.num_trajectories} trajectories of {given.length} states in "
        f"{(time.monotonic() - began) / 60:.1f} min; {discarded} attempts discarded, as the cube "
        "was dropped"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
