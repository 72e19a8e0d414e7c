"""Running a long chain from the host: a progress line, and nothing lost when interrupted."""

import sys
import time
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np

from ebm_jax.samplers.base import Kernel
from ebm_jax.samplers.chains import check_count, is_state, run_chain
from ebm_jax.samplers.positions import PyTree, distance


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
    """`run_chain` in pieces from the host, with a progress line; Ctrl-C ends it and keeps the rest.

    The draws are those of one `run_chain` over the same steps. After each piece, kept states move
    to the host, so that the device's memory holds one piece. An interrupt (KeyboardInterrupt) takes
    effect between pieces: what is complete is returned, at most one piece is lost.

    Args:
        rng_key, kernel, x, num_steps: as in `run_chain`.
        report_every: steps per piece, a multiple of `keep_every` if that is given; by default
            about a hundredth of the run.
        stream: where the line goes; None for the standard error. A terminal gets one line that is
            overwritten, anything else a line per tenth of the run.
        first_step: number of the first step, to continue a run that was interrupted.
        options: `keep_every`, `keep`, `unroll` and `first_chain` of `run_chain`.

    Raises ValueError as `run_chain` does, and for a `report_every` that `keep_every` does not
    divide; KeyboardInterrupt if interrupted before the first piece is complete.
    """
    check_count(num_steps, "num_steps")
    keep_every = options.get("keep_every")
    unit = keep_every or 1
    if report_every is None:
        report_every = max(num_steps // 100 // unit, 1) * unit
    check_count(report_every, "report_every")
    if report_every % unit or num_steps % unit:
        raise ValueError(
            f"keep_every={keep_every} must divide num_steps={num_steps} and "
            f"report_every={report_every}: give multiples of it"
        )
    line = _Line(sys.stderr if stream is None else stream, num_steps)
    pieces = []  # (state, info on the host, steps), appended whole so that none is half counted
    done, current = 0, x
    try:
        while done < num_steps:
            count = min(report_every, num_steps - done)
            state, info = run_chain(
                rng_key, kernel, current, count, first_step=first_step + done, **options
            )
            pieces.append((state, jax.device_get(info), count))
            options.pop("first_chain", None)  # the state carries its indices from here on
            done, current = done + count, state
            line.show(done, pieces[-1][1])
    except KeyboardInterrupt:
        if not pieces:
            raise
    finally:
        line.close()
    infos, counts = [info for _, info, _ in pieces], [count for _, _, count in pieces]
    if keep_every:
        info = jax.tree.map(lambda *a: np.concatenate(a), *infos)
    else:
        start = x.x if is_state(x) else x
        info = _merge(infos, counts, start, pieces[-1][0])
    return PartialRun(pieces[-1][0], info, sum(counts))


def _merge(infos, counts, start, state):
    """The summary of a run from the summaries of its pieces."""
    weights = np.asarray(counts) / sum(counts)
    merged = {}
    for name, last in infos[-1]._asdict().items():
        values = [getattr(info, name) for info in infos]
        if name == "is_finite":
            merged[name] = np.all(values, axis=0)
        elif name not in ("energy", "grad_norm", "displacement", "kept"):
            merged[name] = jax.tree.map(
                lambda *a: np.tensordot(weights, np.stack(a), axes=1).astype(a[0].dtype), *values
            )
        else:
            merged[name] = last
    merged["displacement"] = np.asarray(distance(state.x, start))
    return type(infos[-1])(**merged)


class _Line:
    """A progress line on a terminal, or a line per tenth of the run elsewhere."""

    def __init__(self, stream, total):
        self.stream, self.total = stream, total
        self.is_terminal = getattr(stream, "isatty", lambda: False)()
        self.start, self.tenths = time.perf_counter(), 0

    def show(self, done, info):
        tenths = 10 * done // self.total
        if not self.is_terminal and tenths == self.tenths:
            return
        self.tenths = tenths
        left = (time.perf_counter() - self.start) * (self.total - done) / done
        bad = int(np.sum(~np.asarray(info.is_finite)))
        text = f"{done:,} of {self.total:,} steps, acceptance {np.mean(info.acceptance):.3f}"
        text += f", {left:.0f} s left" + (f", {bad} not finite" if bad else "")
        self.stream.write(f"\r{text:<78}" if self.is_terminal else text + "\n")
        self.stream.flush()

    def close(self):
        if self.is_terminal:
            self.stream.write("\n")
