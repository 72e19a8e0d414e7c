"""A run's directory: one config, its checkpoints, and what was made from them."""

import json
import os
import pathlib
import tempfile
import urllib.parse
from collections.abc import Mapping
from typing import Any

import ml_collections

from ebm_jax import parallel
from ebm_jax.io import files
from ebm_jax.runs.settings import BINDS, ConfigError, one_line
from ebm_jax.training.checkpoints import Checkpoints

_LAYOUT = 2  # of the config's sections; another one is refused
_INSIDE = 200  # bytes that the paths of files in a workdir may add to its own


def resolve(workdir: str | os.PathLike, name: str = "workdir") -> pathlib.Path:
    """The path that a workdir's name stands for: `~` is expanded, file:// is an address of a path.

    name: of the flag or field, for messages.
    Raises:
      ConfigError: for a name that no directory here can have, or an address elsewhere.
    """
    text = os.fspath(workdir)
    if not text:
        raise ConfigError(f"{name}: expected a directory, got ''")
    if "://" in text:
        address = urllib.parse.urlsplit(text)
        if address.scheme != "file" or address.netloc not in ("", "localhost"):
            raise ConfigError(
                f"{name}: expected a directory of this machine (mount a bucket as one), got {text}"
            )
        text = urllib.parse.unquote(address.path)
    try:
        text.encode()  # as JSON files and Orbax write it
        path = pathlib.Path(text).expanduser()
    except (UnicodeEncodeError, RuntimeError) as error:  # no UTF-8; no user of that name
        raise ConfigError(f"{name}: expected a directory, got {text!a}: {error}") from error
    existing = _existing(path)
    longest_name = max(map(_num_bytes, path.absolute().parts))
    for what, length, at_most in (
        ("names", longest_name, os.pathconf(existing, "PC_NAME_MAX")),
        ("a path", _num_bytes(path.absolute()), os.pathconf(existing, "PC_PATH_MAX") - _INSIDE),
    ):
        if length > at_most:
            raise ConfigError(f"{name}: expected {what} of at most {at_most} bytes, got {length}")
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{name}: expected a directory, got the file {path}")
    return path


def check_workdir(
    workdir: str | os.PathLike, config: ml_collections.ConfigDict, purpose: str = "resume"
) -> pathlib.Path:
    """The path of a workdir that a run of this config may use; nothing is written yet.

    purpose: see `check_config`.
    Raises:
      ConfigError: a file of that name, a directory that cannot be written, or a run of another
        config in it (with the fields that differ).
    """
    path = resolve(workdir)

    def check() -> None:
        if not (existing := _existing(path)).is_dir():
            raise ConfigError(f"workdir {path} cannot be made: {existing} is a file")
        if not os.access(existing, os.W_OK):
            raise ConfigError(
                f"workdir {path} cannot be written: {existing} is not yours to write in"
            )
        _check_config(path, config, purpose)

    with one_line():
        parallel.first_does(check)
    return path


def make_folder(path: pathlib.Path) -> None:
    """Makes a folder if absent and writes a byte there, so that no work is done for nothing.

    Raises:
      ConfigError: where that cannot be done.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        raise ConfigError(f"workdir {path} cannot be written: {error.strerror}") from error


def has_checkpoints(path: pathlib.Path) -> bool:
    """Whether something is trained in a workdir, be it damaged."""
    folder = path / "checkpoints"
    return folder.is_dir() and any(
        entry.name.isdigit() or entry.name.startswith("damaged-") for entry in folder.iterdir()
    )


def describe_run(path: pathlib.Path, config: ml_collections.ConfigDict, **provenance: Any) -> None:
    """Makes the workdir if absent, and writes the resolved config and the versions to it.

    provenance: what else the run was made from, by name; what was written before stays.
    Raises:
      ConfigError: a directory that cannot be written after all.
    """

    def write() -> None:
        try:
            files.write_json(path / "config.json", {"layout": _LAYOUT, **config.to_dict()})
            before = _read_json(path / "versions.json")
            files.write_json(path / "versions.json", {**before, **files.versions(), **provenance})
        except OSError as error:
            raise ConfigError(f"workdir {path} cannot be written: {error.strerror}") from error

    with one_line():
        parallel.first_does(write)


def _read_json(path: pathlib.Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def saved_config(workdir: pathlib.Path) -> dict[str, Any] | None:
    """The config that a workdir's run was trained with; None where there is none.

    Raises:
      ConfigError: for a file that cannot be read, and for a run of an earlier layout.
    """
    try:
        saved = json.loads((workdir / "config.json").read_text())
    except FileNotFoundError:
        return None
    except (OSError, json.JSONDecodeError) as error:
        raise ConfigError(f"{workdir}/config.json cannot be read: {error}") from error
    if saved.pop("layout", None) != _LAYOUT:
        raise ConfigError(
            f"{workdir} holds a run of another version of ebm_jax, whose config has other "
            "sections: use the version that wrote it, or another workdir"
        )
    return saved


def config_from_json(saved: Mapping[str, Any]) -> ml_collections.ConfigDict:
    """The config whose dictionary was written as JSON, whose lists were tuples."""

    def with_tuples(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: with_tuples(inner) for name, inner in value.items()}
        if value in ("NaN", "Infinity", "-Infinity"):  # as `files.json_safe` writes them
            return float(value)
        return tuple(map(with_tuples, value)) if isinstance(value, list) else value

    return ml_collections.ConfigDict(with_tuples(saved))


def check_config(workdir: pathlib.Path, config: ml_collections.ConfigDict, purpose: str) -> None:
    """Raises ConfigError where the workdir holds a run of a config that differs and matters.

    A run that made no checkpoint, as it diverged before, binds nothing. Process 0 looks for all.

    purpose: 'resume' or 'evaluate', see `settings.BINDS`.
    """
    with one_line():
        parallel.first_does(lambda: _check_config(workdir, config, purpose))


def _check_config(workdir: pathlib.Path, config: ml_collections.ConfigDict, purpose: str) -> None:
    if not has_checkpoints(workdir):
        return
    saved = saved_config(workdir)
    if saved is not None and (fields := differences(saved, config, purpose)):
        raise ConfigError(
            f"{workdir} holds a run of another config; use another workdir, or these as they "
            f"were: {'; '.join(fields)}"
        )


def differences(
    saved: Mapping[str, Any], config: ml_collections.ConfigDict, purpose: str
) -> list[str]:
    """'field: saved -> new' for every field that differs from a saved config and binds.

    training.num_steps may differ, unless the learning rate's schedule depends on it.
    """
    old, new = _flat(saved), _flat(files.json_safe(config.to_dict()))
    free = set()
    if all(new[name] == "constant" for name in new if _is_learning_rate_schedule(name)):
        free.add("training.num_steps")
    return [
        f"{name}: {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        and name.partition(".")[0] in BINDS[purpose]
        and name not in free
    ]


def open_checkpoints(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    *,
    keep_latest: int = 1,
    pin_every: int | None = None,
) -> Checkpoints:
    """The checkpoints of a workdir."""
    return Checkpoints(
        workdir / "checkpoints",
        keep_latest=keep_latest,
        pin_every=pin_every,
        config=config.to_dict(),
    )


def _existing(path: pathlib.Path) -> pathlib.Path:
    """The path, or what exists of it."""
    path = path.absolute()
    while not os.path.exists(path):  # False for names that are too long, where pathlib raises
        path = path.parent
    return path


def _num_bytes(name: str | os.PathLike) -> int:
    return len(os.fsencode(name))


def _is_learning_rate_schedule(name: str) -> bool:
    return name.startswith("optimizer.") and name.endswith(".schedule")


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
