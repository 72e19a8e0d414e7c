"""Long work whose state is kept on the way: an interrupted command, given again, goes on.

with ResumableWork(out / "partial", fingerprint, "annealing", total) as work:
    saved = work.load("forward")                       # steps that follow from each other
    ...
    work.save("forward", {"x": x, "step": step})
    work.advance(1)

    found = work.map_batches("train", fn, params, (x, index), batch_size=100)   # examples
    moments = work.fold_batches(                       # more examples than memory holds
        "moments", measure, update, initial, number=1_000_000, batch_size=100
    )

    samples = work.piece("samples", what_samples_depend_on).map_batches(...)
    ...  # write the results
"""

import functools
import io
import json
import pathlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from ebm_jax import parallel
from ebm_jax.io import files
from ebm_jax.io.interruption import Interruption
from ebm_jax.io.progress import Progress

_SAVE_SECONDS = 20.0  # between two states of one name, where all but the last are soon replaced
_WRITING_SHARE = 0.05  # of the time, at most, is spent on writing such states

Arrays = Mapping[str, np.ndarray]
T = TypeVar("T")


class ResumableWork:
    """A folder of named arrays, with a progress bar; a context manager.

    Every process of several does the same work, each calling every method. Process 0 writes, and
    says what is there: the others go on from what it tells them, whatever they see of the folder. A
    block that ends without an exception removes what is there but for the pieces that are to be
    kept: write the results inside it.

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
        self._states = _States()
        self._maps: list[np.memmap] = []
        self._pieces: dict[str, bool] = {}  # of this command, and whether each is kept

    def __enter__(self) -> Self:
        self._throw_away_what_does_not_fit()
        self._stop.__enter__()
        return self

    def piece(
        self, name: str, fingerprint: Mapping[str, Any], *, keep: bool = False
    ) -> "ResumableWork":
        """A part of this work that depends on other things, in a folder of its own inside.

        It shares the bar, and stays while its own fingerprint is the same, whatever that of the
        whole. Enter the whole alone; call it on every process.

        keep: also once the work is done, so that the next one with other settings has it.
        """
        self._pieces[name] = keep
        piece = ResumableWork(self._folder / name, fingerprint)
        piece._bar, piece._stop, piece._states = self._bar, self._stop, self._states
        piece._throw_away_what_does_not_fit()
        return piece

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self._stop.__exit__(kind, *error)
        self._bar.close()
        if jax.process_index() != 0:
            return
        if kind is not None or any(self._pieces.values()):
            self._states.write_pending()
        if kind is None:
            self._remove_what_is_not_kept()

    def begin(self, description: str, total: int) -> None:
        """Shows a progress bar: one or two words, and the total that `advance` adds up to."""
        self._bar.close()
        self._bar.done = 0
        self._bar.progress = Progress(total, description)
        self._bar.progress.__enter__()

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """The arrays that process 0 saved under a name, or None; the same on every process."""
        path = self._folder / f"{name}.npz"
        if jax.process_count() == 1:
            return _read(path)
        content = path.read_bytes() if jax.process_index() == 0 and path.exists() else None
        return _read(parallel.tell_bytes(content))

    def save(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Saves arrays under a name, in place of what was there."""
        if jax.process_index() == 0:
            self._write(name, arrays)

    def save_state(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Saves arrays that are soon replaced: now and then, and when the work is interrupted.

        A kill loses what was done since the last time, which is half a minute at most or, where
        writing is slow, twenty times as long as it takes.
        """
        if jax.process_index() == 0:
            self._states.offer(self._folder / name, lambda: self._write(name, arrays))

    def array_file(self, name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """An array in a file of this folder, for results beyond memory: what was written stays.

        Returns:
          A memory map of that shape on process 0; on the others an array of no rows.
        """
        if jax.process_index() != 0:
            return np.zeros((0, *shape[1:]), dtype)
        self._describe()
        path = self._folder / f"{name}.npy"
        if path.exists():
            found = np.load(path, mmap_mode="r+")
            if (found.shape, found.dtype) == (shape, np.dtype(dtype)):
                self._maps.append(found)
                return found
        self._maps.append(np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape))
        return self._maps[-1]

    def _write(self, name: str, arrays: Mapping[str, Any]) -> None:
        self._describe()
        for array in self._maps:  # no state says of rows that they are there before they are
            array.flush()
        files.write_arrays(self._folder / f"{name}.npz", arrays)

    def _describe(self) -> None:
        """Makes the folder, which says what its arrays depend on."""
        if not (described := self._folder / "fingerprint.json").exists():
            files.write_json(described, self._fingerprint)

    def skip(self, amount: int) -> None:
        """Counts work that was found done."""
        self._bar.done += amount

    def advance(self, amount: int, metrics: Mapping[str, float] | None = None) -> None:
        """Counts work done; call it once that is saved, with the numbers to show beside the bar.

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

    def show(self, metrics: Mapping[str, float]) -> None:
        """Shows numbers beside the bar, of work that is under way and not yet counted."""
        if self._bar.progress is not None:
            self._bar.progress.update(self._bar.done, metrics)

    @functools.cached_property
    def _mapped(self) -> Callable[..., Callable[..., dict[str, np.ndarray]]]:
        return functools.cache(parallel.map_examples)  # one compilation for many sets

    def map_batches(
        self,
        name: str,
        fn: Callable[..., dict[str, Any]],
        common: Any,
        arrays: tuple[jax.Array | np.ndarray, ...],
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
        number = len(arrays[0])
        batch_size = parallel.round_up(min(batch_size, number))
        mapped = self._mapped(fn, batch_size)
        found = []
        for part in _rounds(number, batch_size):
            path, here = self._folder / f"{name}_{part.first:07d}.npz", part.stop - part.first
            values = _read(path)
            fits = values is not None and all(len(value) == here for value in values.values())
            if parallel.all_true(fits) and values is not None:
                self.skip(part.amount)
            else:  # by all processes, as some devices want every process to start the same programs
                values = mapped(common, *(a[part.first : part.stop] for a in arrays))
                self._write(path.stem, values)
                self.advance(part.amount)
            found.append(values)
        if jax.process_count() > 1:
            found = [one for values in found for one in _gathered(values, batch_size)]
        return {key: np.concatenate([part[key] for part in found])[:number] for key in found[0]}

    def fold_batches(
        self,
        name: str,
        measure: Callable[[int, int], Arrays],
        update: Callable[[T, int, dict[str, np.ndarray]], T],
        initial: T,
        *,
        number: int,
        batch_size: int,
    ) -> T:
        """What is left of many examples that are measured and let go: a fold over their batches.

        update(.. update(update(initial, 0, measure(0, m)), m, measure(m, 2 m)) ..)

        The state is the one file, replaced now and then. Processes measure a batch each at a time;
        all of them make all updates, in the order of the examples.

        Args:
          name: of this piece of work, unique in the folder; a plain file name.
          measure: (first, stop) -> {name: [stop - first, ...]} of these examples, on one process.
          update: (state, first, measured) -> the state with the next examples too, those from
            first on; pure, or such that it may be done twice. A state is a pytree of NumPy arrays
            and numbers, of one structure.
          number: of examples. batch_size: examples measured at once on one process.
        Returns:
          The state after all examples, the same on every process.
        """
        state, done = initial, 0
        batch_size = parallel.round_up(min(batch_size, number))
        if (saved := self.load(name)) is not None:  # perhaps by another number of processes
            done, tree = int(saved["num_done"]), jax.tree.structure(initial)
            leaves = [saved[f"leaf_{i}"] for i in range(tree.num_leaves)]
            state = jax.tree.unflatten(tree, [a if a.ndim else a[()] for a in leaves])
            self.skip(done)
        for part in _rounds(number, batch_size, done):
            measured: Sequence[Arrays] = [measure(part.first, part.stop)]
            if jax.process_count() > 1:
                measured = _gathered(measured[0], batch_size)
            for values in measured:
                left = min(batch_size, number - done)
                if left > 0:  # not of the processes that the last round had nothing for
                    state = update(state, done, {k: v[:left] for k, v in values.items()})
                    done += left
            arrays = {f"leaf_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
            self.save_state(name, {**arrays, "num_done": done})
            self.advance(part.amount)
        return state

    def _throw_away_what_does_not_fit(self) -> None:
        """Removes the arrays that were saved with another fingerprint; those of pieces stay."""
        if jax.process_index() == 0 and self._folder.is_dir() and not self._fits():
            for path in self._folder.iterdir():
                if not path.is_dir():
                    path.unlink()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("what is saved is of this command")

    def _remove_what_is_not_kept(self) -> None:
        if not any(self._pieces.values()):
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.is_file():
                path.unlink()
            elif not self._pieces.get(path.name, True):  # others are of other settings
                shutil.rmtree(path, ignore_errors=True)

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


class _States:
    """States that are soon replaced: when each was written, and what is not written yet."""

    def __init__(self) -> None:
        self._next: dict[pathlib.Path, float] = {}
        self._pending: dict[pathlib.Path, Callable[[], None]] = {}

    def offer(self, path: pathlib.Path, write: Callable[[], None]) -> None:
        """Writes a state if it is time to, or keeps it for later."""
        begin = time.monotonic()
        if begin < self._next.setdefault(path, begin + _SAVE_SECONDS):
            self._pending[path] = write
            return
        write()
        self._pending.pop(path, None)
        end = time.monotonic()
        self._next[path] = end + max(_SAVE_SECONDS, (end - begin) / _WRITING_SHARE)

    def write_pending(self) -> None:
        """Writes what is not."""
        for write in self._pending.values():
            write()
        self._pending.clear()


class _Round(NamedTuple):
    """A batch for each process. first, stop: of this one's; amount: examples of all batches."""

    first: int
    stop: int
    amount: int


def _rounds(number: int, batch_size: int, done: int = 0) -> Iterator[_Round]:
    """Rounds over the examples that are not done; a process without a batch repeats the last."""
    every = batch_size * jax.process_count()
    for start in range(done, number, every):
        first = min(start + jax.process_index() * batch_size, number - 1)
        yield _Round(first, min(first + batch_size, number), min(every, number - start))


def _read(source: pathlib.Path | bytes | None) -> dict[str, np.ndarray] | None:
    """The arrays of a file or of its content; None where there is none."""
    if source is None or (isinstance(source, pathlib.Path) and not source.exists()):
        return None
    with np.load(io.BytesIO(source) if isinstance(source, bytes) else source) as kept:
        return dict(kept)


def _gathered(values: Arrays, batch_size: int) -> list[dict[str, np.ndarray]]:
    """The batches of all processes in a round, in the order of the examples, each batch_size long.

    Batches that are shorter are filled up.
    """

    def as_bytes(array: np.ndarray) -> np.ndarray:  # JAX would make 32 bits of 64
        return np.resize(array, (batch_size, *array.shape[1:])).ravel().view(np.uint8)

    everyone = multihost_utils.process_allgather({k: as_bytes(v) for k, v in values.items()})

    def of_process(process: int, key: str) -> np.ndarray:
        like = values[key]
        content = np.ascontiguousarray(everyone[key][process])
        return content.view(like.dtype).reshape(batch_size, *like.shape[1:])

    return [{key: of_process(p, key) for key in values} for p in range(jax.process_count())]
