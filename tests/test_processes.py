"""Who joins the processes of one command."""

import contextlib
import json
import socket
import threading
import types

import jax
import pytest

from ebm_jax import parallel, processes


@pytest.fixture
def told(monkeypatch):
    """What process 0 tells, in place of a broadcast, of three processes on this host."""
    said = types.SimpleNamespace(content=b"", done=threading.Event())

    def tell_bytes(content):
        if content is None:
            assert said.done.wait(10)
        else:
            said.content = content
            said.done.set()
        return said.content

    monkeypatch.setattr(parallel, "tell_bytes", tell_bytes)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    at = types.SimpleNamespace(coordinator_address="127.0.0.1:1")
    monkeypatch.setattr(processes, "global_state", at)
    monkeypatch.setattr(processes, "_INTRODUCTION_SECONDS", 0.2)
    return said


def test_strangers_are_turned_away_and_the_processes_found(told, monkeypatch):
    """A scan, one that says nothing, one that goes at once, one with another word."""
    found = {}
    accepting = threading.Thread(target=lambda: found.update(processes._accept()))
    accepting.start()
    assert told.done.wait(10)
    port = int(told.content.split()[0])
    strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(4)]
    strangers[0].sendall(b"GET / HTTP/1.1\r\nHost: here, at this port\r\n\r\n" * 10)
    strangers[1].close()
    strangers[2].sendall(b"1 " + b"0" * 32 + b"\n")
    ours = {}
    for process in (2, 1):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        ours[process] = processes._connect()
    accepting.join(10)
    assert sorted(found) == [1, 2]
    for stranger in (strangers[0], strangers[2], strangers[3]):
        stranger.settimeout(10)
        with contextlib.suppress(ConnectionResetError):  # what it said was not all read
            assert stranger.recv(1) == b""
    for process, connection in ours.items():
        connection.write(f"from {process}\n".encode())
        assert found[process].readline() == f"from {process}\n".encode()
    for one in (*strangers, *found.values(), *ours.values()):
        one.close()


def test_words_differ_and_cannot_be_guessed(told, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 1)  # none is waited for
    words = []
    for _ in range(2):
        assert processes._accept() == {}
        words.append(told.content.split()[1])
    assert [len(word) for word in words] == [32, 32]
    assert words[0] != words[1]


@pytest.fixture
def listen(monkeypatch, capsys):
    """What process 1 does after process 0 has sent this and gone: (waits, exit codes, said)."""
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    waits, codes = [], []
    monkeypatch.setattr(processes.time, "sleep", waits.append)
    monkeypatch.setattr(processes.os, "_exit", codes.append)

    def told(content):
        ours, theirs = socket.socketpair()
        theirs.sendall(content)
        theirs.shutdown(socket.SHUT_WR)
        watch = processes._Watch({})
        watch._connections = {0: processes._as_file(ours)}
        watch._gone = {0: threading.Event()}
        watch._listen(0)
        assert watch._gone[0].is_set()
        passed_on = b""
        if codes:
            theirs.settimeout(10)
            passed_on = theirs.recv(1000)
        for one in (ours, theirs):
            one.close()
        return waits, codes, capsys.readouterr().err, passed_on

    return told


def test_a_process_that_is_told_why_another_ends_may_first_say_so_itself(listen):
    """Where all find the same fault, each prints its own message; the others are told later."""
    waits, codes, said, passed_on = listen(b'{"message": "no data here", "code": 2}\n')
    assert waits == [processes._GRACE_SECONDS]
    assert codes == [2]
    assert said == "main.py: no data here\n"
    assert json.loads(passed_on) == {"message": "no data here", "code": 2}


@pytest.mark.parametrize("content", [b"", b'{"message": "cut sho'], ids=["nothing", "half a line"])
def test_a_process_whose_other_was_killed_ends_at_once(listen, content):
    waits, codes, said, _ = listen(content)
    assert waits == []
    assert codes == [1]
    assert said.startswith("main.py: process 0 of 2 ended without a word; the same command goes on")


def test_a_process_whose_other_has_done_its_work_goes_on(listen):
    waits, codes, said, _ = listen(b'{"done": true}\n')
    assert (waits, codes, said) == ([], [], "")


@pytest.mark.parametrize("number", [1, 3])
def test_processes_that_join_connect_their_devices_first(monkeypatch, number):
    """By what the environment says, of which an empty value says none; one alone has no watch."""
    done = []
    monkeypatch.setattr(processes, "_watch", None)
    monkeypatch.setenv("JAX_NUM_PROCESSES", str(number))
    monkeypatch.setenv("JAX_PROCESS_ID", "")
    monkeypatch.setattr(jax.distributed, "initialize", lambda **said: done.append(said))
    monkeypatch.setattr(jax, "process_count", lambda: number)
    monkeypatch.setattr(jax, "process_index", lambda: number - 1)
    monkeypatch.setattr(processes, "_connect_devices", lambda: done.append("devices"))
    monkeypatch.setattr(processes, "_connect", lambda: done.append("process 0"))
    monkeypatch.setattr(processes, "_Watch", lambda found: types.SimpleNamespace(finish=found))
    monkeypatch.setattr(processes.atexit, "register", done.append)
    processes.join()
    joined = {"num_processes": number, "process_id": None}
    if number == 1:
        assert done == [joined]
        assert processes._watch is None
    else:
        assert done == [joined, "devices", "process 0", {0: None}]
        assert processes._watch is not None
