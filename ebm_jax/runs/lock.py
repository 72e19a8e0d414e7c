"""A lock of a directory, so that one command at a time writes there.

A file with the name of its holder appears by a hard link, which a shared file system makes once or
not at all. A lock that was left behind is told by its process, on the same machine, or by a
heartbeat that stopped, on another one.
"""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from typing import Any, Self

from ebm_jax import parallel
from ebm_jax.runs.settings import ConfigError, one_line
from ebm_jax.runs.workdir import make_folder

_NAME = ".lock"
_HEARTBEAT = 10.0  # seconds
_ATTEMPTS, _PAUSE = 20, 0.05  # while others remove a lock that was left behind; seconds
_STALE = 12 * _HEARTBEAT  # without a heartbeat: the holder is gone, or has lost its right


class Lock:
    """The right to write in a directory, made if absent; a context manager.

    Process 0 of several takes it for all.

    Raises:
      ConfigError: on every process, where another command has it, or nothing can be written there.
    """

    def __init__(self, directory: pathlib.Path):
        self._directory = directory
        self._path = directory / _NAME
        self._me = {**_process(), "token": uuid.uuid4().hex, "since": time.strftime("%F %T")}
        self._ended = threading.Event()
        self._is_held = False

    def __enter__(self) -> Self:
        def take() -> None:
            make_folder(self._directory)
            self._take()

        with one_line():
            parallel.first_does(take)
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._is_held and self._read() == self._me:
            with contextlib.suppress(OSError):
                self._path.unlink()

    def check(self) -> None:
        """Raises ConfigError where another command took the lock, as this one stood still."""
        if self._is_held and (holder := self._read()) != self._me:
            raise ConfigError(
                f"{self._directory} was taken over by {_describe(holder)}, as this command gave no "
                "sign of life"
            )

    def _take(self) -> None:
        for _ in range(_ATTEMPTS):
            if self._create():
                self._is_held = True
                threading.Thread(target=self._beat, daemon=True).start()
                return
            holder = self._read()
            if holder is not None and not self._is_left_behind(holder):
                break
            self._remove(holder)
        raise ConfigError(
            f"{self._directory} is in use by {_describe(holder)}: wait for it, or use another "
            "workdir"
        )

    def _create(self) -> bool:
        """Whether the lock is ours; it appears with its content or not at all."""
        content = json.dumps(self._me)
        own = self._directory / f"{_NAME}.{self._me['token']}"
        try:
            own.write_text(content)
            try:
                os.link(own, self._path)
            except FileExistsError:
                return False
            except OSError:  # a file system without hard links
                with open(self._path, "x") as file:
                    file.write(content)
            return True
        except FileExistsError:
            return False
        except OSError as error:
            raise ConfigError(
                f"workdir {self._directory} cannot be written: {error.strerror}"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                own.unlink()

    def _read(self) -> dict[str, Any] | None:
        """The holder; None where there is none."""
        return _holder(self._path)

    def _is_left_behind(self, holder: dict[str, Any]) -> bool:
        here = _process()
        if all(holder.get(name) == here[name] for name in ("host", "namespace")):
            return _started(holder["pid"]) != holder["started"]
        return self._age(self._path) > _STALE

    def _age(self, path: pathlib.Path) -> float:
        """Seconds since a file was last touched, by the clock of the file system."""
        own = self._directory / f"{_NAME}.{uuid.uuid4().hex}"
        try:
            own.touch()
            return own.stat().st_mtime - path.stat().st_mtime
        except OSError:
            return 0.0
        finally:
            with contextlib.suppress(OSError):
                own.unlink()

    def _remove(self, holder: dict[str, Any] | None) -> None:
        """Removes a lock that was left behind, unless it has another holder by now.

        One command at a time does so: between its look and its removal nobody else can have put a
        lock of theirs in the place of that one.
        """
        mark = self._directory / f"{_NAME}.removing"
        try:
            os.close(os.open(mark, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            if self._age(mark) > _STALE:  # it takes milliseconds: whoever made it was killed
                mark.unlink(missing_ok=True)
            time.sleep(_PAUSE)
            return
        except OSError:
            return
        try:
            if holder is not None and self._read() == holder:
                self._path.unlink()
        except OSError:
            pass
        finally:
            mark.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(_HEARTBEAT):
            if self._read() != self._me:
                return
            with contextlib.suppress(OSError):
                os.utime(self._path)


def _holder(path: pathlib.Path) -> dict[str, Any] | None:
    """What a lock's file says; None: there is none; {}: it is damaged, and its age decides."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    fields = {"host", "namespace", "pid", "started", "since"}
    return found if isinstance(found, dict) and fields <= set(found) else {}


def _process() -> dict[str, Any]:
    """This process among all that may see the file system."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")  # containers may share a name
        namespace += pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        namespace = ""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "namespace": namespace,
        "pid": pid,
        "started": _started(pid),
    }


def _started(pid: int) -> str | None:
    """When a process of this machine started, as its number may be another's later; None: gone."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if stat[0] in "ZX" else stat[19]
    except (OSError, IndexError):
        pass
    if os.path.isdir("/proc/self"):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def _describe(holder: dict[str, Any] | None) -> str:
    if not holder:
        return "another command"
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
