"""Who joins the processes of one command."""

import contextlib
import io
import json
import signal
import socket
import sys
import threading
import types

import jax
import numpy as np
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
    """On a port of the system's choice, by whatever way there is to this host, a minute long."""
    monkeypatch.setattr(jax, "process_count", lambda: 1)  # none is waited for
    words, asked, plain = [], [], socket.create_server

    def create_server(address, **options):
        asked.append((address, options, plain(address, **options)))
        return asked[-1][2]

    monkeypatch.setattr(socket, "create_server", create_server)
    for is_dual in {False, socket.has_dualstack_ipv6()}:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda is_dual=is_dual: is_dual)
        assert processes._accept() == {}
        words.append(told.content.split()[1])
        address, options, listener = asked[-1]
        assert address == ("", 0)
        family = socket.AF_INET6 if is_dual else socket.AF_INET
        assert options == {"family": family, "dualstack_ipv6": is_dual, "backlog": 1 + 16}
        assert listener.gettimeout() == 60
    assert processes._accept() == {}
    words.append(told.content.split()[1])
    assert {len(word) for word in words} == {32}
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(
    ("said", "number"),
    [
        (b"3 word\n", 3), (b"3 word\nmore", 3), (b"103 word\n", None), (b"12 word\n", 12),
        (b"3 word", 3),
        (b"3 other\n", None), (b"x word\n", None), (b" word\n", None), (b"\xff\xfe\n", None),
        (b"", None), (b"12345678", None), (b"123456789", None),
    ],
)  # fmt: skip
def test_an_introduction_is_a_number_and_the_word(said, number):
    """In at most twice as many letters as the word has, the end of the line among them."""
    ours, theirs = socket.socketpair()
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    assert processes._introduction(ours, "word") == number
    if said == b"3 word\nmore":
        assert ours.recv(100) == b"more"
    assert ours.gettimeout() == 5
    if said == b"123456789":
        assert ours.recv(1) == b""  # what is longer is not read on, and this was not
    for one in (ours, theirs):
        one.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "a.host"])
def test_process_0_is_where_jax_found_it(told, monkeypatch, host):
    told.content = b"4321 word"
    told.done.set()
    monkeypatch.setattr(processes.global_state, "coordinator_address", f"{host}:77")
    monkeypatch.setattr(jax, "process_index", lambda: 2)
    ours, theirs = socket.socketpair()
    asked = []
    monkeypatch.setattr(
        socket,
        "create_connection",
        lambda *where, **options: asked.append((where, options)) or ours,
    )
    ours.settimeout(3)
    with processes._connect() as connection:
        assert isinstance(connection, io.RawIOBase)  # what is written goes at once
        assert ours.gettimeout() is None
        assert theirs.recv(100) == b"2 word\n"
    assert asked == [(((host.strip("[]"), 4321),), {"timeout": 60})]
    for one in (ours, theirs):
        one.close()


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
        assert watch._ending.locked() == bool(codes)  # no other thread ends it too
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
    assert waits == [2.0]
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


@pytest.fixture
def watched(monkeypatch):
    """(Watch of a process with two others, their ends, exit codes, signals that are ignored)."""
    codes, ignored, ends = [], [], []
    monkeypatch.setattr(processes.os, "_exit", codes.append)
    monkeypatch.setattr(signal, "signal", lambda *of: ignored.append(of))
    watch = processes._Watch({})
    for process in (1, 2):
        ours, theirs = socket.socketpair()
        theirs.settimeout(10)
        watch._connections |= {process: processes._as_file(ours)}
        ends += [ours, theirs]
    yield watch, ends[1::2], codes, ignored
    for one in (*watch._connections.values(), *ends):
        one.close()


def test_a_process_that_is_done_says_so_and_hears_no_signal(watched):
    watch, ends, codes, ignored = watched
    watch.finish()
    assert [end.recv(100) for end in ends] == [b'{"done": true}\n'] * 2
    assert ignored == [(signal.SIGTERM, signal.SIG_IGN)]
    assert codes == []


@pytest.mark.parametrize("index", [0, 1])
def test_a_process_that_fails_tells_all_and_process_0_waits_for_them(watched, monkeypatch, index):
    """Ten seconds for all; what was printed is seen; whoever is gone hinders none."""
    watch, ends, codes, _ = watched
    monkeypatch.setattr(jax, "process_index", lambda: index)
    clock, waits, flushed = [100.0], [], []

    class Gone:
        def wait(self, seconds):
            waits.append(seconds)
            clock[0] += 8

    class Closed:
        def flush(self):
            flushed.append(self)
            raise ValueError("I/O operation on closed file")

    monkeypatch.setattr(processes.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys, "stdout", Closed())
    monkeypatch.setattr(sys, "stderr", Closed())
    watch._gone = {process: Gone() for process in (1, 2, 3)}
    ends[0].close()
    watch.fail("no data here", 2)
    assert json.loads(ends[1].recv(100)) == {"message": "no data here", "code": 2}
    assert watch._ending.locked()
    assert codes == [2]
    assert waits == ([10, 2, 0] if index == 0 else [])
    assert len(flushed) == 2


def test_a_watch_listens_to_each_process_and_holds_up_no_end():
    ours, theirs = socket.socketpair()
    before = set(threading.enumerate())
    watch = processes._Watch({7: processes._as_file(ours)})
    (listening,) = set(threading.enumerate()) - before
    assert listening.daemon
    theirs.sendall(b'{"done": true}\n')
    theirs.close()
    assert watch._gone[7].wait(10)
    listening.join(10)
    ours.close()


def test_one_alone_fails_by_itself_and_waits_for_no_cause(monkeypatch):
    said, waits = [], []
    monkeypatch.setattr(processes.time, "sleep", waits.append)
    for watch in (None, types.SimpleNamespace(fail=lambda *of: said.append(of))):
        monkeypatch.setattr(processes, "_watch", watch)
        processes.fail("no data here", 2)
        processes.await_cause()
    assert (said, waits) == ([("no data here", 2)], [5.0])


def test_devices_are_connected_by_a_sum_that_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(jax, "block_until_ready", waited.append)
    processes._connect_devices()
    np.testing.assert_array_equal(waited, np.zeros((1, 8)))


@pytest.mark.parametrize(("number", "index"), [(1, None), (3, 2), (3, 0), (2, 1)])
def test_processes_that_join_connect_their_devices_first(monkeypatch, number, index):
    """By what the environment says, of which an empty value says none; one alone has no watch."""
    done = []
    monkeypatch.setattr(processes, "_watch", None)
    monkeypatch.setenv("JAX_NUM_PROCESSES", str(number))
    monkeypatch.setenv("JAX_PROCESS_ID", "" if index is None else str(index))
    monkeypatch.setattr(jax.distributed, "initialize", lambda **said: done.append(said))
    monkeypatch.setattr(jax, "process_count", lambda: number)
    monkeypatch.setattr(jax, "process_index", lambda: index or 0)
    monkeypatch.setattr(processes, "_connect_devices", lambda: done.append("devices"))
    monkeypatch.setattr(processes, "_connect", lambda: "process 0")
    monkeypatch.setattr(processes, "_accept", lambda: {1: "process 1", 2: "process 2"})
    monkeypatch.setattr(processes, "_Watch", lambda found: types.SimpleNamespace(finish=found))
    monkeypatch.setattr(processes.atexit, "register", done.append)
    processes.join()
    joined = {"num_processes": number, "process_id": index}
    if number == 1:
        assert done == [joined]
        assert processes._watch is None
    else:
        others = {1: "process 1", 2: "process 2"} if index == 0 else {0: "process 0"}
        assert done == [joined, "devices", others]
        assert processes._watch is not None
