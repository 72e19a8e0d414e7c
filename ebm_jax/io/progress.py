"""How far a long task is: a bar on a terminal, a line now and then in a log.

    with Progress(num_steps, "training", first_step=first_step) as progress:
        for step in range(first_step, num_steps):
            ...
            progress.update(step + 1, {"loss": loss})

The time to the first `update` is told apart as compilation: it includes tracing, XLA and the first
step, and neither the speed nor the time left counts it.
"""

import collections
import sys
import time
from collections.abc import Callable, Mapping
from typing import Self, TextIO

import jax
import rich.console
import rich.progress
import rich.text

_WINDOW_SECONDS = 30.0  # speed is that of the last half minute
_REDRAW_SECONDS = 0.1


class Progress:
    """Shows step, steps/s, time left and a few figures on stderr. A context manager.

    Where stderr is no terminal (a log of a CI job), it prints a plain line at most every
    `line_seconds`, and one at the end. On processes other than 0 it prints nothing.

    Args:
      total: the step at which the task is done.
      description: one or two words, "training".
      first_step: the step at which it starts, more than 0 after a resume.
      line_seconds: least time between plain lines, in seconds.
      stream: where to print; stderr if None.
      clock: gives seconds; for tests.
    """

    def __init__(
        self,
        total: int,
        description: str,
        first_step: int = 0,
        *,
        line_seconds: float = 10.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total = total
        self._description = description
        self._first_step = first_step
        self._line_seconds = line_seconds
        self._clock = clock
        self._active = jax.process_index() == 0
        self._console = rich.console.Console(
            file=sys.stderr if stream is None else stream, soft_wrap=True
        )
        self._bar: rich.progress.Progress | None = None
        self._task: rich.progress.TaskID | None = None
        self._step = first_step
        self._figures: dict[str, float] = {}
        self._shown_at = -float("inf")
        self._shown_step: int | None = None
        self._entered_at = self._updated_at = clock()
        self._started: tuple[float, int] | None = None  # clock and step at the first update
        self._lap: tuple[float, int] | None = None  # the same at the last lap
        self._recent: collections.deque[tuple[float, int]] = collections.deque()

    @property
    def compile_seconds(self) -> float | None:
        """Seconds from entering to the first update; None before it."""
        return None if self._started is None else self._started[0] - self._entered_at

    def lap(self) -> float | None:
        """Steps per second up to the last update, since that of the lap before.

        The first lap is since the first update, so that compilation is not counted; None where no
        step was done since.
        """
        if self._lap is None or self._step <= self._lap[1]:
            return None
        then, first = self._lap
        self._lap = (self._updated_at, self._step)
        return (self._step - first) / max(self._updated_at - then, 1e-9)

    def __enter__(self) -> Self:
        self._entered_at = self._clock()
        if not self._active:
            return self
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._bar = rich.progress.Progress(
                "{task.description}",
                rich.progress.BarColumn(bar_width=16),
                "{task.fields[says]}",
                console=self._console,
                refresh_per_second=2,
                # On a terminal what is printed meanwhile goes above the bar; a file or a pipe gets
                # its results, which would otherwise be written where the bar is.
                redirect_stdout=sys.stdout.isatty(),
            )
            self._task = self._bar.add_task(
                self._description,
                total=self._total,
                completed=self._first_step,
                says="compiling ...",
            )
            self._bar.start()
        else:
            self._print(f"{self._description}: compiling ...")
        return self

    def __exit__(self, *_: object) -> None:
        if not self._active:
            return
        if self._started is not None and self._step != self._shown_step:
            self._show()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, step: int, figures: Mapping[str, float] | None = None) -> None:
        """Says that `step` steps are done.

        Call it once the step's result is there (after `float(loss)`, say), or the speed shown is
        that of dispatching. It may be called every step or every few.

        Args:
          step: steps done, counted from 0 and not from `first_step`.
          figures: numbers to show beside it; the last ones given stay.
        """
        now = self._clock()
        if step < self._step:  # back to a checkpoint
            self._recent.clear()
        self._step, self._updated_at = step, now
        if figures is not None:
            self._figures = {**figures}
        if self._started is None:
            self._started = self._lap = (now, step)
            if self._active and self._bar is None:
                self._print(f"{self._description}: compiled in {self.compile_seconds:.1f} s")
                self._shown_at = now  # the first figures come after the first interval
        self._recent.append((now, step))
        while len(self._recent) > 2 and now - self._recent[1][0] >= _WINDOW_SECONDS:
            self._recent.popleft()
        if not self._active:
            return
        wait = _REDRAW_SECONDS if self._bar is not None else self._line_seconds
        if now - self._shown_at >= wait:
            self._show()

    def note(self, text: str) -> None:
        """Prints one line of text, above the bar if there is one."""
        if self._active:
            self._print(text)

    def _show(self) -> None:
        self._shown_at, self._shown_step = self._updated_at, self._step
        parts = [f"{self._step}/{self._total}"]
        speed = self._recent_speed()
        if speed is not None:
            parts.append(f"{speed:.3g} steps/s")
            if self._step < self._total:
                parts.append(f"{_duration((self._total - self._step) / speed)} left")
        parts += [f"{name} {value:.4g}" for name, value in self._figures.items()]
        if self._bar is None:
            self._print(f"{self._description}: " + "  ".join(parts))
        else:
            assert self._task is not None  # as there is a bar
            self._bar.update(self._task, completed=self._step, says="  ".join(parts))

    def _recent_speed(self) -> float | None:
        (then, first), (now, last) = self._recent[0], self._recent[-1]
        return (last - first) / (now - then) if now > then and last > first else None

    def _print(self, text: str) -> None:
        self._console.print(rich.text.Text(text))


def _duration(seconds: float) -> str:
    """`0:42`, `6:05` or `3:20:00`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
