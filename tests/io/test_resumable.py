"""Batches are kept, found again after an interruption, and thrown away where they do not fit."""

import os
import signal

import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import parallel
from ebm_jax.io import resumable

X = np.arange(21, dtype=np.float32)


def square(common, x, index):
    return {"square": common * x**2, "index": index}


def run(folder, fingerprint, fn=square):
    with resumable.ResumableWork(folder, fingerprint) as work:
        work.begin("squaring", len(X))
        found = work.map_batches("x", fn, jnp.asarray(2.0), (X, np.arange(21)), batch_size=8)
        assert folder.exists()
    return found


@pytest.fixture
def calls(monkeypatch):
    """The first example of every batch that was computed."""
    made, plain = [], parallel.map_examples

    def counted(fn, batch_size):
        mapped = plain(fn, batch_size)

        def call(common, *arrays):
            made.append(float(arrays[0][0]))
            if len(made) == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return mapped(common, *arrays)

        return call

    monkeypatch.setattr(parallel, "map_examples", counted)
    return made


def test_an_interrupted_run_goes_on_after_its_last_batch(tmp_path, calls):
    folder = tmp_path / "partial"
    with pytest.raises(SystemExit) as stopped:
        run(folder, {"step": 1})
    assert stopped.value.code == 143
    assert calls == [0, 8]
    found = run(folder, {"step": 1})
    assert calls == [0, 8, 16]
    np.testing.assert_array_equal(found["square"], 2 * X**2)
    np.testing.assert_array_equal(found["index"], np.arange(21))
    assert not folder.exists()


def test_what_has_another_fingerprint_is_thrown_away(tmp_path, calls):
    folder = tmp_path / "partial"
    with pytest.raises(SystemExit):
        run(folder, {"step": 1})
    run(folder, {"step": 2})
    assert calls == [0, 8, 0, 8, 16]


def total_of(folder, fingerprint, measured, *, stop_at=None, batch_size=8):
    """Sum and last index of X by a fold; Ctrl-C's exit while batch `stop_at` is measured."""

    def measure(first, stop):
        if len(measured) == stop_at:
            raise KeyboardInterrupt
        measured.append((first, stop))
        return {"x": X[first:stop]}

    def update(state, first, found):
        assert first == state["num"]
        return {"num": state["num"] + len(found["x"]), "sum": state["sum"] + found["x"].sum()}

    with resumable.ResumableWork(folder, fingerprint) as work:
        work.begin("adding", len(X))
        initial = {"num": 0, "sum": np.zeros((), np.float64)}
        return work.fold_batches(
            "x", measure, update, initial, number=len(X), batch_size=batch_size
        )


def test_a_fold_keeps_one_file_and_goes_on_after_an_interruption(tmp_path):
    """Also by batches of another size; another fingerprint begins anew."""
    folder, measured = tmp_path / "partial", []
    with pytest.raises(KeyboardInterrupt):
        total_of(folder, {"step": 1}, measured, stop_at=2)
    assert {path.name for path in folder.iterdir()} == {"fingerprint.json", "x.npz"}
    found = total_of(folder, {"step": 1}, measured, batch_size=16)
    assert measured == [(0, 8), (8, 16), (16, 21)]
    assert (found["num"], found["sum"]) == (21, X.sum())
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt):
        total_of(folder, {"step": 1}, measured, stop_at=4)
    again = []
    total_of(folder, {"step": 2}, again)
    assert again == [(0, 8), (8, 16), (16, 21)]


def test_a_fold_measures_what_the_devices_divide(tmp_path):
    """Five at once on eight devices are eight, the last of which there are fewer."""
    measured = []
    assert total_of(tmp_path / "partial", {}, measured, batch_size=5)["sum"] == X.sum()
    assert measured == [(0, 8), (8, 16), (16, 21)]


def test_pieces_that_are_to_be_kept_are_there_for_the_next_work(tmp_path):
    """Whatever that asks for otherwise; not the others, nor with a fingerprint of their own."""
    folder, measured = tmp_path / "partial", []

    def work(settings, of_model):
        found = {}
        with resumable.ResumableWork(folder, settings) as whole:
            whole.save("result", {"x": X})
            for name, keep in (("kept", True), ("gone", False)):
                piece = whole.piece(name, of_model, keep=keep)

                def measure(first, stop, name=name):
                    measured.append((name, first))
                    return {"x": X[first:stop]}

                found[name] = piece.fold_batches(
                    "x", measure, lambda state, first, batch: state + batch["x"].sum(),
                    np.float32(0), number=len(X), batch_size=16,
                )  # fmt: skip
        return found

    everything = [("kept", 0), ("kept", 16), ("gone", 0), ("gone", 16)]
    for settings, model, made in (
        ({"subsets": 1}, {"step": 1}, everything),
        ({"subsets": 2}, {"step": 1}, everything[2:]),
        ({"subsets": 2}, {"step": 2}, everything),
    ):
        assert work(settings, model) == {"kept": X.sum(), "gone": X.sum()}
        assert measured == made
        measured.clear()
        assert [path.name for path in folder.iterdir()] == ["kept"]


def test_states_are_written_now_and_then_and_when_the_work_ends_early(tmp_path, monkeypatch):
    clock, written = [0.0], []
    monkeypatch.setattr(resumable.time, "monotonic", lambda: clock[0])
    plain = resumable.files.write_arrays

    def write_arrays(path, arrays):
        written.append((path.stem, int(arrays["n"])))
        clock[0] += 2.0  # so slow that the next is due after 40 seconds
        plain(path, arrays)

    monkeypatch.setattr(resumable.files, "write_arrays", write_arrays)

    def work_for_100_seconds():
        with resumable.ResumableWork(tmp_path / "p", {}) as work:
            for second in range(100):
                clock[0] = float(second)
                work.save_state("state", {"n": second})
            assert written == [("state", 20), ("state", 62)]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work_for_100_seconds()
    assert written[2:] == [("state", 99)]
    with resumable.ResumableWork(tmp_path / "p", {}) as work:
        assert work.load("state")["n"] == 99


def test_arrays_in_files_stay_and_come_back(tmp_path):
    def write_two(first):
        with resumable.ResumableWork(tmp_path / "p", {}) as work:
            array = work.array_file("x", (4, 3), np.float32)
            np.testing.assert_array_equal(array[:first], 1)
            array[first : first + 2] = 1
            raise KeyboardInterrupt

    for first in (0, 2):
        with pytest.raises(KeyboardInterrupt):
            write_two(first)
    with resumable.ResumableWork(tmp_path / "p", {}) as work:
        np.testing.assert_array_equal(work.array_file("x", (4, 3), np.float32), np.ones((4, 3)))
        assert not work.array_file("x", (5, 3), np.float32).any()
