"""Checkpoints: bit-identical round trips, and what happens when something goes wrong."""

import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint._src.path import atomicity

from ebm_jax import parallel
from ebm_jax.training.checkpoint_files import (
    ArchitectureError,
    CheckpointError,
    DamagedCheckpointError,
    NonFiniteError,
    without_patterns,
)
from ebm_jax.training.checkpoints import Checkpoints


class Moments(NamedTuple):
    count: Any
    mean: Any


class State(NamedTuple):
    step: Any
    params: Any
    moments: Any
    buffer: Any
    nothing: Any = ()
    none: Any = None


def make_state(seed: int = 0, channels: int = 24) -> State:
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(3, 3, 1, channels)).astype(np.float32)
    return State(
        step=np.asarray(seed, np.int32),
        params={
            "conv_0": {"kernel": kernel, "bias": rng.normal(size=channels).astype(np.float32)},
            "half": rng.normal(size=(4, 5)).astype(ml_dtypes.bfloat16),
        },
        moments=(Moments(np.asarray(7, np.int64), {"k": kernel * 1e-30}), (), Moments((), None)),
        buffer=rng.integers(0, 256, size=(6, 8, 8, 1), dtype=np.uint8),
        nothing=((), {"empty": np.zeros((0, 3), np.float32), "flag": np.asarray(True)}),
    )


def assert_identical(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        b = np.asarray(b)
        assert isinstance(a, np.ndarray)
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert a.tobytes() == b.tobytes()


def array_files(directory: Path, step: int) -> list[Path]:
    """The files that hold the arrays' bytes, largest first."""
    files = [path for path in (directory / str(step) / "state").glob("**/d/*") if path.is_file()]
    return sorted(files, key=lambda path: -path.stat().st_size)


def save_steps(directory, steps, **options):
    with Checkpoints(directory, keep_latest=10, **options) as checkpoints:
        for step in steps:
            assert checkpoints.save(step, make_state(step))


@pytest.mark.parametrize("async_save", [True, False])
def test_round_trip_is_bit_identical(tmp_path, async_save):
    state = make_state(3)
    # Values that only survive if bits do: subnormals, a negative zero, the largest float.
    state.params["conv_0"]["bias"][:4] = [1e-45, -0.0, np.finfo(np.float32).max, 1 + 2**-23]
    options = {"keep_latest": 2, "async_save": async_save, "config": {"lr": 1e-4, "ch": (1, 2)}}
    with Checkpoints(tmp_path / "checkpoints", **options) as checkpoints:
        assert checkpoints.save(12, state)
        assert async_save or (tmp_path / "checkpoints" / "12").is_dir()
        state.params["conv_0"]["bias"][4] += 1.0  # after save has returned: not what was saved
        step, found = checkpoints.restore_latest(make_state(0))
    state.params["conv_0"]["bias"][4] -= 1.0
    assert step == 12
    state.params["conv_0"]["bias"][4] = found.params["conv_0"]["bias"][4]
    assert_identical(found, state)
    assert found.params["conv_0"]["bias"][4] == make_state(3).params["conv_0"]["bias"][4]

    # Another process's view: nothing but the disk; a template of shapes alone.
    fresh = Checkpoints(tmp_path / "checkpoints", keep_latest=2)
    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state)
    assert fresh.steps() == [12]
    assert_identical(fresh.restore(12, template), state)
    assert fresh.config(12) == {"lr": 1e-4, "ch": [1, 2]}


def test_jax_arrays_and_python_numbers_come_back_as_arrays(tmp_path):
    state = {"x": jax.numpy.arange(6.0).reshape(2, 3), "n": 5, "lr": 1e-3}
    with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
        checkpoints.save(1, state)
        assert_identical(checkpoints.restore(1, state), state)


def test_orbax_alone_reads_the_arrays(tmp_path):
    """Nobody is locked in: the arrays are an ordinary Orbax checkpoint, keyed by their paths."""
    directory = tmp_path / "a folder 100% unusual"
    with Checkpoints(directory, keep_latest=1) as checkpoints:
        checkpoints.save(1, make_state(1))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        found = reader.restore(directory / "1" / "state")
    wanted = make_state(1)
    assert_identical(found["params/conv_0/kernel"], wanted.params["conv_0"]["kernel"])
    assert_identical(found["params/half"], wanted.params["half"])
    assert_identical(found["moments/0/count"], wanted.moments[0].count)
    assert_identical(Checkpoints(directory, keep_latest=1).restore(1, wanted), wanted)


def test_nothing_saved_reads_as_none_and_leaves_no_trace(tmp_path):
    directory = tmp_path / "checkpoints"
    with Checkpoints(directory, keep_latest=3) as checkpoints:
        assert checkpoints.restore_latest(make_state()) is None
        assert checkpoints.steps() == []
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 5 in .*there are none"):
            checkpoints.restore(5, make_state())
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 5 in .*there are none"):
            checkpoints.config(5)
        checkpoints.wait()
    assert not directory.exists()


def test_rotation_keeps_the_newest_and_the_pinned(tmp_path):
    with Checkpoints(tmp_path, keep_latest=2, pin_every=40) as checkpoints:
        for step in range(10, 101, 10):
            checkpoints.save(step, make_state(step), pinned=step == 30)
        assert checkpoints.steps() == [30, 40, 80, 90, 100]
    # Pins live in the checkpoints: a later run without pin_every still keeps them.
    with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
        checkpoints.save(110, make_state(110))
        assert checkpoints.steps() == [30, 40, 80, 110]
        assert_identical(checkpoints.restore(30, make_state()), make_state(30))


def test_saving_a_step_twice_changes_nothing_and_an_earlier_one_is_refused(tmp_path):
    with Checkpoints(tmp_path, keep_latest=3) as checkpoints:
        assert checkpoints.save(10, make_state(10))
        assert not checkpoints.save(10, make_state(11))
        with pytest.raises(CheckpointError, match="holds step 10 already"):
            checkpoints.save(9, make_state(9))
        assert_identical(checkpoints.restore(10, make_state()), make_state(10))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("leaf", ["kernel", "half"])
def test_non_finite_is_refused_and_rotates_nothing_away(tmp_path, value, leaf):
    with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
        checkpoints.save(10, make_state(10))
        bad = make_state(20)
        array = bad.params["half"] if leaf == "half" else bad.params["conv_0"]["kernel"]
        array[-1, -1] = value
        with pytest.raises(NonFiniteError, match=rf"{leaf} has non-finite.*last good.*/10$"):
            checkpoints.save(20, bad, pinned=True)
        with pytest.raises(NonFiniteError, match=r"values; there is no checkpoint yet$"):
            Checkpoints(tmp_path / "new", keep_latest=1).save(20, bad)
        assert checkpoints.steps() == [10]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["10"]
        # The run can go on: the same step with finite values is saved.
        assert checkpoints.save(20, make_state(20))
        assert checkpoints.steps() == [20]


def truncate(directory, step):
    path = array_files(directory, step)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def remove_array_index(directory, step):
    (directory / str(step) / "state" / "manifest.ocdbt").unlink()


def remove_manifest(directory, step):
    (directory / str(step) / "manifest" / "metadata").unlink()


def edit_manifest(directory, step):
    path = directory / str(step) / "manifest" / "metadata"
    path.write_text(path.read_text().replace('"pinned": false', '"pinned": true'))


def empty_manifest(directory, step):
    (directory / str(step) / "manifest" / "metadata").write_text("")


DAMAGE = [truncate, remove_array_index, remove_manifest, edit_manifest, empty_manifest]


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_newest_falls_back_in_one_line(tmp_path, damage, caplog):
    save_steps(tmp_path, [10, 20, 30])
    damage(tmp_path, 30)
    with Checkpoints(tmp_path, keep_latest=10) as checkpoints:
        with pytest.raises(DamagedCheckpointError) as error:
            checkpoints.restore(30, make_state())
        assert "\n" not in str(error.value)
        assert "30 is damaged" in str(error.value)
        caplog.clear()
        step, state = checkpoints.restore_latest(make_state())
        said = caplog.messages
        assert len(said) == 1, said
        assert re.search(r"/30 is damaged: .*; trying step 20 instead", said[0])
        assert step == 20
        assert_identical(state, make_state(20))
        assert (tmp_path / "30").exists()  # reading alone changes nothing
        # Training goes on from 20 and saves 30 anew.
        assert checkpoints.save(30, make_state(30))
        assert_identical(checkpoints.restore(30, make_state()), make_state(30))
        assert checkpoints.steps() == [10, 20, 30]
        assert (tmp_path / "damaged-30").is_dir()


def test_flipped_bytes_never_come_back_as_values(tmp_path):
    """Orbax hands some of these back silently: whatever bit flips, the old state or an error."""
    state = {"x": np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32)}
    with Checkpoints(tmp_path, keep_latest=3) as checkpoints:
        checkpoints.save(1, state)
    path = array_files(tmp_path, 1)[0]
    good = path.read_bytes()
    caught = 0
    for position in np.linspace(0, len(good) - 1, 25).astype(int):
        flipped = bytearray(good)
        flipped[position] ^= 0x10
        path.write_bytes(flipped)
        try:
            assert_identical(Checkpoints(tmp_path, keep_latest=3).restore(1, state), state)
        except DamagedCheckpointError:
            caught += 1
    assert caught >= 20  # the rest hit bytes that carry no value


def test_checksum_catches_what_orbax_restores_silently(tmp_path):
    """A checkpoint that Orbax finds in perfect order, with other values than the manifest's."""
    state = {"x": np.arange(8, dtype=np.float32)}
    save = Checkpoints(tmp_path, keep_latest=3)
    with save:
        save.save(1, state)
    other = {"x": np.arange(8, dtype=np.float32)}
    other["x"][5] = np.nextafter(np.float32(5), np.float32(6))  # one bit
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as writer:
        writer.save(tmp_path / "1" / "state", args=ocp.args.PyTreeSave(other), force=True)
    with pytest.raises(DamagedCheckpointError, match=r"1 is damaged: x is not .*\(checksum\)"):
        Checkpoints(tmp_path, keep_latest=3).restore(1, state)


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path, caplog):
    save_steps(tmp_path, [10, 20])
    truncate(tmp_path, 10)
    remove_manifest(tmp_path, 20)
    with pytest.raises(CheckpointError, match=r"all 2 checkpoints in .* \(steps 10, 20\)"):
        Checkpoints(tmp_path, keep_latest=3).restore_latest(make_state())
    assert ["trying" in said for said in caplog.messages[-2:]] == [True, False]


def change_shape(state):
    return make_state(channels=32)


def change_dtype(state):
    return state._replace(buffer=state.buffer.astype(np.int8))


def add_leaf(state):
    state.params["conv_1"] = {"kernel": np.zeros((3, 3, 24, 24), np.float32)}
    return state


def drop_leaf(state):
    del state.params["half"]
    return state


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (change_shape, "params/conv_0/bias is float32[24] in it and float32[32] is wanted"),
        (change_dtype, "buffer is uint8[6,8,8,1] in it and int8[6,8,8,1] is wanted"),
        (add_leaf, "params/conv_1/kernel (float32[3,3,24,24]) is wanted and is not in it"),
        (drop_leaf, "params/half (bfloat16[4,5]) is in it and is not wanted"),
    ],
)
def test_another_architecture_is_refused_by_the_first_leaf(tmp_path, change, says):
    save_steps(tmp_path, [10, 20])
    with Checkpoints(tmp_path, keep_latest=3) as checkpoints:
        with pytest.raises(ArchitectureError) as error:
            checkpoints.restore_latest(change(make_state()))
        assert says in str(error.value)
        assert str(tmp_path / "20") in str(error.value)
        assert "\n" not in str(error.value)


def test_one_part_of_the_state_alone(tmp_path, monkeypatch):
    """The rest is not compared, and not read: damage in it does not matter."""
    state = {"params": {"w": np.arange(3.0)}, "rest": np.ones((2, 5))}
    with Checkpoints(tmp_path, keep_latest=2) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        opened, plain = [], tensorstore.open
        monkeypatch.setattr(
            tensorstore,
            "open",
            lambda spec, **how: opened.append((spec, how)) or plain(spec, **how),
        )
        found = checkpoints.restore(1, {"w": np.zeros(3)}, part="params")
        ((spec, how),) = opened
        assert spec["kvstore"]["path"] == "params/w/"
        assert how == {"open": True, "read": True}  # for reading alone
        np.testing.assert_array_equal(found["w"], np.arange(3.0))
        step, found = checkpoints.restore_latest({"w": np.zeros(3)}, part="params")
        assert (step, found["w"].tolist()) == (1, [0, 1, 2])
        with pytest.raises(
            ArchitectureError, match=r"params/w is float64\[3\] in it and float64\[4\]"
        ):
            checkpoints.restore(1, {"w": np.zeros(4)}, part="params")
        with pytest.raises(ArchitectureError, match=r"ema/w \(float64\[3\]\) is wanted"):
            checkpoints.restore(1, {"w": np.zeros(3)}, part="ema")


def test_what_cannot_be_stored_is_refused(tmp_path):
    with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
        with pytest.raises(TypeError, match="key is a PRNG key"):
            checkpoints.save(1, {"key": jax.random.key(0)})
        with pytest.raises(TypeError, match="name is a str"):
            checkpoints.save(1, {"name": "a"})
        with pytest.raises(ValueError, match="a/b"):
            checkpoints.save(1, {"a": {"b": np.ones(1)}, "a/b": np.ones(1)})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="keep_latest is 0"):
        Checkpoints(tmp_path, keep_latest=0)
    with pytest.raises(ValueError, match="pin_every is 0"):
        Checkpoints(tmp_path, keep_latest=1, pin_every=0)
    Checkpoints(tmp_path, keep_latest=1, pin_every=1)


def test_a_failed_write_is_one_line_and_the_run_can_go_on(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
        checkpoints.save(10, make_state(10))
        checkpoints.wait()

        async def disk_full(self):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", disk_full)
            checkpoints.save(20, make_state(20))
            with pytest.raises(CheckpointError, match=r"step 20 could not be written.*No space"):
                checkpoints.wait()
        assert checkpoints.steps() == [10]
        assert checkpoints.save(30, make_state(30))
        assert checkpoints.steps() == [30]
    assert len(os.listdir(tmp_path)) == 2  # what was not finished
    with Checkpoints(tmp_path, keep_latest=1) as later:
        assert later.save(40, make_state(40))
    assert os.listdir(tmp_path) == ["40"]


KILLED = """
import sys, numpy as np
from ebm_jax.training.checkpoints import Checkpoints
big = {"x": np.random.default_rng(0).normal(size=12_000_000).astype(np.float32)}
checkpoints = Checkpoints(sys.argv[1], keep_latest=1)
checkpoints.save(1, {"x": big["x"] * 0 + 1})
checkpoints.wait()
print("first saved", flush=True)
sys.stdin.readline()
checkpoints.save(2, big)
print("second begun", flush=True)
checkpoints.wait()
print("second saved", flush=True)
"""


def test_kill_during_a_save_leaves_the_previous_intact(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "first saved\n"
        process.stdin.write("go\n")
        process.stdin.flush()
        deadline = time.monotonic() + 30
        while not any("tmp" in name for name in os.listdir(tmp_path)):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        said = process.communicate(timeout=30)[0]
    finally:
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert "second saved" not in said
    assert any("tmp" in name for name in os.listdir(tmp_path))  # it was killed in the middle
    template = {"x": jax.ShapeDtypeStruct((12_000_000,), np.float32)}
    with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
        step, state = checkpoints.restore_latest(template)
        assert step == 1
        np.testing.assert_array_equal(state["x"], np.ones(12_000_000, np.float32))
        # What the kill left behind goes with the next save, which may be of the same step.
        assert checkpoints.save(2, state)
        assert checkpoints.steps() == [2]
    assert os.listdir(tmp_path) == ["2"]


def test_a_step_that_is_damaged_twice_is_set_aside_twice(tmp_path):
    """By one that has saved before, as when a run goes back after a divergence."""
    with Checkpoints(tmp_path, keep_latest=10) as checkpoints:
        checkpoints.save(10, make_state(10))
        for i, seed in enumerate((20, 21)):
            assert checkpoints.save(20, make_state(seed))
            checkpoints.wait()
            truncate(tmp_path, 20)
            step, _ = checkpoints.restore_latest(make_state())
            assert step == 10
            assert (tmp_path / "damaged-20").exists() == (i == 1)
        assert checkpoints.save(20, make_state(22))
        assert_identical(checkpoints.restore(20, make_state()), make_state(22))
        assert checkpoints.steps() == [10, 20]
    assert sorted(os.listdir(tmp_path)) == ["10", "20", "damaged-20"]


@pytest.mark.parametrize("error", [None, RuntimeError("the loss is not finite")])
def test_a_write_that_fails_at_the_end_hides_no_other_error(tmp_path, monkeypatch, caplog, error):
    async def disk_full(self):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", disk_full)
    expected = "step 20 could not be written" if error is None else str(error)

    def train():
        with Checkpoints(tmp_path, keep_latest=1) as checkpoints:
            checkpoints.save(20, make_state(20))
            if error is not None:
                raise error

    with pytest.raises((CheckpointError, RuntimeError), match=expected) as raised:
        train()
    assert isinstance(raised.value, CheckpointError) == (error is None)
    assert ("step 20 could not be written" in caplog.text) == (error is not None)


def test_directories_are_absolute_or_addresses(tmp_path, monkeypatch):
    """An address of a bucket stays as it is, whatever letters it has."""
    monkeypatch.chdir(tmp_path)
    assert str(Checkpoints("runs/x", keep_latest=1).directory) == f"{tmp_path}/runs/x"
    for address in ("gs://bucket/run", "gs://bucket/run[1]"):
        assert str(Checkpoints(address, keep_latest=1).directory) == address
        assert str(without_patterns(epath.Path(address))) == address


@pytest.mark.parametrize("name", ["run[1]", "a*b", "a?", "back\\slash", "]"])
def test_a_name_that_storage_does_not_take_is_linked_to(tmp_path, monkeypatch, name):
    """Privately, the same for every command; a link that is another's is not followed."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    directory = epath.Path(tmp_path / name)
    links = [without_patterns(directory) for _ in range(2)]
    assert links[0] == links[1]
    assert os.readlink(links[0]) == str(directory)
    assert isinstance(links[0], epath.Path)
    assert stat.S_IMODE(os.lstat(links[0].parent).st_mode) == 0o700
    assert links[0].parent.name.startswith(f"ebm_jax_{os.getuid()}_")
    assert without_patterns(epath.Path(tmp_path / "plain")) == epath.Path(tmp_path / "plain")
    expected = rf"^{re.escape(str(directory))}: expected a name without \[ \] \* \? .*, or a direct"
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: 12345)  # who made neither folder nor link
        os.rename(links[0].parent, re.sub(r"jax_\d+", "jax_12345", str(links[0].parent)))
        with pytest.raises(CheckpointError, match=expected):
            without_patterns(directory)
    without_patterns(directory)
    links[0].unlink()
    os.symlink(tmp_path, links[0])
    with pytest.raises(CheckpointError, match=expected):
        without_patterns(directory)
    (tmp_path / "odd[1]").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "odd[1]"))
    with pytest.raises(CheckpointError, match=expected):
        without_patterns(directory)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere" / "file"))
    (tmp_path / "nowhere").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot be linked to: \[Errno 20\] Not a directory"):
        without_patterns(directory)


def test_a_directory_with_letters_of_patterns_holds_checkpoints(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    directory = tmp_path / "new" / "run[1]"
    for step in (1, 2):
        with Checkpoints(directory, keep_latest=3) as checkpoints:
            assert checkpoints.save(step, {"x": np.full(3, step)})
    assert sorted(os.listdir(directory)) == ["1", "2"]
    found = Checkpoints(directory, keep_latest=3).restore(1, {"x": np.zeros(3, int)})
    np.testing.assert_array_equal(found["x"], np.ones(3))


def test_process_0_reads_and_tells_the_others(tmp_path, monkeypatch, caplog):
    """What another process sees of the directory, here nothing, does not enter."""
    state = make_state(7)
    with Checkpoints(tmp_path / "0", keep_latest=10, config={"lr": 0.5}) as checkpoints:
        for step in (8, 9, 16):
            checkpoints.save(step, make_state(step) if step > 8 else state)
    remove_manifest(tmp_path / "0", 16)
    truncate(tmp_path / "0", 9)
    told, agreed = [], []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(multihost_utils, "sync_global_devices", agreed.append)
    for index in (0, 1):
        replay = iter(list(told))

        def tell_bytes(content, index=index, replay=replay):
            if index == 0:
                told.append(content)
            return content if index == 0 else next(replay)

        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        monkeypatch.setattr(parallel, "tell_bytes", tell_bytes)
        caplog.clear()
        checkpoints = Checkpoints(tmp_path / str(index), keep_latest=10)
        step, found = checkpoints.restore_latest(make_state())
        assert step == 8
        assert_identical(found, state)
        found.buffer[0] = 1  # which may be changed
        assert len(caplog.messages) == (2 if index == 0 else 0)
        assert checkpoints.config(8) == {"lr": 0.5}
        with pytest.raises(ArchitectureError, match=r"/0/8 was made by another .*bias is float32"):
            checkpoints.restore(8, make_state(channels=32))
        with pytest.raises(DamagedCheckpointError, match="/0/9 is damaged: "):
            checkpoints.restore(9, make_state())
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 5 .* 8, 9, 16"):
            checkpoints.restore(5, make_state())
        assert next(replay, None) is None
        caplog.clear()
        checkpoints._set_damaged_aside()
        checkpoints._set_damaged_aside()  # there is nothing more to be done
        assert caplog.messages == [
            f"the damaged checkpoint of step {n} is now {tmp_path}/0/damaged-{n}"
            for n in ((9, 16) if index == 0 else ())
        ]
    assert len(agreed) == 2
    assert sorted(os.listdir(tmp_path)) == ["0"]
    assert sorted(os.listdir(tmp_path / "0")) == ["8", "damaged-16", "damaged-9"]
