"""The training loop: it knows functions, numbers and callbacks, and neither method nor config."""

import collections
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax

State = Any
Batch = Any
Metrics = Any


class Schedule(NamedTuple):
    """Steps at which the loop does what; 0 for sample_every is at the end alone."""

    num_steps: int
    log_every: int
    sample_every: int
    checkpoint_every: int

    def logs(self, step: int) -> bool:
        """Whether the metrics of a step are read."""
        return step == self.num_steps or step % self.log_every == 0

    def samples(self, step: int) -> bool:
        """Whether samples are made after a step."""
        return step == self.num_steps or (bool(self.sample_every) and step % self.sample_every == 0)

    def saves(self, step: int) -> bool:
        """Whether the state after a step is saved."""
        return step == self.num_steps or step % self.checkpoint_every == 0


class Stop(Protocol):
    """Says when to leave early; see `io.interruption.Interruption`."""

    def requested(self, step: int) -> bool:
        """Whether to save the state after `step` steps and leave."""
        ...


class Callbacks(NamedTuple):
    """What is done with what the loop makes; each is called on every process.

    check: (step, metrics on the device): raises where the step went wrong. It is called before a
        state is saved or sampled from, so that nothing is kept of a run that diverged.
    log: (step, metrics on the device), of the steps that the schedule logs, checked by it too.
    save: (step, state). sample: (step, state). step_done: (step), after all of these.
    """

    check: Callable[[int, Metrics], object]
    log: Callable[[int, Metrics], None]
    save: Callable[[int, State], None]
    sample: Callable[[int, State], None]
    step_done: Callable[[int], None]


class Outcome(NamedTuple):
    """step: the last one done. is_complete: False after an interruption; the state is saved."""

    step: int
    state: State
    is_complete: bool


def fit(
    state: State,
    step_fn: Callable[[State, Batch], tuple[State, Metrics]],
    batches: Iterator[Batch],
    *,
    first_step: int,
    schedule: Schedule,
    callbacks: Callbacks,
    stop: Stop,
    max_in_flight: int = 1,
) -> Outcome:
    """Steps from `first_step` to the schedule's end, or to an interruption.

    Args:
      state: after first_step steps. step_fn: (state, batch) -> (state, metrics); may donate.
      batches: of the steps from first_step on.
      max_in_flight: steps that may be dispatched before an earlier one is done.
    Raises:
      what a callback raises.
    """
    in_flight: collections.deque[Metrics] = collections.deque(maxlen=max_in_flight)
    logged: tuple[int, Metrics] | None = None  # read when the next step is on its way
    step, stops = first_step, False
    for step in range(first_step + 1, schedule.num_steps + 1):
        batch = next(batches)
        if len(in_flight) == in_flight.maxlen:
            jax.block_until_ready(in_flight[0])
        state, metrics = step_fn(state, batch)
        in_flight.append(metrics)
        is_last = step == schedule.num_steps
        saves, samples = schedule.saves(step), schedule.samples(step)
        stops = stop.requested(step) and not is_last
        if logged is not None:
            callbacks.log(*logged)
        logged = (step, metrics) if schedule.logs(step) else None
        if step == first_step + 1:
            jax.block_until_ready(metrics)  # so that compilation can be told apart
        if saves or samples or stops:
            callbacks.check(step, metrics)
        if logged is not None and (is_last or stops):
            callbacks.log(*logged)
        if saves or stops:
            callbacks.save(step, state)
        if samples:
            callbacks.sample(step, state)
        callbacks.step_done(step)
        if stops:
            break
    return Outcome(step, state, not stops)
