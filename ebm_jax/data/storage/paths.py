"""Where data lie on disk: directories, safe writing, and one-line errors for what is amiss."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

OWN_FOLDER = "ebm_jax"


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


@contextlib.contextmanager
def published(target: Path) -> Iterator[Path]:
    """A scratch directory that becomes `target` when the block ends without an exception.

    It lies beside `target` and is renamed in one go: a directory that exists is complete, and of
    processes that make the same one at once the first to end wins and the others use its result.
    """
    make_dir(target.parent)
    scratch = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=target.parent))
    try:
        yield scratch
        scratch.chmod(0o755)  # mkdtemp makes it private
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def manual_dir(data_dir: Path, name: str) -> Path:
    """Where archives that were fetched by hand belong: `<data_dir>/downloads/manual/<name>`."""
    return data_dir / "downloads" / "manual" / name


def missing(name: str, directory: Path, wanted: str, reason: str = "") -> FileNotFoundError:
    """The one-line error for data that are not there."""
    return FileNotFoundError(f"{name}: found no {wanted} in {directory}{reason}; put it there")


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
