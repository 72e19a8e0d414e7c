"""Who joins the processes of one command."""

import contextlib
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
