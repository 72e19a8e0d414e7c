"""Batches are kept, found again after an interruption, and thrown away where they do not fit."""

import os
import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import parallel
from ebm_jax.io import resumable

X = np.arange(21, dtype=np.float32)


def square(common, x, index):
    return {"square": common * x**2, "index": index}


def run(folder, fingerprint, batch_size=8):
    with resumable.ResumableWork(folder, fingerprint) as work:
        work.begin("squaring", len(X))
        found = work.map_batches(
            "x", square, jnp.asarray(2.0), (X, np.arange(21)), batch_size=batch_size
        )
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


def test_an_interrupted_run_goes_on_after_its_last_batch(tmp_path, calls, capsys):
    """What it depends on may be of NumPy; the bar begins where it ended."""
    folder = tmp_path / "partial"
    fingerprint = {"step": np.int64(1), "shape": (3, 4), "from": pathlib.Path("a"), "nan": np.nan}
    with pytest.raises(SystemExit) as stopped:
        run(folder, fingerprint)
    assert stopped.value.code == 143
    assert calls == [0, 8]
    said = capsys.readouterr()
    assert said.out == f"the same command goes on from what is in {folder}\n"
    assert said.err.splitlines()[0] == "squaring: compiling ..."
    assert said.err.splitlines()[-1].startswith("squaring: 16/21  ")
    found = run(folder, fingerprint)
    assert calls == [0, 8, 16]
    assert capsys.readouterr().err.splitlines()[-1] == "squaring: 21/21"
    np.testing.assert_array_equal(found["square"], 2 * X**2)
    np.testing.assert_array_equal(found["index"], np.arange(21))
    assert not folder.exists()


def test_what_has_another_fingerprint_is_thrown_away(tmp_path, calls):
    folder = tmp_path / "partial"
    with pytest.raises(SystemExit):
        run(folder, {"step": 1})
    run(folder, {"step": 2})
    assert calls == [0, 8, 0, 8, 16]


def test_one_array_that_is_shorter_than_a_batch(tmp_path):
    with resumable.ResumableWork(tmp_path / "p", {}) as work:
        found = work.map_batches(
            "x", lambda common, x: {"x": common * x}, np.float32(3), (X[:5],), batch_size=64
        )
        assert sorted(os.listdir(tmp_path / "p")) == ["fingerprint.json", "x_0000000.npz"]
    np.testing.assert_array_equal(found["x"], 3 * X[:5])


def test_batches_of_another_size_are_computed_anew(tmp_path, calls):
    """Also where this process has them and another has not."""
    folder = tmp_path / "partial"
    with pytest.raises(SystemExit):
        run(folder, {})
    found = run(folder, {}, batch_size=16)
    assert calls == [0, 8, 0, 16]
    np.testing.assert_array_equal(found["square"], 2 * X**2)


def test_batches_that_one_process_lacks_are_computed_by_all(tmp_path, calls, monkeypatch):
    folder = tmp_path / "partial"
    with pytest.raises(SystemExit):
        run(folder, {})
    asked = []
    monkeypatch.setattr(parallel, "all_true", lambda here: asked.append(here))
    run(folder, {})
    assert asked == [True, True, False]
    assert calls == [0, 8, 0, 8, 16]


def test_the_bar_of_each_stretch_begins_anew_and_shows_numbers(tmp_path, capsys):
    """Pieces share it; asking for a stop counts every advance."""
    with resumable.ResumableWork(tmp_path / "p", {}) as work:
        asked = []
        work._stop.requested = asked.append
        work.show({"before": 1.0})  # there is no bar yet
        work.advance(3)
        work.begin("one", 4)
        work.skip(1)
        work.advance(2, {"loss": 0.5})
        work.show({"gap": 1.5})
        work.begin("two", 9)
        work.piece("part", {}).advance(5)
    assert asked == [1, 2, 3]
    said = [line for line in capsys.readouterr().err.splitlines() if "compil" not in line]
    assert said == ["one: 3/4  gap 1.5", "two: 5/9"]


def total_of(folder, fingerprint, measured, *, stop_at=None, batch_size=8):
    """Sum and last index of X by a fold; Ctrl-C's exit while batch `stop_at` is measured."""

    def measure(first, stop):
        if len(measured) == stop_at:
            raise KeyboardInterrupt
        measured.append((first, stop))
        return {"x": X[first:stop]}

    def update(state, first, found):
        assert first == state["num"]
        assert len(found["x"]) > 0
        assert isinstance(first, int)
        assert not isinstance(state["num"], np.ndarray)  # nor after it was read from a file
        return {"num": state["num"] + len(found["x"]), "sum": state["sum"] + found["x"].sum()}

    with resumable.ResumableWork(folder, fingerprint) as work:
        work.begin("adding", len(X))
        initial = {"num": 0, "sum": np.zeros((), np.float64)}
        return work.fold_batches(
            "x", measure, update, initial, number=len(X), batch_size=batch_size
        )


def test_a_fold_keeps_one_file_and_goes_on_after_an_interruption(tmp_path, capsys):
    """Also by batches of another size; another fingerprint begins anew."""
    folder, measured = tmp_path / "partial", []
    with pytest.raises(KeyboardInterrupt):
        total_of(folder, {"step": 1}, measured, stop_at=2)
    assert {path.name for path in folder.iterdir()} == {"fingerprint.json", "x.npz"}
    found = total_of(folder, {"step": 1}, measured, batch_size=16)
    assert capsys.readouterr().err.splitlines()[-1] == "adding: 21/21"
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


def test_a_single_example_is_left_for_the_last_batch(tmp_path):
    with resumable.ResumableWork(tmp_path / "p", {}) as work:
        found = work.fold_batches(
            "x", lambda first, stop: {"x": X[first:stop]},
            lambda state, first, batch: np.append(state, [first, *batch["x"]]), np.zeros(0),
            number=9, batch_size=8,
        )  # fmt: skip
    assert found.tolist() == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 8]


def test_pieces_that_are_to_be_kept_are_there_for_the_next_work(tmp_path):
    """Whatever that asks for otherwise; not the others, nor with a fingerprint of their own."""
    folder, measured = tmp_path / "partial", []

    def work(settings, of_model):
        found = {}
        with resumable.ResumableWork(folder, settings) as whole:
            whole.save("result", {"x": X})
            (folder / "of_other_settings").mkdir(exist_ok=True)
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
        assert sorted(path.name for path in folder.iterdir()) == ["kept", "of_other_settings"]


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


def test_rows_are_on_disk_before_a_state_says_so(tmp_path, monkeypatch):
    """Of a file that is new, and of one that was there."""
    done, plain = [], resumable.files.write_arrays
    monkeypatch.setattr(np.memmap, "flush", lambda self: done.append("rows"))
    monkeypatch.setattr(
        resumable.files, "write_arrays", lambda *of: done.append("state") or plain(*of)
    )

    def work_that_is_ended():
        with resumable.ResumableWork(tmp_path / "p", {}) as work:
            work.array_file("x", (4, 3), np.float32)[:] = 1
            work.save("state", {"n": 4})
            raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            work_that_is_ended()
    assert done == ["rows", "state"] * 2


def test_nothing_saved_leaves_nothing_to_remove(tmp_path):
    usual = signal.getsignal(signal.SIGTERM)
    for keep in (False, True):
        with resumable.ResumableWork(tmp_path / "p", {}) as work:
            assert work.piece("part", {}, keep=keep).load("x") is None
        assert os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is usual
    with resumable.ResumableWork(tmp_path / "p", {}) as work:
        work.piece("gone", {}).save("x", {"x": X})
    assert os.listdir(tmp_path) == []


def test_what_cannot_be_removed_ends_no_work(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with resumable.ResumableWork(tmp_path / "p", {}) as work:
        work.piece("kept", {}, keep=True).save("x", {"x": X})
        work.piece("gone", {})
        (tmp_path / "p" / "gone").symlink_to(tmp_path / "elsewhere")
    assert sorted(os.listdir(tmp_path / "p")) == ["gone", "kept"]


def test_a_state_that_nobody_will_read_is_not_written(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(resumable.files, "write_arrays", lambda *of: written.append(of))
    with resumable.ResumableWork(tmp_path / "p", {}) as work:
        work.save_state("state", {"n": 3})
        work.piece("part", {}).save_state("state", {"n": 3})
    assert written == []


def test_a_piece_that_is_kept_has_its_last_state(tmp_path):
    with resumable.ResumableWork(tmp_path / "p", {}) as work:
        for name, keep in (("kept", True), ("gone", False)):
            work.piece(name, {}, keep=keep).save_state("state", {"n": 3})
    assert sorted(path.name for path in (tmp_path / "p").rglob("*")) == [
        "fingerprint.json", "kept", "state.npz",
    ]  # fmt: skip
    with resumable.ResumableWork(tmp_path / "p", {}) as work:
        assert work.piece("kept", {}).load("state")["n"] == 3


@pytest.fixture
def process(monkeypatch):
    """Sets which of two processes this is; gives what they agreed on."""
    agreed = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(resumable.multihost_utils, "sync_global_devices", agreed.append)

    def set_up(index):
        monkeypatch.setattr(jax, "process_index", lambda: index)
        return agreed

    return set_up


def test_process_0_alone_writes_and_says_what_is_there(tmp_path, monkeypatch, process):
    told = []
    monkeypatch.setattr(
        parallel, "tell_bytes", lambda content: told.append(content) or told[0]
    )  # of process 0 first

    def work_that_is_ended(index):
        with resumable.ResumableWork(tmp_path / "p", {}) as work:
            work.save(f"of_{index}", {"x": X})
            work.save_state(f"state_of_{index}", {"x": X})
            rows = work.array_file(f"rows_of_{index}", (4, 3), np.int16)
            assert (rows.shape, rows.dtype) == (((4, 3), (0, 3))[index], np.int16)
            np.testing.assert_array_equal(work.load("of_0")["x"], X)
            raise KeyboardInterrupt

    for index in (0, 1):
        agreed = process(index)
        with pytest.raises(KeyboardInterrupt):
            work_that_is_ended(index)
    assert len(agreed) == 2
    assert told[1] is None
    names = ["fingerprint.json", "of_0.npz", "rows_of_0.npy", "state_of_0.npz"]
    assert sorted(os.listdir(tmp_path / "p")) == names
    with resumable.ResumableWork(tmp_path / "p", {"other": 1}):
        pass
    assert sorted(os.listdir(tmp_path / "p")) == names  # this is process 1


def test_batches_of_all_processes_are_gathered_in_their_order(monkeypatch, process):
    """Types of 64 bits as they are, short batches filled up, whatever way rows lie in memory."""
    process(0)
    other = {"n": np.array([7, 2**40, 5]), "x": np.arange(18.0).reshape(3, 2, 3)}
    own = {"n": np.array([2**50, 1]), "x": -np.arange(12.0).reshape(3, 2, 2).T}

    def gather(tree):
        return {
            name: np.asfortranarray([rows, other[name].ravel().view(np.uint8)])
            for name, rows in tree.items()
        }

    monkeypatch.setattr(resumable.multihost_utils, "process_allgather", gather)
    first, second = resumable._gathered(own, 3)
    assert (first["n"].tolist(), first["n"].dtype) == ([2**50, 1, 2**50], np.int64)
    np.testing.assert_array_equal(first["x"][:2], own["x"])
    assert first["x"].shape == (3, 2, 3)
    for name, values in second.items():
        np.testing.assert_array_equal(values, other[name])


def test_two_processes_share_the_batches(tmp_path, monkeypatch, process):
    """8 and 8 of the 21 examples, then 5 and the last one once more, which is not counted."""
    process(0)
    others = [slice(8, 16), slice(20, 21)] * 2

    def gathered(values, batch_size):
        part = others.pop(0)
        told = {"x": X[part]} if "x" in values else square(2, X[part], np.arange(21)[part])
        return [{k: np.resize(v, batch_size) for k, v in batch.items()} for batch in (values, told)]

    monkeypatch.setattr(resumable, "_gathered", gathered)
    monkeypatch.setattr(parallel, "all_true", bool)
    monkeypatch.setattr(parallel, "tell_bytes", lambda content: content)
    found = run(tmp_path / "map", {})
    np.testing.assert_array_equal(found["square"], 2 * X**2)
    np.testing.assert_array_equal(found["index"], np.arange(21))
    measured = []
    found = total_of(tmp_path / "fold", {}, measured)
    assert measured == [(0, 8), (16, 21)]
    assert (found["num"], found["sum"]) == (21, X.sum())
    assert others == []
