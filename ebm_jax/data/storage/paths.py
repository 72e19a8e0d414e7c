"""Directories of data on disk, safe writing, and one-line errors for what is amiss."""

import contextlib
import fcntl
import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

OWN_FOLDER = "ebm_jax"
_SECONDS_BETWEEN_LOOKS = 0.2  # at a lock that another process holds


def resolve_data_dir(data_dir: str | os.PathLike | None) -> Path:
    """The directory of all data: the one given, else `$TFDS_DATA_DIR`, else TFDS's usual one."""
    chosen = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(chosen).expanduser()


def make_dir(path: Path) -> Path:
    """Make the directory `path`, parents included, and return it.

    Raises:
        OSError: one line, if it cannot be made or written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"cannot make the data directory {path} ({error.strerror}); "
            "give a writable one as data.data_dir or in TFDS_DATA_DIR"
        ) from error
    if not os.access(path, os.W_OK):
        raise OSError(
            f"the data directory {path} is not writable; "
            "give a writable one as data.data_dir or in TFDS_DATA_DIR"
        )
    return path


def publish(target: Path, fill: Callable[[Path], None]) -> None:
    """Make the directory `target` with `fill(scratch)`: once per file system, whole or not at all.

    The scratch directory lies beside `target` and is renamed in one go when `fill` returns. Of
    processes that want the same directory at once, on one host or several, one makes it and the
    others wait. One that is killed leaves its scratch directory, and the next begins again.

    Raises:
        OSError: one line, if the directory of `target` cannot be made or written to.
    """
    make_dir(target.parent)
    with _locked(target) as is_alone:
        if target.is_dir():
            return
        own = "" if is_alone else f"-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
        scratch = target.parent / f".unfinished-{target.name}{own}"
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        scratch.mkdir()
        try:
            fill(scratch)
            scratch.rename(target)
        except OSError:
            if not target.is_dir():  # without a lock, another process may have been quicker
                raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[bool]:
    """Holds the lock of `target`; False where the file system has no locks.

    The lock is the system's, on an open file beside `target`: it is gone when its holder is,
    however that ended, so that a file left behind locks nobody out.
    """
    path = target.parent / f".lock-{target.name}"
    has_waited = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            if not has_waited:
                print(f"waiting for another process to prepare {target}", file=sys.stderr)
            has_waited = True
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            continue
        except OSError:  # no locks here, as on some network file systems
            is_alone = False
            break
        # Whoever held it before has removed the file: a lock on what is no longer there is none.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                is_alone = True
                break
        os.close(descriptor)
    try:
        yield is_alone
    finally:
        path.unlink(missing_ok=True)  # while it is locked, so that nobody's newer one is removed
        os.close(descriptor)


def manual_dir(data_dir: Path, name: str) -> Path:
    """Directory of archives that were fetched by hand: `<data_dir>/downloads/manual/<name>`."""
    return data_dir / "downloads" / "manual" / name


def missing(
    name: str, directory: Path, wanted: str, reason: str = "", remedy: str = ""
) -> FileNotFoundError:
    """The one-line error for data that are not there; `remedy`: another than putting them there."""
    return FileNotFoundError(
        f"{name}: found no {wanted} in {directory}{reason}; put it there{remedy}"
    )


@contextlib.contextmanager
def reading(path: Path, what: str, remedy: str = "remove it and fetch it again") -> Iterator[None]:
    """Turn whatever goes wrong inside, while `path` is parsed, into a one-line ValueError."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # damaged bytes make the readers raise errors of many kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is not {what}, or is damaged ({reason}); {remedy}") from error
