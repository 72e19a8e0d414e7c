"""Long work over many examples, in batches whose results are kept until all are there.

with Parts(out / "parts", made_from, "energies", total) as parts:
    found = parts.over_batches("train", fn, params, (x, index), batch_size=100)
    ...  # write the results
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from ebm_jax import parallel
from ebm_jax.pieces import Pieces


class Parts(Pieces):
    """`Pieces` that are batches of examples; total is of examples."""

    @functools.cached_property
    def _mapped(self) -> Callable[..., Callable[..., dict[str, np.ndarray]]]:
        return functools.cache(parallel.map_examples)  # one compilation for many sets

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
            done = min(batch_size * processes, number - round_start)
            first = min(round_start + rank * batch_size, number - 1)  # some have none in the last
            part = f"{name}_{first:07d}"
            values = self.load(part)
            if values is None:
                values = mapped(common, *(a[first : first + batch_size] for a in arrays))
                self.keep(part, values, on_every_process=True)
                self.advance(done)
            else:
                self.skip(done)
            found.append(values)
        if processes > 1:
            found = _gathered(found, batch_size)
        return {key: np.concatenate([part[key] for part in found])[:number] for key in found[0]}


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
