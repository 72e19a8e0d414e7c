"""Long work in steps that follow from each other, whose state is kept on the way.

    with Pieces(out / "pieces", made_from, "annealing", total) as pieces:
        kept = pieces.load("forward")
        ...
        pieces.keep("forward", {"x": x, "step": step})
        pieces.advance(1)
        ...  # write the results

An interrupted command, given again, finds what it kept.
"""

import json
import pathlib
import shutil
import sys
from collections.abc import Mapping
from typing import Any, Self

import jax
import numpy as np
from jax.experimental import multihost_utils

from ebm_jax import provenance
from ebm_jax.progress import Progress
from ebm_jax.training.interruption import Interruption


class Pieces:
    """A folder of named arrays, with a progress bar; a context manager.

    Every process of several does the same work and reads the same folder; process 0 writes. A block
    that ends without an exception removes the folder: write the results inside it.

    Args:
      folder: of the pieces alone; made when the first is kept.
      made_from: what the results depend on (checkpoint step, seed, settings), for JSON. Pieces that
        were made from something else are thrown away.
      description: of the bar, one or two words. total: of `advance`, over the whole work.
    """

    def __init__(
        self, folder: pathlib.Path, made_from: Mapping[str, Any], description: str, total: int
    ):
        self._folder = folder
        self._made_from = provenance.json_safe(made_from)
        self._progress = Progress(total, description)
        self._stop = Interruption()
        self._done = self._advances = 0

    def __enter__(self) -> Self:
        if jax.process_index() == 0 and not self._are_of_this():
            shutil.rmtree(self._folder, ignore_errors=True)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("pieces are those of this command")
        self._progress.__enter__()
        self._stop.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        self._stop.__exit__(kind, *error)
        self._progress.__exit__(kind, *error)
        if kind is None and jax.process_index() == 0:
            shutil.rmtree(self._folder, ignore_errors=True)

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """What was kept under a name, or None."""
        path = self._folder / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path) as kept:
            return dict(kept)

    def keep(self, name: str, arrays: Mapping[str, Any], *, on_every_process: bool = False) -> None:
        """Keeps arrays under a name, in place of what was there.

        on_every_process: whether each process has something of its own to keep, by another name.
        """
        if jax.process_index() != 0 and not on_every_process:
            return
        if not (described := self._folder / "made_from.json").exists():
            provenance.write_json(described, self._made_from)
        provenance.write_arrays(self._folder / f"{name}.npz", arrays)

    def skip(self, amount: int) -> None:
        """Counts work that was found done."""
        self._done += amount

    def advance(self, amount: int, figures: Mapping[str, float] | None = None) -> None:
        """Counts work done; call it after `keep`, with the numbers to show beside the bar.

        After Ctrl-C or SIGTERM it ends the process, with exit code 130 or 143.
        """
        self._done, self._advances = self._done + amount, self._advances + 1
        self._progress.update(self._done, figures)
        if self._stop.requested(self._advances):
            if jax.process_index() == 0:
                print(f"the same command goes on from what is in {self._folder}", flush=True)
            sys.exit(self._stop.exit_code)

    def _are_of_this(self) -> bool:
        try:
            return json.loads((self._folder / "made_from.json").read_text()) == self._made_from
        except (OSError, ValueError):
            return False
