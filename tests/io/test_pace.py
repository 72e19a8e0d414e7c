"""Stretches of work by a clock of the test's own, durations in words, states and rounds."""

import jax
import numpy as np
import pytest

from ebm_jax import parallel
from ebm_jax.io import resumable
from ebm_jax.io.pace import Pace
from ebm_jax.io.progress import _duration


class Clock:
    """Seconds that the test sets."""

    now = 0.0

    def __call__(self):
        return self.now


def stretches(seconds_per_step, number, left=10**9):
    """Numbers of steps asked for, in turn."""
    clock, found = Clock(), []
    pace = Pace(clock)
    for _ in range(number):
        found.append(pace.next(left))
        with pace.timed(found[-1]):
            clock.now += seconds_per_step * found[-1]
    return found


def test_stretches_grow_to_two_seconds():
    """Eight times as long at most; then as many as fit."""
    assert stretches(0.01, 5) == [1, 8, 64, 200, 200]
    assert stretches(5.0, 3) == [1, 1, 1]
    assert stretches(0.5, 3) == [1, 4, 4]
    assert stretches(0.01, 4, left=10) == [1, 8, 10, 10]
    assert stretches(0.0, 9)[-1] == 10**6
    assert repr(Pace(Clock()).next(0)) == "0"
    assert repr(Pace(Clock()).next(5)) == "1"


def test_the_number_of_process_0_is_that_of_all(monkeypatch):
    told = []
    monkeypatch.setattr(parallel, "tell", lambda value: told.append(value) or np.int32(3))
    assert repr(Pace(Clock()).next(9)) == "3"
    assert [(value, value.dtype) for value in told] == [(1, np.int32)]


def test_a_stretch_of_none_says_nothing():
    clock = Clock()
    pace = Pace(clock)
    with pace.timed(0):
        clock.now += 100
    assert pace.next(50) == 1
    with pace.timed(1):
        clock.now += 0.5
    assert pace.next(50) == 4
    with pace.timed(4):  # slower now: at once as few as fit
        clock.now += 8
    assert pace.next(50) == 1


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0:00"), (42.4, "0:42"), (59.6, "1:00"), (365, "6:05"), (3_599, "59:59"),
        (3_600, "1:00:00"), (12_000, "3:20:00"), (90_061, "25:01:01"),
    ],
)  # fmt: skip
def test_durations(seconds, said):
    assert _duration(seconds) == said


def test_states_are_written_now_and_then(tmp_path, monkeypatch):
    """Twenty seconds after the first, or twenty times as long as writing takes."""
    clock, written = Clock(), []
    monkeypatch.setattr(resumable.time, "monotonic", clock)
    states = resumable._States()

    def offer(at, value, takes=0.0):
        def write():
            clock.now += takes
            written.append(value)

        clock.now = at
        states.offer(tmp_path / "x", write)

    offer(0.0, "a")
    offer(19.9, "b")
    assert written == []
    offer(20.0, "c", takes=10.0)
    assert written == ["c"]
    offer(20 + 10 + 199, "d")
    assert written == ["c"]
    offer(20 + 10 + 200, "e")
    states.write_pending()  # nothing older than what was written
    assert written == ["c", "e"]
    offer(230 + 19, "f")
    assert written == ["c", "e"]
    states.write_pending()
    states.write_pending()
    assert written == ["c", "e", "f"]


def test_rounds_of_processes(monkeypatch):
    """Ten examples in batches of three on two processes: six, then four, of which the second has
    one; beyond the last there is a repetition of it."""
    assert list(resumable._rounds(10, 4)) == [(0, 4, 4), (4, 8, 4), (8, 10, 2)]
    assert list(resumable._rounds(10, 4, 8)) == [(8, 10, 2)]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert list(resumable._rounds(10, 3)) == [(3, 6, 6), (9, 10, 4)]
    assert list(resumable._rounds(8, 3)) == [(3, 6, 6), (7, 8, 2)]
