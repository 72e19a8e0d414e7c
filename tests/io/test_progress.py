"""Progress: what a log and a terminal get to see, with a clock of the test's own."""

import io
import re

import jax
import jax.numpy as jnp
import pytest

from ebm_jax.io.progress import Progress


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


def lines(stream):
    return stream.getvalue().splitlines()


def test_a_log_gets_a_line_every_ten_seconds():
    clock, stream = Clock(), io.StringIO()
    with Progress(5_000, "training", stream=stream, clock=clock) as progress:
        clock.now += 12.0  # compilation and the first step
        for step in range(1, 5_001):
            progress.update(step, {"loss": 0.5 / step, "gap": 1234567.0})
            clock.now += 0.01
        assert progress.compile_seconds == pytest.approx(12.0)
        assert progress.lap() == pytest.approx(100.0)
    said = lines(stream)
    assert said[0] == "training: compiling ..."
    assert said[1] == "training: compiled in 12.0 s"
    # 50 s of steps: figures at 10, 20, 30, 40 s and at the end
    assert [int(re.match(r"training: (\d+)/5000 ", line)[1]) for line in said[2:]] == [
        pytest.approx(step, abs=5) for step in (1001, 2001, 3001, 4001, 5000)
    ]
    assert said[2].endswith("100 steps/s  0:40 left  loss 0.0004995  gap 1.235e+06")
    assert "left" not in said[-1]
    assert max(map(len, said)) < 120


def test_the_speed_is_that_of_the_last_half_minute_and_leaves_out_compilation():
    clock, stream = Clock(), io.StringIO()
    with Progress(10_000, "sampling", first_step=1_000, stream=stream, clock=clock) as progress:
        clock.now += 500.0
        progress.update(1_001)
        for step in range(1_002, 1_102):  # slow at first
            clock.now += 1.0
            progress.update(step)
        for step in range(1_102, 1_502):  # then ten times faster, for 40 s
            clock.now += 0.1
            progress.update(step)
    # 8499 steps to go at 10 per second
    assert lines(stream)[-1] == "sampling: 1501/10000  10 steps/s  14:10 left"


def test_the_speed_is_over_thirty_seconds_and_a_line_is_due_after_ten():
    """Exactly: a second a step; but a thousand steps in the 32nd."""
    clock, stream = Clock(), io.StringIO()
    with Progress(2_000, "sampling", stream=stream, clock=clock) as progress:
        for step in [*range(1, 32), 1_032]:
            clock.now += 1.0
            progress.update(step)
    assert lines(stream)[2:] == [
        "sampling: 11/2000  1 steps/s  33:09 left",
        "sampling: 21/2000  1 steps/s  32:59 left",
        "sampling: 31/2000  1 steps/s  32:49 left",
        "sampling: 1032/2000  34.3 steps/s  0:28 left",  # 1,030 steps in 30 seconds
    ]  # fmt: skip


def test_updates_that_are_far_apart_have_the_speed_since_the_one_before():
    clock, stream = Clock(), io.StringIO()
    with Progress(100, "sampling", stream=stream, clock=clock) as progress:
        for seconds, step in ((5, 1), (40, 5), (50, 30)):
            clock.now += seconds
            progress.update(step)
    assert lines(stream)[1:] == [
        "sampling: compiled in 5.0 s", "sampling: 5/100  0.1 steps/s  15:50 left",
        "sampling: 30/100  0.5 steps/s  2:20 left",
    ]  # fmt: skip


def test_no_step_or_no_time_in_between_has_no_speed():
    """Numbers of any type; a lap within no time at all is a very fast one."""
    clock, stream = Clock(), io.StringIO()
    with Progress(9, "sampling", line_seconds=0.0, stream=stream, clock=clock) as progress:
        progress.update(1)
        progress.update(3, {"loss": jnp.bfloat16(0.5)})
        assert progress.lap() == pytest.approx(2e9)
        clock.now += 4.0
        progress.update(3)
        progress.update(5)
        clock.now += 4.0
        progress.update(5, {"gap": 12})
    assert [line.removeprefix("sampling: ") for line in lines(stream)[2:]] == [
        "1/9", "3/9  loss 0.5", "3/9  0.5 steps/s  0:12 left  loss 0.5",
        "5/9  1 steps/s  0:04 left  loss 0.5", "5/9  0.5 steps/s  0:08 left  gap 12",
    ]  # fmt: skip


def test_a_long_line_stays_one():
    stream = io.StringIO()
    with Progress(9, "sampling", stream=stream, clock=Clock()) as progress:
        progress.note("a word " * 50)
    assert lines(stream)[1] == "a word " * 50


def test_a_lap_is_the_speed_since_the_one_before():
    clock, laps = Clock(), []
    with Progress(100, "training", stream=io.StringIO(), clock=clock) as progress:
        clock.now += 60.0  # compilation
        progress.update(1)
        laps.append(progress.lap())
        for step in range(2, 22):  # 20 steps at 10 per second, then 30 at 2
            clock.now += 0.1
            progress.update(step)
        laps.append(progress.lap())
        clock.now += 1.0
        laps.append(progress.lap())  # no step was done since
        clock.now -= 1.0
        for step in range(22, 52):
            clock.now += 0.5
            progress.update(step)
        laps.append(progress.lap())
    assert laps == [None, pytest.approx(10.0), None, pytest.approx(2.0)]


def test_going_back_to_a_checkpoint_starts_the_speed_anew():
    clock, stream = Clock(), io.StringIO()
    with Progress(100, "training", stream=stream, clock=clock) as progress:
        for step in [*range(1, 51), *range(31, 61)]:
            clock.now += 1.0
            progress.update(step)
    assert lines(stream)[-1] == "training: 60/100  1 steps/s  0:40 left"


def test_notes_and_an_error_on_the_way():
    stream = io.StringIO()

    def task():
        with Progress(10, "training", stream=stream, clock=Clock()) as progress:
            progress.update(1, {"loss": 2.0})
            progress.note("saved the checkpoint of step 1 [here] in runs/digits")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        task()
    assert lines(stream)[2:] == [
        "saved the checkpoint of step 1 [here] in runs/digits",
        "training: 1/10  loss 2",
    ]


def test_nothing_done_says_nothing_of_speed():
    stream = io.StringIO()
    with Progress(10, "training", stream=stream) as progress:
        assert progress.compile_seconds is None
        assert progress.lap() is None
    assert lines(stream) == ["training: compiling ..."]


def test_a_terminal_gets_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    clock, stream = Clock(), Terminal()
    with Progress(40, "part 2", stream=stream, clock=clock) as progress:
        for step in range(1, 41):
            clock.now += 0.5
            progress.update(step, {"loss": 0.25})
        progress.note("half way")
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "compiling ..." in shown
    assert "half way" in shown
    for plain in ("part 2", "40/40  2 steps/s  loss 0.25"):  # in the terminal's own color
        assert plain in stream.getvalue()
    assert re.findall("\u2501+", shown.splitlines()[-1]) == [16 * "\u2501"]
    assert "40/40  2 steps/s  loss 0.25" in shown.splitlines()[-1]
    assert stream.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_a_bar_is_drawn_anew_ten_times_a_second(monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    clock = Clock()
    clock.now = 0.0
    for first_step in (0, 20):
        kept = {"first_step": first_step} if first_step else {}
        with Progress(40, "training", **kept, stream=Terminal(), clock=clock) as progress:
            bar, shown = progress._bar, []
            (task,) = bar.tasks
            assert (task.completed, task.total) == (first_step, 40)
            assert (task.description, task.fields["says"]) == ("training", "compiling ...")
            assert bar.live.refresh_per_second == 2
            for step in range(21, 26):
                progress.update(step)
                shown.append(task.completed)
                clock.now += 0.0625
            progress.update(30)
        assert shown == [21, 21, 23, 23, 25]
        assert task.completed == 30


def test_other_processes_are_silent(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    clock, stream = Clock(), io.StringIO()
    with Progress(10, "training", stream=stream, clock=clock) as progress:
        clock.now += 2.0
        progress.update(1, {"loss": 1.0})
        progress.note("saved")
    assert stream.getvalue() == ""
    assert progress.compile_seconds == pytest.approx(2.0)


def test_results_go_to_a_file_while_the_bar_is_on_a_terminal(capsys):
    """`main.py --mode=evaluate > results.txt`: stdout is no terminal, stderr is one."""
    terminal = Terminal()
    with Progress(2, "sampling", stream=terminal) as progress:
        progress.update(1)
        print("the result")
        progress.update(2)
    assert capsys.readouterr().out == "the result\n"
    assert "the result" not in terminal.getvalue()
