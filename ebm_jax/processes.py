"""The processes of one command: they join, and where one of them ends too early all of them do.

A process that waits in a collective for one that was killed would wait until JAX's own watch aborts
it, minutes later and with a page of its insides. So each holds a connection to process 0, which the
system closes as soon as either end is gone. What a process says there before it goes is a line of
JSON: that its work is done, or the message and the exit code that it fails with; process 0 tells
the others. A host that vanishes without closing anything is left to JAX's watch.
"""

import atexit
import contextlib
import json
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any, BinaryIO

import jax
import numpy as np
from jax._src.distributed import global_state  # the one place that says where process 0 is

from ebm_jax import parallel

_KILLED_EXIT_CODE = 1
_CONNECT_SECONDS = 60.0
_INTRODUCTION_SECONDS = 5.0  # that a stranger who says nothing can hold up the others
_STRANGERS = 16  # that may wait beside the others
_WORD_BYTES = 16
_GRACE_SECONDS = 2.0  # for a process that has found by itself what it is told, to say it
_CAUSE_SECONDS = 5.0  # for the others' word of what broke a collective
_LAST_SECONDS = 10.0  # that process 0, whose end aborts all that are left, waits for the others
_DONE = {"done": True}


class _Watch:
    """The connections of one process, to process 0 or from it to all others; it ends with them."""

    def __init__(self, connections: Mapping[int, BinaryIO]):
        self._connections = connections
        self._ending = threading.Lock()  # never given back: whoever has it ends the process
        self._gone = {process: threading.Event() for process in connections}
        for process in connections:
            threading.Thread(target=self._listen, args=(process,), daemon=True).start()

    def finish(self) -> None:
        """Says that this process ends as it should.

        From here on a SIGTERM changes nothing, and JAX's preemption service, told of one while it
        is shut down, would wait for ever.
        """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self._tell(_DONE)

    def fail(self, message: str, code: int) -> None:
        """Tells the others why this process ends, and ends it.

        Not by `sys.exit`: JAX would then wait for processes that wait for this one.
        """
        self._ending.acquire()
        self._end(message, code)

    def _listen(self, process: int) -> None:
        """Until a process ends; ends this one where that was not done."""
        said: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):  # a line that was cut short is none
            for line in self._connections[process]:
                said = json.loads(line)
                if said != _DONE:
                    break
        self._gone[process].set()
        if said == _DONE:
            return
        if said:
            time.sleep(_GRACE_SECONDS)
        self._ending.acquire()
        message = said.get(
            "message",
            f"process {process} of {jax.process_count()} ended without a word; the same command "
            "goes on from what is saved",
        )
        print(f"main.py: {message}", file=sys.stderr)
        self._end(message, said.get("code", _KILLED_EXIT_CODE))

    def _end(self, message: str, code: int) -> None:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        self._tell({"message": message, "code": code})
        if jax.process_index() == 0:
            last = time.monotonic() + _LAST_SECONDS
            for gone in self._gone.values():
                gone.wait(max(0.0, last - time.monotonic()))
        os._exit(code)

    def _tell(self, said: Mapping[str, Any]) -> None:
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.write(json.dumps(said).encode() + b"\n")


_watch: _Watch | None = None


def join() -> None:
    """Joins the processes of a TPU pod or cluster, which jax.distributed finds by itself.

    Elsewhere the environment says: JAX_COORDINATOR_ADDRESS (host:port of process 0),
    JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      ValueError, RuntimeError: where neither is the case.
      OSError: where process 0 cannot be reached.
    """
    global _watch
    names = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    numbers = [int(text) if (text := os.environ.get(name)) else None for name in names]
    jax.distributed.initialize(num_processes=numbers[0], process_id=numbers[1])
    if jax.process_count() > 1:
        _connect_devices()
        _watch = _Watch(_accept() if jax.process_index() == 0 else {0: _connect()})
        atexit.register(_watch.finish)  # before what JAX does, which waits for all processes


def fail(message: str, code: int) -> None:
    """Ends all processes of this command with an exit code; returns where this one is alone."""
    if _watch is not None:
        _watch.fail(message, code)


def await_cause() -> None:
    """Waits a little, as another process's end, told here, may be why a collective failed."""
    if _watch is not None:
        time.sleep(_CAUSE_SECONDS)


def _connect_devices() -> None:
    """A sum over all devices, whose connections every later one uses.

    On CPU each process gives the others 30 s to join in one's first sum, and may differ from them
    by more in what it takes to compile a training step.
    """
    total = parallel.on_each_device(lambda x: jax.lax.psum(x, parallel.AXIS))
    jax.block_until_ready(total(np.zeros(jax.local_device_count(), np.float32)))


def _accept() -> dict[int, BinaryIO]:
    """Process 0's connections, by the process at the other end.

    Whoever else finds the port, such as a scan of it, does not know the word and is turned away.
    """
    is_dual = socket.has_dualstack_ipv6()
    listener = socket.create_server(
        ("", 0),
        family=socket.AF_INET6 if is_dual else socket.AF_INET,
        dualstack_ipv6=is_dual,
        backlog=jax.process_count() + _STRANGERS,
    )
    listener.settimeout(_CONNECT_SECONDS)
    connections, word = {}, secrets.token_hex(_WORD_BYTES)
    with listener:
        parallel.tell_bytes(f"{listener.getsockname()[1]} {word}".encode())
        while len(connections) < jax.process_count() - 1:
            accepted = listener.accept()[0]
            if (process := _introduction(accepted, word)) is None:
                accepted.close()
            else:
                connections[process] = _as_file(accepted)
    return connections


def _introduction(connection: socket.socket, word: str) -> int | None:
    """The number of the process that says the word, a line of both; None for anything else."""
    connection.settimeout(_INTRODUCTION_SECONDS)
    said = b""
    with contextlib.suppress(OSError):
        while not said.endswith(b"\n") and (byte := connection.recv(1)):
            said += byte
            if len(said) > 2 * len(word):
                return None
    number, _, theirs = said.decode(errors="replace").strip().partition(" ")
    return int(number) if theirs == word and number.isdigit() else None


def _connect() -> BinaryIO:
    """A connection to process 0, which is where JAX found it."""
    port, word = (parallel.tell_bytes(None) or b"").decode().split()
    host = f"{global_state.coordinator_address}".rpartition(":")[0].strip("[]")
    connection = _as_file(socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS))
    connection.write(f"{jax.process_index()} {word}\n".encode())
    return connection


def _as_file(connection: socket.socket) -> Any:
    connection.settimeout(None)  # an accepted one has none; whoever waits there waits for the end
    return connection.makefile("rwb", buffering=0)
