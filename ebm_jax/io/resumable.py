"""Long work whose state is kept on the way: an interrupted command, given again, goes on.

with ResumableWork(out / "partial", fingerprint, "annealing", total) as work:
    saved = work.load("forward")                       # steps that follow from each other
    ...
    work.save("forward", {"x": x, "step": step})
    work.advance(1)

    found = work.map_batches("train", fn, params, (x, index), batch_size=100)   # examples

    samples = work.piece("samples", what_samples_depend_on).map_batches(...)
    ...  # write the results
"""

import functools
import json
import pathlib
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from ebm_jax import parallel
from ebm_jax.io import files
from ebm_jax.io.interruption import Interruption
from ebm_jax.io.progress import Progress


class ResumableWork:
    """A folder of named arrays, with a progress bar; a context manager.

    Every process of several does the same work and reads the same folder; process 0 writes. A block
    that ends without an exception removes the folder: write the results inside it.

    Args:
      folder: of this work alone; made when the first arrays are saved.
      fingerprint: what the results depend on (checkpoint step, seed, settings), for JSON. What was
        saved with another one is thrown away. What depends on less is a `piece`.
    """

    def __init__(self, folder: pathlib.Path, fingerprint: Mapping[str, Any]):
        self._folder = folder
        self._fingerprint = files.json_safe(fingerprint)
        self._bar = _Bar()
        self._stop = Interruption()

    def __enter__(self) -> Self:
        self._throw_away_what_does_not_fit()
        self._stop.__enter__()
        return self

    def piece(self, name: str, fingerprint: Mapping[str, Any]) -> "ResumableWork":
        """A part of this work that depends on other things, in a folder of its own inside.

        It shares the bar, and is kept while its own fingerprint is the same, whatever that of the
        whole. Enter the whole alone; call it on every process.
        """
        piece = ResumableWork(self._folder / name, fingerprint)
        piece._bar, piece._stop = self._bar, self._stop
        piece._throw_away_what_does_not_fit()
        return piece

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self._stop.__exit__(kind, *error)
        self._bar.close()
        if kind is None and jax.process_index() == 0:
            shutil.rmtree(self._folder, ignore_errors=True)

    def begin(self, description: str, total: int) -> None:
        """Shows a progress bar: one or two words, and the total that `advance` adds up to."""
        self._bar.close()
        self._bar.done = 0
        self._bar.progress = Progress(total, description)
        self._bar.progress.__enter__()

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays saved under a name, or None."""
        path = self._folder / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as kept:
            return dict(kept)

    def save(self, name: str, arrays: Mapping[str, Any], *, on_every_process: bool = False) -> None:
        """Saves arrays under a name, in place of what was there.

        on_every_process: whether each process has something of its own to save, by another name.
        """
        if jax.process_index() != 0 and not on_every_process:
            return
        if not (described := self._folder / "fingerprint.json").exists():
            files.write_json(described, self._fingerprint)
        files.write_arrays(self._folder / f"{name}.npz", arrays)

    def skip(self, amount: int) -> None:
        """Counts work that was found done."""
        self._bar.done += amount

    def advance(self, amount: int, metrics: Mapping[str, float] | None = None) -> None:
        """Counts work done; call it after `save`, with the numbers to show beside the bar.

        After Ctrl-C or SIGTERM it ends the process, with exit code 130 or 143.
        """
        bar = self._bar
        bar.done, bar.advances = bar.done + amount, bar.advances + 1
        if bar.progress is not None:
            bar.progress.update(bar.done, metrics)
        if self._stop.requested(bar.advances):
            if jax.process_index() == 0:
                print(f"the same command goes on from what is in {self._folder}", flush=True)
            sys.exit(self._stop.exit_code)

    @functools.cached_property
    def _mapped(self) -> Callable[..., Callable[..., dict[str, np.ndarray]]]:
        return functools.cache(parallel.map_examples)  # one compilation for many sets

    def map_batches(
        self,
        name: str,
        fn: Callable[..., dict[str, Any]],
        common: Any,
        arrays: tuple[np.ndarray, ...],
        *,
        batch_size: int,
    ) -> dict[str, np.ndarray]:
        """fn(common, *arrays) over examples, in batches on all devices of all processes.

        Args:
          name: of this piece of work, unique in the folder; a plain file name.
          fn: pure, (common, *arrays [m, ...]) -> {name: [m, ...]}, each example on its own.
          common: pytree that all examples share (parameters). arrays: [n, ...], the same n each.
          batch_size: examples at once on one process.
        Returns:
          {name: [n, ...]} on every process.
        """
        number, rank, processes = len(arrays[0]), jax.process_index(), jax.process_count()
        batch_size = parallel.round_up(min(batch_size, number))
        mapped = self._mapped(fn, batch_size)
        found = []
        for round_start in range(0, number, batch_size * processes):  # a batch for each process
            done = min(batch_size * processes, number - round_start)
            first = min(round_start + rank * batch_size, number - 1)  # some have none in the last
            part = f"{name}_{first:07d}"
            values, here = self.load(part), arrays[0][first : first + batch_size]
            if values is None or any(len(value) != len(here) for value in values.values()):
                values = mapped(common, *(a[first : first + batch_size] for a in arrays))
                self.save(part, values, on_every_process=True)
                self.advance(done)
            else:
                self.skip(done)
            found.append(values)
        if processes > 1:
            found = _gathered(found, batch_size)
        return {key: np.concatenate([part[key] for part in found])[:number] for key in found[0]}

    def _throw_away_what_does_not_fit(self) -> None:
        """Removes the arrays that were saved with another fingerprint; those of pieces stay."""
        if jax.process_index() == 0 and self._folder.is_dir() and not self._fits():
            for path in self._folder.iterdir():
                if not path.is_dir():
                    path.unlink()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("what is saved is of this command")

    def _fits(self) -> bool:
        try:
            return json.loads((self._folder / "fingerprint.json").read_text()) == self._fingerprint
        except (OSError, ValueError):
            return False


class _Bar:
    """The progress bar, and what was counted; a work and its pieces share it."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.done = self.advances = 0

    def close(self) -> None:
        """Ends the line."""
        if self.progress is not None:
            self.progress.__exit__(None, None, None)
            self.progress = None


def _gathered(found: list[dict[str, np.ndarray]], batch_size: int) -> list[dict[str, np.ndarray]]:
    """The batches of all processes, in the order of the examples."""

    def padded(values: np.ndarray) -> np.ndarray:
        return np.resize(values, (batch_size, *values.shape[1:]))

    everyone = multihost_utils.process_allgather(
        [{key: padded(values) for key, values in part.items()} for part in found]
    )
    return [
        {key: values[process] for key, values in part.items()}
        for part in everyone
        for process in range(jax.process_count())
    ]
