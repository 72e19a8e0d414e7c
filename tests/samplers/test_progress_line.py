"""The progress line, the length of chunks, and summaries of chunks put together."""

import io
import types
from typing import NamedTuple

import numpy as np
import pytest

from ebm_jax.samplers import progress


class Info(NamedTuple):
    """Of a chunk."""

    acceptance: np.ndarray
    is_finite: np.ndarray
    is_divergent: np.ndarray
    energy: np.ndarray
    displacement: np.ndarray


def info(acceptance, *, finite=(True, True), divergent=(False, False), energy=(0.0, 0.0)):
    given = (acceptance, finite, divergent, energy, (9.0, 9.0))
    return Info(*map(np.array, given))


class Terminal(io.StringIO):
    """One that says it is a terminal. seen: how many lines had begun at each flush."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def flush(self):
        """What was written is seen."""
        self.seen.append(self.getvalue().count("\r"))

    def isatty(self):
        """It is."""
        return True


def test_a_line_for_each_tenth_of_a_log(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    stream = io.StringIO()
    line = progress._Line(stream, 2_000)
    for done in (150, 199, 200, 399, 1_000, 2_000):
        now[0] = 100 + done / 100
        line.show(done, info([0.25, 0.5], finite=(done < 1_000, True)))
    line.close()
    assert stream.getvalue().splitlines() == [
        "200 of 2,000 steps, acceptance 0.375, 18 s left",
        "1,000 of 2,000 steps, acceptance 0.375, 10 s left, 1 not finite",
        "2,000 of 2,000 steps, acceptance 0.375, 0 s left, 1 not finite",
    ]


def test_a_terminal_has_one_line_that_is_overwritten():
    stream = Terminal()
    line = progress._Line(stream, 10)
    line.show(1, info([1.0, 1.0]))
    line.show(2, info([1.0, 1.0]))
    line.close()
    first, second, third = stream.getvalue().split("\r")
    assert first == ""
    assert stream.seen == [1, 2]  # at once, though no line has ended
    assert second.startswith("1 of 10 steps, acceptance 1.000")
    assert len(second) == 78
    assert third.endswith("\n")
    assert stream.getvalue().count("\n") == 1


def test_chunks_grow_to_a_second():
    """The first of a length has compiled and says nothing; a hundredth of the run at most."""
    length = progress._ChunkLength(2, 10_000)
    assert (length.value, length.largest) == (2, 100)
    length.adapt(2, 0.001)
    assert length.value == 2
    length.adapt(2, 0.3)  # three times as many fit
    assert length.value == 6
    length.adapt(6, 9.0)
    length.adapt(6, 0.6)  # no second one fits
    assert length.value == 6
    length.adapt(6, 0.0)  # 64 times as long at most, and no longer than the largest
    assert length.value == 100
    length.adapt(100, 0.1)
    length.adapt(6, 0.4)  # never shorter again
    assert length.value == 100
    fast = progress._ChunkLength(1, 10**6)
    fast.adapt(1, 1.0)
    fast.adapt(1, 1e-9)
    assert fast.value == 64
    twice = progress._ChunkLength(1, 10**6)
    twice.adapt(1, 0.5)
    twice.adapt(1, 0.5)
    assert twice.value == 2
    assert progress._ChunkLength(3, 200).largest == 3
    assert progress._ChunkLength(3, 1_000).largest == 9


def test_summaries_of_chunks():
    """Means are weighed by steps; finite is finite throughout, divergent is once; ends are last."""
    chunks = [
        info([0.0, 1.0], finite=(True, False), divergent=(False, True), energy=(1.0, 2.0)),
        info([0.5, 0.5], finite=(True, True), divergent=(False, False), energy=(3.0, 4.0)),
    ]
    state = types.SimpleNamespace(x=np.array([[3.0, 4.0], [0.0, 1.0]], np.float32))
    found = progress._merge(chunks, [1, 3], np.zeros((2, 2), np.float32), state)
    assert found.acceptance == pytest.approx([0.375, 0.625])
    assert found.is_finite.tolist() == [True, False]
    assert found.is_divergent.tolist() == [False, True]
    assert found.energy.tolist() == [3, 4]
    assert found.displacement == pytest.approx([5, 1])


def test_chunks_of_a_run_grow_as_they_are_timed(monkeypatch, capsys):
    """A step takes 20 ms: after the first two, a hundredth of the run at once; on stderr."""
    now, asked = [0.0], []

    def run_chain(rng_key, kernel, x, count, **options):
        now[0] += 0.02 * count
        asked.append((rng_key, kernel, x, count, options))
        state = types.SimpleNamespace(x=np.full((2, 2), np.float32(len(asked))))
        return state, info([count, 0.0])

    monkeypatch.setattr(progress, "run_chain", run_chain)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    start = np.zeros((2, 2), np.float32)
    found = progress.run_with_progress(
        "key", "kernel", start, 1_000, first_step=7, first_chain=4, unroll=2
    )
    counts = [count for *_, count, _ in asked]
    assert counts == [1, 1, *[10] * 99, 8]
    assert all((key, kernel) == ("key", "kernel") for key, kernel, *_ in asked)
    assert [options["first_step"] for *_, options in asked] == [7, 8, *range(9, 999, 10), 999]
    assert asked[0][-1] == {"first_step": 7, "first_chain": 4, "unroll": 2}
    assert asked[1][-1] == {"first_step": 8, "unroll": 2}  # a state is numbered
    assert asked[0][2] is start
    assert [x.x[0, 0] for _, _, x, *_ in asked[1:]] == [*range(1, 102)]
    assert found.num_steps == 1_000
    assert found.info.acceptance == pytest.approx([(2 + 99 * 100 + 64) / 1_000, 0])
    assert found.info.displacement == pytest.approx([102 * 2**0.5] * 2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" of ")[0] for line in lines] == [
        "102", "202", "302", "402", "502", "602", "702", "802", "902", "1,000",
    ]  # fmt: skip
    assert lines[0] == "102 of 1,000 steps, acceptance 5.000, 18 s left"
