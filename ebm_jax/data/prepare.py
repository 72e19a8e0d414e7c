"""Prepare TFDS builders once, and read what is prepared, without TensorFlow.

Our own builders are prepared under `<data_dir>/ebm_jax/<name>/<version>`, not beside the data sets
that TFDS prepares itself: they carry the same names, but keep images as raw bytes where TFDS keeps
PNG files, and `tfds.load` would take one for the other.
"""

import contextlib
import io
import os
import shutil
import tempfile
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


def prepare_once(builder_class, data_dir: Path, *, quiet: bool) -> Path:
    """Prepare `builder_class` as array_record unless that was done before; return its directory.

    The data are written into a temporary directory that is renamed at the end, so that a directory
    that exists is complete, and processes that start together end up with one and the same.

    Args:
        builder_class: a `tfds.core.GeneratorBasedBuilder` whose preparation needs no TensorFlow.
        data_dir: directory of all data; downloads are kept in `<data_dir>/downloads`.
        quiet: hide TFDS's progress bars.
    """
    version = str(builder_class.VERSION)
    root = data_dir / OWN_FOLDER
    target = root / builder_class.name / version
    if (target / "dataset_info.json").exists():
        return target
    make_dir(target.parent)
    scratch = Path(tempfile.mkdtemp(prefix=".preparing-", dir=root))
    try:
        builder = builder_class(data_dir=str(scratch), file_format="array_record")
        with contextlib.ExitStack() as stack:
            # TFDS always announces a download of "Unknown size" on stdout.
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            if quiet:
                stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            builder.download_and_prepare(download_dir=str(data_dir / "downloads"))
        try:
            (scratch / builder_class.name / version).rename(target)
        except OSError:
            if not (target / "dataset_info.json").exists():
                raise  # another process did not win the race: a true failure
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target
