"""Checkpoints: Orbax behind one small module.

    with Checkpoints(workdir / "checkpoints", keep_latest=3, pin_every=10_000) as checkpoints:
        found = checkpoints.restore_latest(template)          # (step, state) or None
        checkpoints.save(step, jax.device_get(state))

One checkpoint is one folder, `<directory>/<step>/`, with the arrays (`state/`, written by Orbax)
and a manifest of their names, shapes, types and checksums (`manifest/`). It appears by a rename
once all of it is written, so a kill in the middle leaves the earlier ones as they were. What Orbax
does not give is added here: nothing non-finite is ever saved, flipped bytes are noticed, a damaged
newest checkpoint is passed over for the one before it, and a template of another architecture is
refused by naming the first array that differs.

The state is any pytree of arrays on the host and the same on every process. Each process calls
every method; process 0 alone looks at the directory, reads and writes, and tells the others: what
they see of a slow shared file system does not enter.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from ebm_jax import parallel
from ebm_jax.io.files import json_safe
from ebm_jax.training import manifest as manifests

_PATTERN_CHARACTERS = "[]*?\\"
_STEP_NAMES = ocp.path.step.standard_name_format()


class CheckpointError(RuntimeError):
    """A checkpoint could not be written or read; the message is one line."""


class NonFiniteError(CheckpointError):
    """The state holds a NaN or an infinity in the array called `name`, so it was not saved."""

    def __init__(self, message: str, name: str):
        super().__init__(message)
        self.name = name


class DamagedCheckpointError(CheckpointError):
    """What is on disk is not what was saved."""


class ArchitectureError(CheckpointError):
    """The checkpoint holds other arrays than the template asks for."""


class Checkpoints:
    """The checkpoints of one run. See the module's docstring.

    Args:
      directory: where they are; made by the first save, never by reading.
      keep_latest: how many of the newest to keep; older ones go after a newer one is complete.
      pin_every: also keep every checkpoint whose step is a multiple of this, for good.
      async_save: write in the background; `save` then returns after copying the state.
      config: what the run was configured with, stored in each checkpoint (see `config`).
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        *,
        keep_latest: int,
        pin_every: int | None = None,
        async_save: bool = True,
        config: Any = None,
    ):
        if keep_latest < 1:
            raise ValueError(f"keep_latest is {keep_latest}; keep at least 1 checkpoint")
        if pin_every is not None and pin_every < 1:
            raise ValueError(f"pin_every is {pin_every}; give a number of steps, or None")
        path = os.fspath(directory)
        self.directory = epath.Path(path if "://" in path else os.path.abspath(path))
        self._address = _without_patterns(self.directory)
        self._keep_latest = keep_latest
        self._pin_every = pin_every
        self._async_save = async_save
        self._config = json_safe(config)
        self._writer: ocp.CheckpointManager | None = None
        self._pinned: set[int] = set()
        self._damaged: set[int] = set()  # found so by restore_latest; set aside by the next save
        self._last_given = -1  # the step last handed to the writer, for messages

    def save(self, step: int, state: Any, *, pinned: bool = False) -> bool:
        """Saves `state` as the checkpoint of `step`, then drops the ones no longer kept.

        Args:
          step: training step; later than every checkpoint there is.
          state: pytree of arrays on the host (`jax.device_get`, unreplicated). It is copied, so
            that it may change as soon as this returns.
          pinned: keep this one for good.

        Returns:
          Whether it was saved: False if there is one of this step already, which is left as it is.

        Raises:
          NonFiniteError: if a floating leaf holds a NaN or an infinity. Nothing is written.
          CheckpointError: if this save, or the one before it in the background, cannot be written,
            or if there is a later checkpoint.
        """
        arrays = manifests.named_arrays(state)
        bad = manifests.first_non_finite(arrays)
        if bad is not None:
            raise NonFiniteError(
                f"the state of step {step} is not saved: {bad} has non-finite values;"
                f" {self._describe_newest()}",
                bad,
            )
        self._set_damaged_aside()
        writer = self._open_writer()
        present = self.steps()
        if step in present:
            return False
        if present and step < max(present):
            raise CheckpointError(
                f"step {step} cannot be saved: {self.directory} holds step {max(present)} already;"
                " move later checkpoints away first, or use another workdir"
            )
        pinned = pinned or (self._pin_every is not None and step % self._pin_every == 0)
        if pinned:
            self._pinned.add(step)
        manifest = manifests.build(step, arrays, pinned=pinned, config=self._config)
        items = {"manifest": ocp.args.JsonSave(manifest)}
        stored = {name: array for name, array in arrays.items() if array.size}  # Orbax's condition
        if stored:
            items["state"] = ocp.args.PyTreeSave(stored)
        self.wait()  # so that what went wrong with the save before is told of its own step
        self._last_given = step
        with _writing(f"the checkpoint of step {step}"):
            # force: past Orbax's own choice of steps; it still never overwrites.
            return writer.save(step, args=ocp.args.Composite(**items), force=True)

    def restore_latest(self, template: Any, *, part: str = "") -> tuple[int, Any] | None:
        """Returns (step, state) of the newest intact checkpoint, or None if there is none at all.

        A damaged one (truncated, a file missing, flipped bytes) is passed over for the one before
        it, with one line of warning. It stays where it is until the next `save`, which renames it
        to `damaged-<step>`.

        Args:
          template: pytree with the structure, shapes and types wanted, of arrays or of
            `jax.ShapeDtypeStruct`s.
          part: the state's field that the template is of, such as 'ema_params'; the others are then
            neither read nor compared. '' is the whole state.

        Returns:
          The state has the template's structure, with NumPy arrays as leaves.

        Raises:
          ArchitectureError: if the newest readable checkpoint does not fit the template.
          CheckpointError: if there are checkpoints and all of them are damaged.
        """
        steps = self.steps()
        for i, step in enumerate(reversed(steps)):
            try:
                state = self._read_everywhere(step, template, part)
            except DamagedCheckpointError as error:
                self._damaged.add(step)
                before = "" if i + 1 == len(steps) else f"; trying step {steps[-i - 2]} instead"
                if jax.process_index() == 0:
                    logging.warning("%s%s", error, before)
                continue
            return step, state
        if steps:
            raise CheckpointError(
                f"all {len(steps)} checkpoints in {self.directory} are damaged (steps"
                f" {', '.join(map(str, steps))}); move that folder away to start afresh"
            )
        return None

    def restore(self, step: int, template: Any, *, part: str = "") -> Any:
        """Returns the state of one step, as `restore_latest` does.

        Raises:
          CheckpointError: if there is none of that step; the message lists those there are.
          DamagedCheckpointError: if it is damaged.
          ArchitectureError: if it does not fit the template.
        """
        self._require(step)
        return self._read_everywhere(step, template, part)

    def config(self, step: int) -> Any:
        """Returns the config stored in the checkpoint of `step`, as JSON gives it back.

        Raises: as `restore`, but for ArchitectureError.
        """
        self._require(step)
        return self._manifest_everywhere(step)["config"]

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints, oldest first; waits for one in writing."""
        self.wait()
        return self._steps_on_disk()

    def wait(self) -> None:
        """Waits until the last save is complete.

        Raises:
          CheckpointError: if it failed.
        """
        if self._writer is not None:
            try:
                with _writing(f"the checkpoint of step {self._last_given}"):
                    self._writer.wait_until_finished()
            except CheckpointError:
                self._writer.reload()  # Orbax has forgotten the ones that were to go after it
                raise

    def close(self) -> None:
        """Waits for the last save, then ends the background threads. May be called twice."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with _writing(f"the checkpoint of step {self._last_given}"):
                writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except CheckpointError as failed:
            if error is None:
                raise
            logging.warning("%s", failed)  # the error under way matters more

    def _steps_on_disk(self) -> list[int]:
        """Those that process 0 sees."""
        steps: list[int] = []
        if jax.process_index() == 0:
            steps = sorted(found.step for found in _STEP_NAMES.find_all(self.directory))
        return np.frombuffer(_told(np.asarray(steps, np.int64).tobytes()), np.int64).tolist()

    def _require(self, step: int) -> None:
        steps = self.steps()
        if step not in steps:
            there = f"there are {', '.join(map(str, steps))}" if steps else "there are none"
            raise CheckpointError(f"no checkpoint of step {step} in {self.directory}; {there}")

    def _describe_newest(self) -> str:
        steps = [step for step in self.steps() if step not in self._damaged]
        if not steps:
            return "there is no checkpoint yet"
        return f"the last good checkpoint is {self.directory / str(steps[-1])}"

    def _open_writer(self) -> ocp.CheckpointManager:
        """The Orbax manager, made by the first save so that reading never changes the folder."""
        if self._writer is None:
            for step in self._steps_on_disk():
                try:
                    if self._manifest_everywhere(step)["pinned"]:
                        self._pinned.add(step)
                except DamagedCheckpointError:
                    continue  # rotates away like any other
            options = ocp.CheckpointManagerOptions(
                preservation_policy=_LatestAndPinned(self._keep_latest, self._pinned),
                enable_async_checkpointing=self._async_save,
                cleanup_tmp_directories=True,  # what a killed save left behind
                save_root_metadata=False,
            )
            with _writing(f"checkpoints in {self.directory}"):
                if self._address != self.directory:
                    self.directory.mkdir(parents=True, exist_ok=True)
                self._writer = ocp.CheckpointManager(self._address, options=options)
        return self._writer

    def _set_damaged_aside(self) -> None:
        """Renames what restore_latest found damaged, so that its step can be saved anew."""
        if not self._damaged:
            return
        self.wait()
        if jax.process_index() == 0:
            for step in sorted(self._damaged):
                aside = self.directory / f"damaged-{step}"
                if aside.exists():
                    aside.rmtree()
                with _writing(f"{aside}"):
                    (self.directory / str(step)).rename(aside)
                logging.warning("the damaged checkpoint of step %d is now %s", step, aside)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._damaged.clear()
        if self._writer is not None:
            self._writer.reload()

    def _read_everywhere(self, step: int, template: Any, part: str) -> Any:
        """Process 0's reading of one checkpoint; either every process gets it or every one raises.

        So that no process takes for damaged what it does not see yet.
        """
        state = _by_first(lambda: self._read(step, template, part))
        if jax.process_count() == 1:
            return state
        specs = manifests.leaf_specs(template).values()
        content = b""
        if jax.process_index() == 0:
            content = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
        told, leaves, begin = _told(content), [], 0
        for spec in specs:
            dtype, number = _dtype(spec.dtype), int(np.prod(spec.shape, dtype=np.int64))
            # A copy, as what is read is its reader's to change.
            leaf = np.frombuffer(told, dtype, number, begin).reshape(spec.shape).copy()
            leaves.append(leaf)
            begin += leaf.nbytes
        return jax.tree.unflatten(jax.tree.structure(template), leaves)

    def _manifest_everywhere(self, step: int) -> dict[str, Any]:
        """Process 0's reading of a manifest, as `_read_everywhere`."""
        found = _by_first(lambda: self._read_manifest(step))
        return json.loads(_told(json.dumps(found).encode()))

    def _read(self, step: int, template: Any, part: str) -> Any:
        folder = self.directory / str(step)
        manifest = self._read_manifest(step)
        prefix = f"{part}/" if part else ""
        wanted = {f"{prefix}{k}": spec for k, spec in manifests.leaf_specs(template).items()}
        stored = {
            name: spec
            for name, spec in manifests.stored_specs(manifest).items()
            if name.startswith(prefix)
        }
        difference = manifests.first_difference(stored, wanted)
        if difference is not None:
            raise ArchitectureError(
                f"{folder} was made by another architecture: {difference};"
                " use the config it was trained with, or another workdir"
            )
        arrays = {
            name: np.zeros(spec.shape, _dtype(spec.dtype))
            for name, spec in stored.items()
            if 0 in spec.shape
        }
        names = [name for name in stored if name not in arrays]
        if names:
            with _reading(folder):
                arrays |= _read_arrays(self._address / str(step) / "state", names)
        damaged = manifests.first_damaged(manifest, arrays)
        if damaged is not None:
            raise DamagedCheckpointError(
                f"{folder} is damaged: {damaged} is not what was saved (checksum)"
            )
        leaves = [arrays[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(template), leaves)

    def _read_manifest(self, step: int) -> dict[str, Any]:
        with _reading(self.directory / str(step)):
            found = ocp.JsonCheckpointHandler().restore(self._address / str(step) / "manifest")
        if not manifests.intact(found) or found["step"] != step:
            raise DamagedCheckpointError(
                f"{self.directory / str(step)} is damaged: its manifest is not what was saved"
            )
        return found


class _LatestAndPinned(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps the newest few and the pinned ones. (`max_to_keep` cannot express the second.)"""

    def __init__(self, keep_latest: int, pinned: set[int]):
        self._keep_latest = keep_latest
        self._pinned = pinned  # shared with Checkpoints, which adds to it

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        newest = {info.step for info in checkpoints[-self._keep_latest :]}
        return [info.step in newest | self._pinned for info in checkpoints]


def _without_patterns(directory: epath.Path) -> epath.Path:
    """The directory, or a link to it where its name has what Orbax and TensorStore do not take.

    Orbax looks for the files that it wrote by a pattern that begins with the directory's name, and
    TensorStore reads a backslash as a slash. Either way a checkpoint would be left incomplete.

    Raises:
      CheckpointError: where no link can be made.
    """
    path = os.fspath(directory)
    if "://" in path or not set(path) & set(_PATTERN_CHARACTERS):
        return directory
    # The same for all commands, as several may read one run; and on every process.
    name = f"ebm_jax_{os.getuid()}_{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}"
    folder = os.path.join(tempfile.gettempdir(), name)
    link = os.path.join(folder, "checkpoints")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.symlink(path, link)
        is_ours = os.lstat(link).st_uid == os.getuid() and os.readlink(link) == path
    except OSError as error:
        raise CheckpointError(f"{path} cannot be linked to: {_first_line(error)}") from error
    if not is_ours or set(link) & set(_PATTERN_CHARACTERS):
        raise CheckpointError(
            f"{path}: expected a name without {' '.join(_PATTERN_CHARACTERS)}, or a directory for "
            f"temporary files that can hold a link to it, got {link}"
        )
    return epath.Path(link)


@contextlib.contextmanager
def _writing(what: str) -> Iterator[None]:
    """Turns what goes wrong while writing into a CheckpointError of one line."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{what} could not be written: {_first_line(error)}") from error


@contextlib.contextmanager
def _reading(folder: epath.Path) -> Iterator[None]:
    """Turns what goes wrong while reading one checkpoint into DamagedCheckpointError."""
    try:
        yield
    except (PermissionError, MemoryError) as error:  # says nothing of the checkpoint
        raise CheckpointError(f"{folder} could not be read: {_first_line(error)}") from error
    except Exception as error:
        raise DamagedCheckpointError(f"{folder} is damaged: {_first_line(error)}") from error


def _read_arrays(folder: epath.Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Reads arrays from what Orbax wrote: zarr arrays in one OCDBT database, all read at once.

    Orbax's own restore gives the same values, but where one array cannot be read it leaves the
    others' reads running, and each prints a traceback later on.
    """
    path = os.fspath(folder)
    base = path if "://" in path else {"driver": "file", "path": f"{path}/"}
    specs = {
        name: {
            "driver": "zarr",
            "kvstore": {"driver": "ocdbt", "base": base, "path": f"{name}/"},
        }
        for name in names
    }
    opening = {name: tensorstore.open(spec, open=True, read=True) for name, spec in specs.items()}
    reading = {name: opened.result().read() for name, opened in opening.items()}
    return {name: array.result() for name, array in reading.items()}


def _first_line(error: BaseException, limit: int = 160) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _dtype(name: str) -> np.dtype:
    return jax.numpy.dtype(name)  # knows bfloat16 and its kin by name


def _told(content: bytes) -> bytes:
    """Process 0's, on every process."""
    return parallel.tell_bytes(content) or b""


def _by_first(read: Callable[[], Any]) -> Any:
    """What process 0 reads, and None on the others; its CheckpointError is raised on all."""
    found, failure = None, None
    if jax.process_index() == 0:
        try:
            found = read()
        except CheckpointError as error:
            failure = error
    if jax.process_count() > 1:
        kinds = {kind.__name__: kind for kind in _READING_ERRORS}
        told = json.loads(_told(json.dumps([type(failure).__name__, str(failure)]).encode()))
        if failure is None and told[0] in kinds:
            failure = kinds[told[0]](told[1])
    if failure is not None:
        raise failure
    return found


_READING_ERRORS = (CheckpointError, DamagedCheckpointError, ArchitectureError)
