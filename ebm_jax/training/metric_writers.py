"""Metrics to disk: `metrics.jsonl` for programs, TensorBoard events for people; and to services.

    with MetricWriter(workdir) as writer:
        writer.rewind(first_step)                 # after a resume: forget what came later
        writer.write(step, {"loss": 0.3, "gap": gap_per_level})
        writer.images(step, {"samples": grid})

Every process may call every method; process 0 alone writes. The folder is made by the first write.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from tensorboardX import SummaryWriter

from ebm_jax.io.files import json_safe, write_atomically
from ebm_jax.training.trackers import Trackers


class MetricWriter:
    """Writes `<workdir>/metrics.jsonl` and, unless told not to, `<workdir>/tensorboard/`.

    Each line of `metrics.jsonl` is one JSON object: `step`, `time` (seconds since 1970) and the
    values by name. A non-finite value is one of the strings "NaN", "Infinity", "-Infinity", since
    JSON has no such numbers. Each step has one line, and steps increase.

    Args:
      workdir: folder of the run, on a local file system.
      tensorboard: also write TensorBoard events.
      others: services that get the same numbers and images; they are not closed here.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        tensorboard: bool = True,
        others: Trackers | None = None,
    ):
        self.path = Path(workdir) / "metrics.jsonl"
        self._active = jax.process_index() == 0
        self._events_folder = self.path.parent / "tensorboard" if tensorboard else None
        self._others = others
        self._events: SummaryWriter | None = None
        self._purge_step: int | None = None
        self._events_opened = 0
        self._file: Any = None
        self._last_step = self._keep_lines(up_to=None)

    def rewind(self, step: int) -> None:
        """Drops what was written of steps later than `step`, so that each is there once.

        For a run that goes on from a checkpoint older than its last line. The file is replaced in
        one step; a half-written last line goes too. TensorBoard is told to forget the same steps;
        services have no way to.
        """
        if not self._active:
            return
        self._close_files()
        self._last_step = self._keep_lines(up_to=step)
        self._purge_step = step + 1

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes the values of one step: numbers, or one-dimensional arrays (one entry per level).

        TensorBoard gets the entries of an array `name` as `name/0`, `name/1`, ...; it has no place
        for a NaN (the mean of a level that no example had), and gets none.

        Raises:
          ValueError: if this step or a later one was written already, if a value is called `step`
            or `time`, or if it has more than one dimension.
        """
        for name in ("step", "time"):
            if name in values:
                raise ValueError(f"a metric cannot be called {name!r}: every line has one already")
        for name, value in values.items():
            if np.ndim(value) > 1:
                raise ValueError(
                    f"metric {name!r} has shape {np.shape(value)}; give a number or one per level"
                )
        if not self._active:
            return
        if step <= self._last_step:
            raise ValueError(
                f"step {step} cannot be written after step {self._last_step} in {self.path};"
                " give all values of a step at once, and rewind(step) after going back"
            )
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a")
        step = int(step)  # which may be one of NumPy
        line = {"step": step, "time": round(time.time(), 3)} | json_safe(values)
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._last_step = step
        entries = _entries(values)
        if self._events_folder is not None:
            for label, entry in entries.items():
                if np.isfinite(entry):
                    self._open_events().add_scalar(label, entry, step)
        if self._others is not None:
            self._others.scalars(step, entries)

    def images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Writes images (uint8, [height, width, channels]) to TensorBoard and the services."""
        if not self._active:
            return
        if self._events_folder is not None:
            for name, image in images.items():
                self._open_events().add_image(name, image, step, dataformats="HWC")
        if self._others is not None:
            self._others.images(int(step), images)

    def flush(self) -> None:
        """Hands everything written so far to the operating system."""
        if self._events is not None:
            self._events.flush()  # metrics.jsonl is flushed after each line

    def close(self) -> None:
        """Flushes and closes the files. May be called twice."""
        self._close_files()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep_lines(self, *, up_to: int | None) -> int:
        """Rewrites metrics.jsonl with its whole lines of steps up to `up_to`; returns the last."""
        lines, kept, last = [], [], -1
        if self._active and self.path.exists():
            lines = self.path.read_bytes().splitlines(keepends=True)
        for line in lines:
            step = _step_of(line)
            if step is not None and (up_to is None or step <= up_to):
                kept.append(line)
                last = step
        if len(kept) < len(lines):
            write_atomically(self.path, b"".join(kept))
        return last

    def _open_events(self) -> SummaryWriter:
        if self._events is None:
            self._events = SummaryWriter(
                str(self._events_folder),
                purge_step=self._purge_step,
                flush_secs=30,
                # Names go by the second otherwise, and one opened again at once would be lost.
                filename_suffix=f".{os.getpid()}.{self._events_opened}",
            )
            self._events_opened += 1
        return self._events

    def _close_files(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._events is not None:
            self._events.close()
            self._events = None


def _entries(values: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by name; the entries of an array `name` are `name/0`, `name/1`, ..."""
    entries: dict[str, float] = {}
    for name, value in values.items():
        for i, entry in enumerate(np.atleast_1d(np.asarray(value, np.float64))):
            entries[name if np.ndim(value) == 0 else f"{name}/{i}"] = float(entry)
    return entries


def _step_of(line: bytes) -> int | None:
    """The step of one line of metrics.jsonl; None for a line that a kill cut short."""
    try:
        return int(json.loads(line)["step"]) if line.endswith(b"\n") else None
    except (ValueError, KeyError, TypeError):
        return None


def flatten_metrics(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Scalars by name; an array over levels becomes name/level_0, name/level_1, ..."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if value.ndim == 0:
            flat[name] = float(value)
        else:
            flat |= {f"{name}/level_{i}": float(v) for i, v in enumerate(value)}
    return flat
