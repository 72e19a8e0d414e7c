"""`loop.fit` with a counter in place of a network: what is called when, and with which state."""

import itertools

import jax
import pytest

from ebm_jax.training import loop


class Stop:
    """Asks for an end after a step; 0 never does."""

    def __init__(self, step=0):
        self.step, self.asked = step, []

    def requested(self, step):
        self.asked.append(step)
        return step == self.step


class Diverged(Exception):
    pass


def run(schedule, *, first_step=0, stop_after=0, wrong_after=(), max_in_flight=1, stop=None):
    """(what happened, in order; outcome). The state counts the steps, batches count from 0."""
    said = []

    def step_fn(state, batch):
        assert batch == state  # the batch of this step, after a resume as well
        said.append(("step", state + 1))
        return state + 1, {"n": state + 1}

    def check(step, metrics):
        assert metrics == {"n": step}
        said.append(("check", step))
        if step in wrong_after:
            raise Diverged(step)

    def log(step, metrics):  # checks what it reads, as the product's does
        assert metrics == {"n": step}
        said.append(("log", step))
        if step in wrong_after:
            raise Diverged(step)

    def on_state(name):
        def call(step, state):
            assert state == step
            said.append((name, step))

        return call

    callbacks = loop.Callbacks(
        check, log, on_state("save"), on_state("sample"), lambda step: said.append(("done", step))
    )
    run.said = said
    outcome = loop.fit(
        first_step,
        step_fn,
        itertools.count(first_step),
        first_step=first_step,
        schedule=loop.Schedule(*schedule),
        callbacks=callbacks,
        stop=stop or Stop(stop_after),
        max_in_flight=max_in_flight,
    )
    return said, outcome


def steps_of(said, name):
    return [step for what, step in said if what == name]


def test_one_run_in_full():
    """Metrics of a logged step are read once the next step is on its way; the last ones at once."""
    said, outcome = run((5, 2, 4, 3))
    assert said == [
        ("step", 1), ("done", 1),
        ("step", 2), ("done", 2),
        ("step", 3), ("log", 2), ("check", 3), ("save", 3), ("done", 3),
        ("step", 4), ("check", 4), ("sample", 4), ("done", 4),
        ("step", 5), ("log", 4), ("check", 5), ("log", 5), ("save", 5), ("sample", 5), ("done", 5),
    ]  # fmt: skip
    assert outcome == loop.Outcome(5, 5, True)


SCHEDULES = [
    (num_steps, log_every, sample_every, checkpoint_every)
    for num_steps in (1, 2, 7, 12)
    for log_every in (1, 3, 50)
    for sample_every in (0, 1, 4)
    for checkpoint_every in (1, 5, 100)
]


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("first_step", [0, 1, 6])
def test_every_schedule(schedule, first_step):
    num_steps, log_every, sample_every, checkpoint_every = schedule
    said, outcome = run(schedule, first_step=first_step)
    steps = range(first_step + 1, num_steps + 1)

    def due(every):
        return [n for n in steps if n == num_steps or (every and n % every == 0)]

    assert steps_of(said, "step") == steps_of(said, "done") == list(steps)
    assert steps_of(said, "log") == due(log_every)
    assert steps_of(said, "save") == due(checkpoint_every)
    assert steps_of(said, "sample") == due(sample_every)
    assert steps_of(said, "check") == sorted({*due(checkpoint_every), *due(sample_every)})
    at = {event: i for i, event in enumerate(said)}
    assert len(at) == len(said)  # nothing twice
    for name, step in said:
        assert at["step", step] <= at[name, step] <= at["done", step] or name == "log"
        if name in ("save", "sample"):  # nothing is kept of a step that was not looked at
            assert at["check", step] < at[name, step]
        if name == "log" and step < num_steps:
            assert at["step", step + 1] < at["log", step] < at["done", step + 1]
    assert outcome == loop.Outcome(max(first_step, num_steps), max(first_step, num_steps), True)


@pytest.mark.parametrize("schedule", [(12, 1, 1, 1), (12, 3, 0, 5), (12, 4, 4, 4), (12, 50, 5, 50)])
@pytest.mark.parametrize("step", [1, 4, 11])
def test_an_interruption_saves_and_leaves(schedule, step):
    said, outcome = run(schedule, stop_after=step)
    assert steps_of(said, "step") == list(range(1, step + 1))
    assert steps_of(said, "save")[-1] == step
    assert said[-1] == ("done", step)
    assert said.index(("check", step)) < said.index(("save", step))
    logged = [n for n in range(1, step + 1) if n % schedule[1] == 0]
    assert steps_of(said, "log") == logged  # that of the last step too, before it is saved
    assert outcome == loop.Outcome(step, step, False)


def test_an_interruption_after_the_last_step_is_none():
    said, outcome = run((4, 2, 0, 9), stop_after=4)
    assert outcome == loop.Outcome(4, 4, True)
    assert steps_of(said, "save") == [4]


def test_every_step_is_asked_for_on_every_process():
    stop = Stop()
    run((5, 2, 0, 9), stop=stop, first_step=1)
    assert stop.asked == [2, 3, 4, 5]


@pytest.mark.parametrize("schedule", [(12, 1, 1, 1), (12, 3, 2, 3), (12, 50, 3, 6)])
def test_nothing_is_kept_of_a_step_that_went_wrong(schedule):
    wrong = 6
    with pytest.raises(Diverged, match="6"):
        run(schedule, wrong_after=(wrong,))
    said = run.said
    for name in ("save", "sample", "done"):
        assert all(step < wrong for step in steps_of(said, name))
    assert said[-1] == ("check", wrong)


def test_what_a_log_finds_wrong_stops_before_the_next_state_is_kept():
    """Step 6 is logged, step 7 saved: the log comes before the save."""
    with pytest.raises(Diverged, match="6"):
        run((12, 6, 0, 7), wrong_after=(6,))
    assert run.said[-2:] == [("step", 7), ("log", 6)]
    assert steps_of(run.said, "save") == []


@pytest.mark.parametrize("max_in_flight", [None, 1, 2, 3])
def test_no_more_steps_are_on_their_way_than_allowed(max_in_flight, monkeypatch):
    """A step is dispatched once the one max_in_flight before it is done; one by default."""
    waited, at_dispatch = [], []
    monkeypatch.setattr(jax, "block_until_ready", lambda metrics: waited.append(metrics["n"]))

    class Batches:
        def __init__(self):
            self.n = -1

        def __next__(self):
            self.n += 1
            return self.n

    def step_fn(state, batch):
        at_dispatch.append(max(waited, default=0))
        return state + 1, {"n": state + 1}

    nothing = loop.Callbacks(*[lambda *_: None] * 5)
    options = {} if max_in_flight is None else {"max_in_flight": max_in_flight}
    loop.fit(
        0, step_fn, Batches(), first_step=0, schedule=loop.Schedule(6, 50, 0, 50),
        callbacks=nothing, stop=Stop(), **options,
    )  # fmt: skip
    # The first step is waited for in any case: its time is that of the compilation.
    wanted = [0] + [max(1, n - (max_in_flight or 1)) for n in range(2, 7)]
    assert at_dispatch == wanted


def test_a_finished_run_does_nothing():
    said, outcome = run((5, 1, 1, 1), first_step=5)
    assert said == []
    assert outcome == loop.Outcome(5, 5, True)
