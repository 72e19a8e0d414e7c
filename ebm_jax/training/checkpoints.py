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

import json
import math
import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from ebm_jax import parallel
from ebm_jax.io.files import json_safe
from ebm_jax.training import manifest as manifests
from ebm_jax.training.checkpoint_files import (
    ArchitectureError,
    CheckpointError,
    DamagedCheckpointError,
    NonFiniteError,
    read_manifest,
    read_state,
    to_dtype,
    without_patterns,
    writing,
)

_STEP_NAMES = ocp.path.step.standard_name_format()


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
        self._address = without_patterns(self.directory)
        self._keep_latest = keep_latest
        self._pin_every = pin_every
        self._async_save = async_save
        self._config = json_safe(config)
        self._writer: ocp.CheckpointManager | None = None
        self._pinned: set[int] = set()
        self._damaged: set[int] = set()  # found so by restore_latest; set aside by the next save
        self._last_given: int | None = None  # the step last handed to the writer, for messages

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
        present = self.steps()  # which tells what went wrong with the save before, if anything
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
        items: dict[str, Any] = {"manifest": ocp.args.JsonSave(manifest)}
        stored = {name: array for name, array in arrays.items() if array.size}  # Orbax's condition
        if stored:
            items["state"] = ocp.args.PyTreeSave(stored)
        self._last_given = step
        with writing(f"the checkpoint of step {step}"):
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
                with writing(f"the checkpoint of step {self._last_given}"):
                    self._writer.wait_until_finished()
            except CheckpointError:
                self._writer.reload()  # Orbax has forgotten the ones that were to go after it
                raise

    def close(self) -> None:
        """Waits for the last save, then ends the background threads. May be called twice."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with writing(f"the checkpoint of step {self._last_given}"):
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

    def _places(self, step: int) -> tuple[epath.Path, epath.Path]:
        """A checkpoint's folder as messages name it, and as storage takes it."""
        return self.directory / str(step), self._address / str(step)

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
            with writing(f"checkpoints in {self.directory}"):
                if self._address != self.directory:
                    self.directory.mkdir(parents=True, exist_ok=True)
                self._writer = ocp.CheckpointManager(self._address, options=options)
        return self._writer

    def _set_damaged_aside(self) -> None:
        """Renames what restore_latest found damaged, so that its step can be saved anew."""
        if not self._damaged:
            return
        if jax.process_index() == 0:
            for step in sorted(self._damaged):
                aside = self.directory / f"damaged-{step}"
                if aside.exists():
                    aside.rmtree()
                with writing(f"{aside}"):
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
        state = _by_first(lambda: read_state(*self._places(step), template, part))
        if jax.process_count() == 1:
            return state
        specs = manifests.leaf_specs(template).values()
        content = b""
        if jax.process_index() == 0:
            content = b"".join(leaf.tobytes() for leaf in jax.tree.leaves(state))
        told, leaves, begin = _told(content), [], 0
        for spec in specs:
            dtype, number = to_dtype(spec.dtype), math.prod(spec.shape)
            # A copy, as what is read is its reader's to change.
            leaf = np.frombuffer(told, dtype, number, begin).reshape(spec.shape).copy()
            leaves.append(leaf)
            begin += leaf.nbytes
        return jax.tree.unflatten(jax.tree.structure(template), leaves)

    def _manifest_everywhere(self, step: int) -> dict[str, Any]:
        """Process 0's reading of a manifest, as `_read_everywhere`."""
        found = _by_first(lambda: read_manifest(*self._places(step)))
        return json.loads(_told(json.dumps(found).encode()))


class _LatestAndPinned(ocp.checkpoint_managers.PreservationPolicy):
    """Keeps the newest few and the pinned ones. (`max_to_keep` cannot express the second.)"""

    def __init__(self, keep_latest: int, pinned: set[int]):
        self._keep_latest = keep_latest
        self._pinned = pinned  # shared with Checkpoints, which adds to it

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        newest = {info.step for info in checkpoints[-self._keep_latest :]}
        return [info.step in newest | self._pinned for info in checkpoints]


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
