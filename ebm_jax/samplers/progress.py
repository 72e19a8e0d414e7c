"""Running a long chain from the host: a progress line, and nothing lost when interrupted."""

import sys
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np

from ebm_jax.samplers._trees import PyTree, check_count, distance
from ebm_jax.samplers.base import Kernel, positions
from ebm_jax.samplers.run import is_state, run_chain

# Chunks last about this long, so that an interrupt is answered soon and a device is kept busy.
_SECONDS = 1.0
_LAST = ("energy", "grad_norm", "displacement", "kept")


class PartialRun(NamedTuple):
    """A run that may have been interrupted.

    Attributes:
        state: the chains after `num_steps` steps; continue from it with `first_step`.
        info: as `run_chain` gives it for these steps, on the host (NumPy arrays).
        num_steps: steps done; fewer than asked for after an interrupt.
    """

    state: Any
    info: Any
    num_steps: int


class _Done(NamedTuple):
    """Complete chunks; replaced as a whole, so that an interrupt finds none half counted."""

    state: Any  # on the device: the last chunk's alone
    infos: tuple[Any, ...]  # on the host
    counts: tuple[int, ...]


def run_with_progress(
    rng_key: jax.Array,
    kernel: Kernel,
    x: PyTree,
    num_steps: int,
    *,
    report_every: int | None = None,
    stream: TextIO | None = None,
    first_step: int = 0,
    **options: Any,
) -> PartialRun:
    """`run_chain` in chunks from Python, with a progress line; Ctrl-C keeps the completed steps.

    The draws are those of one `run_chain` over the same steps. After each chunk, its info and kept
    states move to the host, and the state before it is released, so that the device holds one
    chunk. An interrupt (KeyboardInterrupt) takes effect between chunks: what is complete is
    returned, at most one chunk is lost.

    Args:
        rng_key, kernel, x, num_steps: as in `run_chain`.
        report_every: steps per chunk, a multiple of `keep_every` if that is given. By default
            chunks grow until they last about a second, up to a hundredth of the run; each new
            length compiles once.
        stream: where the line goes; None for the standard error. A terminal gets one line that is
            overwritten, anything else a line per tenth of the run.
        first_step: number of the first step, to continue a run that was interrupted.
        options: `keep_every`, `keep`, `unroll` and `first_chain` of `run_chain`.

    Raises ValueError as `run_chain` does, and for a `report_every` that `keep_every` does not
    divide; KeyboardInterrupt if interrupted before the first chunk is complete.
    """
    check_count(num_steps, "num_steps")
    keep_every: int | None = options.get("keep_every")
    unit = keep_every or 1
    if report_every is not None:
        check_count(report_every, "report_every")
    if (report_every or unit) % unit or num_steps % unit:
        raise ValueError(
            f"expected multiples of keep_every={keep_every}, got num_steps={num_steps} and "
            f"report_every={report_every}"
        )
    line = _Line(sys.stderr if stream is None else stream, num_steps)
    length = _ChunkLength(unit, num_steps) if report_every is None else None
    done, steps = _Done(x, (), ()), 0
    try:
        while steps < num_steps:
            wanted = length.value if length else report_every or unit
            count, begin = min(wanted, num_steps - steps), time.perf_counter()
            state, info = run_chain(
                rng_key, kernel, done.state, count, first_step=first_step + steps, **options
            )
            info = jax.device_get(info)
            done = _Done(state, (*done.infos, info), (*done.counts, count))
            steps += count
            options.pop("first_chain", None)  # the state carries its indices from here on
            if length:
                length.adapt(count, time.perf_counter() - begin)
            line.show(steps, info)
    except KeyboardInterrupt:
        if not done.counts:
            raise
    finally:
        line.close()
    if keep_every:
        info = jax.tree.map(_concatenated, *done.infos)
    else:
        start = positions(x) if is_state(x) else x
        info = _merge(done.infos, done.counts, start, done.state)
    return PartialRun(done.state, info, sum(done.counts))


def _concatenated(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


def _merge(infos: Sequence[Any], counts: Sequence[int], start: PyTree, state: Any) -> Any:
    """The summary of a run from the summaries of its chunks."""
    weights = np.asarray(counts) / sum(counts)

    def one(name: str, *values: np.ndarray) -> Any:
        stacked = np.stack(values)
        if stacked.dtype == bool:
            return stacked.all(axis=0) if name == "is_finite" else stacked.any(axis=0)
        return np.tensordot(weights, stacked, axes=1).astype(stacked.dtype)

    merged: dict[str, Any] = {}
    for name, last in infos[-1]._asdict().items():
        values = [getattr(info, name) for info in infos]
        merged[name] = (
            last
            if name in _LAST
            else jax.tree.map(lambda *parts, name=name: one(name, *parts), *values)
        )
    merged["displacement"] = np.asarray(distance(positions(state), start))
    return type(infos[-1])(**merged)


class _ChunkLength:
    """Steps per chunk: from one unit up to those that take about a second."""

    def __init__(self, unit: int, num_steps: int) -> None:
        self.unit, self.value = unit, unit
        self.largest = max(num_steps // 100 // unit, 1) * unit
        self.measured: set[int] = set()

    def adapt(self, count: int, seconds: float) -> None:
        """Lengthen the chunks after one of `count` steps that took `seconds`."""
        if count not in self.measured:  # the first of its length has compiled
            self.measured.add(count)
            return
        # A chunk costs some time however short it is, so that the first guess may be too short.
        factor = min(int(_SECONDS / max(seconds, 1e-6)), 64)
        if factor >= 2:
            self.value = max(min(count * factor // self.unit * self.unit, self.largest), self.value)


class _Line:
    """A progress line on a terminal, or a line per tenth of the run elsewhere."""

    def __init__(self, stream: TextIO, total: int) -> None:
        self.stream, self.total = stream, total
        self.is_terminal: bool = getattr(stream, "isatty", lambda: False)()
        self.start, self.tenths = time.perf_counter(), 0

    def show(self, done: int, info: Any) -> None:
        """Write the line after `done` steps, the last chunk's info being `info`."""
        tenths = 10 * done // self.total
        if not self.is_terminal and tenths == self.tenths:
            return
        self.tenths = tenths
        left = (time.perf_counter() - self.start) * (self.total - done) / done
        bad = np.sum(~info.is_finite)
        text = f"{done:,} of {self.total:,} steps, acceptance {np.mean(info.acceptance):.3f}"
        text += f", {left:.0f} s left" + (f", {bad} not finite" if bad else "")
        self.stream.write(f"\r{text:<78}" if self.is_terminal else text + "\n")
        self.stream.flush()

    def close(self) -> None:
        """End the line on a terminal."""
        if self.is_terminal:
            self.stream.write("\n")
