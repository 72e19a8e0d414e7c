"""Long work over many examples, in batches whose results are kept until all are there.

    with Parts(out / "parts", made_from, "energies", total) as parts:
        found = parts.over_batches("train", fn, params, (x, index), batch_size=100)
        ...  # write the results

An interrupted command, given again, goes on after the last finished batch.
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

from ebm_jax import parallel, provenance
from ebm_jax.progress import Progress
from ebm_jax.training.interruption import Interruption


class Parts:
    """A folder of finished batches, with a progress bar; a context manager.

    Ctrl-C and SIGTERM end the process after the batch under way, with exit code 130 or 143. A block
    that ends without an exception removes the folder: write the results inside it.

    Args:
      folder: of the parts alone; made when the first part is kept.
      made_from: what the results depend on (checkpoint step, seed, settings), for JSON. Parts that
        were made from something else are thrown away.
      description: of the bar, one or two words. total: examples over all calls of `over_batches`.
    """

    def __init__(
        self, folder: pathlib.Path, made_from: Mapping[str, Any], description: str, total: int
    ):
        self._folder = folder
        self._made_from = provenance.json_safe(made_from)
        self._progress = Progress(total, description)
        self._stop = Interruption()
        self._examples = self._batches = 0
        self._mapped = functools.cache(parallel.map_examples)  # one compilation for many sets

    def __enter__(self) -> Self:
        if jax.process_index() == 0 and not self._are_of_this():
            shutil.rmtree(self._folder, ignore_errors=True)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("parts are those of this command")
        self._progress.__enter__()
        self._stop.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self._stop.__exit__(kind, *error)
        self._progress.__exit__(kind, *error)
        if kind is None and jax.process_index() == 0:
            shutil.rmtree(self._folder, ignore_errors=True)

    def over_batches(
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
        devices = jax.local_device_count()
        batch_size = -(-min(batch_size, number) // devices) * devices
        mapped = self._mapped(fn, batch_size)
        found = []
        for round_start in range(0, number, batch_size * processes):  # a batch for each process
            first = min(round_start + rank * batch_size, number - 1)  # some have none in the last
            part = self._folder / f"{name}_{first:07d}.npz"
            if part.exists():
                with np.load(part) as kept:
                    values = dict(kept)
            else:
                values = mapped(common, *(a[first : first + batch_size] for a in arrays))
                self._keep(part, values)
            found.append(values)
            done = min(batch_size * processes, number - round_start)
            self._examples, self._batches = self._examples + done, self._batches + 1
            self._progress.update(self._examples)
            if self._stop.requested(self._batches):
                self._leave()
        if processes > 1:
            found = _gathered(found, batch_size)
        return {key: np.concatenate([part[key] for part in found])[:number] for key in found[0]}

    def _are_of_this(self) -> bool:
        try:
            return json.loads((self._folder / "made_from.json").read_text()) == self._made_from
        except (OSError, ValueError):
            return False

    def _keep(self, part: pathlib.Path, values: dict[str, np.ndarray]) -> None:
        if not (described := self._folder / "made_from.json").exists():
            provenance.write_json(described, self._made_from)
        provenance.write_arrays(part, values)

    def _leave(self) -> None:
        if jax.process_index() == 0:
            print(f"the same command goes on from what is in {self._folder}", flush=True)
        sys.exit(self._stop.exit_code)


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
