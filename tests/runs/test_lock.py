"""One command at a time in a directory; locks that were left behind are told apart."""

import json
import multiprocessing
import os
import threading
import time

import pytest

from ebm_jax.runs import lock
from ebm_jax.runs.lock import Lock
from ebm_jax.runs.settings import ConfigError


def held_by(path, **changes):
    """A lock as another process would have written it."""
    holder = {**lock._process(), "token": "theirs", "since": "2026-01-01 00:00:00", **changes}
    (path / ".lock").write_text(json.dumps(holder))
    return holder


def test_it_is_there_while_it_is_held_and_then_gone(tmp_path):
    with Lock(tmp_path) as held:
        held.check()
        with pytest.raises(ConfigError, match=rf"is in use by process {os.getpid()} on .* since"):
            Lock(tmp_path).__enter__()
        assert os.listdir(tmp_path) == [".lock"]
        assert not held._ended.is_set()
    assert os.listdir(tmp_path) == []
    assert held._ended.is_set()  # no heartbeat goes on
    with pytest.raises(RuntimeError, match="as it was"), Lock(tmp_path):
        raise RuntimeError("as it was")
    assert os.listdir(tmp_path) == []


def test_a_process_of_this_machine_that_is_gone(tmp_path):
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    started = lock._started(process.pid)
    process.join()
    held_by(tmp_path, pid=process.pid, started=started)
    with Lock(tmp_path):
        pass
    held_by(tmp_path, started="0")  # its number is ours by now
    with Lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


def test_another_machine_is_known_by_its_heartbeat(tmp_path):
    held_by(tmp_path, host="elsewhere", pid=1)
    with pytest.raises(ConfigError, match="is in use by process 1 on elsewhere since 2026-01-01"):
        Lock(tmp_path).__enter__()
    long_ago = time.time() - 1_000
    os.utime(tmp_path / ".lock", (long_ago, long_ago))
    with Lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "no json"])
def test_damaged_locks_are_kept_for_a_while(content, tmp_path):
    (tmp_path / ".lock").write_text(content)
    with pytest.raises(ConfigError, match="is in use by another command"):
        Lock(tmp_path).__enter__()
    os.utime(tmp_path / ".lock", (1, 1))
    with Lock(tmp_path):
        pass


def test_the_heart_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_HEARTBEAT", 0.01)
    with Lock(tmp_path):
        os.utime(tmp_path / ".lock", (1, 1))
        for _ in range(500):
            if (tmp_path / ".lock").stat().st_mtime > 1:
                break
            time.sleep(0.01)
        assert (tmp_path / ".lock").stat().st_mtime > 1


def test_whoever_stood_still_learns_that_it_was_taken_over(tmp_path):
    with Lock(tmp_path) as held:
        held_by(tmp_path, host="elsewhere")
        with pytest.raises(ConfigError, match=r"was taken over by process .* on elsewhere"):
            held.check()
    assert json.loads((tmp_path / ".lock").read_text())["host"] == "elsewhere"  # not ours to remove


def test_of_many_at_once_one_gets_it(tmp_path):
    """Also where all of them find one that was left behind."""
    for left_behind in (False, True):
        if left_behind:
            held_by(tmp_path, started="0")
        barrier, got = threading.Barrier(8), []

        def attempt(barrier=barrier, got=got):
            barrier.wait()
            try:
                got.append(Lock(tmp_path).__enter__())
            except ConfigError:
                pass

        threads = [threading.Thread(target=attempt) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 1
        got[0].__exit__()
        assert os.listdir(tmp_path) == []


def test_a_removal_that_was_killed_does_not_lock_for_ever(tmp_path):
    """Its mark is taken away once it is old; a new one belongs to somebody at work."""
    held_by(tmp_path, started="0")
    mark = tmp_path / ".lock.removing"
    mark.touch()
    with pytest.raises(ConfigError, match="is in use by"):
        Lock(tmp_path).__enter__()
    os.utime(mark, (0, 0))
    with Lock(tmp_path):
        assert os.listdir(tmp_path) == [".lock"]


def test_a_lock_whose_age_cannot_be_told_is_held(tmp_path, monkeypatch):
    held_by(tmp_path, host="elsewhere")
    os.utime(tmp_path / ".lock", (1, 1))
    waiting = Lock(tmp_path)
    assert waiting._age(tmp_path / ".lock") > 1_000
    assert waiting._age(tmp_path / "gone") == 0
    assert os.listdir(tmp_path) == [".lock"]

    def read_only(path):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(lock.pathlib.Path, "touch", read_only)
    with pytest.raises(ConfigError, match="is in use by process"):
        waiting.__enter__()


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    """The lock is written in place, with its holder in it."""

    def link(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(lock.os, "link", link)
    with Lock(tmp_path) as held:
        assert json.loads((tmp_path / ".lock").read_text()) == held._me
        held.check()
        with pytest.raises(ConfigError, match=rf"is in use by process {os.getpid()} on "):
            Lock(tmp_path).__enter__()
        assert os.listdir(tmp_path) == [".lock"]
    assert os.listdir(tmp_path) == []


def test_two_minutes_without_a_heartbeat(tmp_path):
    """Also of a lock that says too little to know its process by."""
    now = time.time()
    for changes in ({"host": "elsewhere"}, {"namespace": "another"}):
        held_by(tmp_path, **changes)
        os.utime(tmp_path / ".lock", (now - 100, now - 100))
        with pytest.raises(ConfigError, match="is in use by process"):
            Lock(tmp_path).__enter__()
        os.utime(tmp_path / ".lock", (now - 125, now - 125))
        with Lock(tmp_path):
            pass
    partly = held_by(tmp_path, started="0")
    for name in ("host", "namespace", "pid", "started", "since"):
        content = {key: value for key, value in partly.items() if key != name}
        (tmp_path / ".lock").write_text(json.dumps(content))
        assert lock._holder(tmp_path / ".lock") == {}
    assert lock._holder(tmp_path / "nothing") is None


def test_whoever_has_no_lock_touches_none(tmp_path, monkeypatch):
    theirs = held_by(tmp_path, host="elsewhere")
    os.utime(tmp_path / ".lock", (1, 1))
    waiting = Lock(tmp_path)
    waiting.check()
    waiting.__exit__()
    waiting._remove({**theirs, "token": "another"})
    monkeypatch.setattr(lock, "_HEARTBEAT", 0)
    Lock(tmp_path)._beat()
    assert (tmp_path / ".lock").stat().st_mtime == 1
    assert json.loads((tmp_path / ".lock").read_text()) == theirs
    assert os.listdir(tmp_path) == [".lock"]
    waiting._remove(theirs)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_is_said(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lock.pathlib.Path, "write_text", full)
    with pytest.raises(ConfigError) as error:
        Lock(tmp_path).__enter__()
    assert str(error.value) == f"workdir {tmp_path} cannot be written: No space left on device"


@pytest.mark.parametrize("state", ["Z", "X", "R"])
def test_a_process_that_has_ended_but_is_not_waited_for(state, monkeypatch):
    """Its name may hold anything; field 22 is when it started."""
    fields = [state, *map(str, range(4, 40))]
    content = f"12 (a) b) {' '.join(fields)}"
    monkeypatch.setattr(lock.pathlib.Path, "read_text", lambda path: content)
    assert lock._started(12) == ("22" if state == "R" else None)


@pytest.mark.parametrize(
    ("error", "started"), [(None, ""), (PermissionError, ""), (ProcessLookupError, None)]
)
def test_processes_of_a_system_without_a_folder_of_them(error, started, monkeypatch):
    """A signal that does nothing tells whether one is there, be it somebody else's."""
    asked = []

    def kill(pid, number):
        asked.append((pid, number))
        if error:
            raise error

    monkeypatch.setattr(lock.pathlib.Path, "read_text", lambda path: "")
    monkeypatch.setattr(lock.os, "kill", kill)
    assert lock._started(12) is None  # where there is such a folder
    monkeypatch.setattr(lock.os.path, "isdir", lambda path: path != "/proc/self")
    assert asked == []
    assert lock._started(12) == started
    assert asked == [(12, 0)]
