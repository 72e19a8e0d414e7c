"""What main.py does around a mode: flags and errors in one line, and XLA's compilation cache."""

import contextlib
import difflib
import importlib.util
import itertools
import logging as python_logging
import os
import pathlib
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from typing import NoReturn

import jax
from absl import flags, logging

from ebm_jax import processes, tasks
from ebm_jax.overview import overview
from ebm_jax.runs.settings import ConfigError
from ebm_jax.training.checkpoint_files import CheckpointError
from ebm_jax.training.divergence import DIVERGED_EXIT_CODE, DivergenceError

USAGE_EXIT_CODE = 2

_background: list[str] = []  # tracebacks of other threads


def parse_flags(argv: list[str]) -> list[str]:
    """absl's parser, with errors as one line on stderr and exit code 2.

    `--help` and `--mode=list` say what there is, and need no other flag.
    """
    if {"--help", "-h", "-help", "--mode=list"} & set(argv) or "list" in _values(argv, "--mode"):
        try:
            print(overview(), flush=True)
        except BrokenPipeError:  # `| head` has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    argv = _with_paths(argv)
    try:
        rest = flags.FLAGS(argv)
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # Orbax says a great deal
        _ = flags.FLAGS.config.to_dict  # a file that cannot be read fails here, not while parsing
    except (AttributeError, KeyError) as error:  # config_flags, for an override of no field
        return _leave(_unknown_field(error))
    except OSError as error:
        return _leave(_unreadable_config(error))
    except SyntaxError as error:
        return _leave(f"{error.filename}, line {error.lineno}: {error.msg}")
    except (flags.Error, ValueError, TypeError, ImportError) as error:
        return _leave(_unknown_mode(error) or _absent(error) or _cause(error))
    if len(rest) > 1:
        return _leave(f"expected flags as --name=value, got {rest[1]!r}")
    return rest


def _with_paths(argv: Sequence[str]) -> list[str]:
    """The arguments, with the path of a config that comes with the package for its name."""
    found = list(argv)
    for i, word in enumerate(argv):
        is_value = i > 0 and argv[i - 1] == "--config"
        if is_value or word.startswith("--config="):
            flag, value = ("", word) if is_value else ("--config=", word.removeprefix("--config="))
            name, colon, variant = value.partition(":")
            if name.isidentifier() and not pathlib.Path(name).exists():
                found[i] = f"{flag}{_shipped_config(name)}{colon}{variant}"
    return found


def _shipped_config(name: str) -> pathlib.Path:
    """The file of a config by its name."""
    package = importlib.util.find_spec("configs")
    folders = package.submodule_search_locations if package else None
    found = [file for folder in folders or () for file in pathlib.Path(folder).glob("*.py")]
    files = {file.stem: file for file in found}
    if name not in files:
        close = difflib.get_close_matches(name, files, cutoff=0)
        near = f"; did you mean {close[0]!r}?" if close else ""
        _leave(f"--config: expected the path or the name of a config, got {name!r}{near}")
    return files[name]


def _values(argv: Sequence[str], flag: str) -> set[str]:
    """What stands after a flag, where it is written as two words."""
    return {after for before, after in itertools.pairwise(argv) if before == flag}


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns the errors that a person can put right into one line on stderr and an exit code."""
    try:
        yield
    except DivergenceError as error:
        _leave(_text(error), DIVERGED_EXIT_CODE)
    except (ConfigError, CheckpointError) as error:
        _leave(_text(error))
    except SystemExit:
        if _background:
            print(f"main.py: errors in other threads{_kept(_background)}", file=sys.stderr)
        raise
    except KeyboardInterrupt:
        _leave("interrupted", 128 + signal.SIGINT)
    except Exception as error:  # the last resort: what should have been found before
        if isinstance(error, jax.errors.JaxRuntimeError):
            processes.await_cause()
        expected = isinstance(error, (OSError, ValueError, ArithmeticError, MemoryError))
        _leave(_unexpected(error), USAGE_EXIT_CODE if expected else 1)


def collect_background_errors() -> None:
    """Keeps errors of libraries' threads off the terminal, for the file that `_unexpected` writes.

    Where a full disk stops Orbax and TensorStore, each of their threads has a traceback to tell,
    and what matters of it is raised in this thread too.
    """

    def collect(kind, error, trace) -> None:
        _background.append("".join(traceback.format_exception(kind, error, trace)))

    def is_ours(record: python_logging.LogRecord) -> bool:
        return record.levelno < python_logging.ERROR or "orbax" not in record.pathname

    sys.excepthook = collect  # of this thread too, whose errors end in `one_line_errors`
    sys.unraisablehook = threading.excepthook = lambda found: collect(
        found.exc_type, found.exc_value, found.exc_traceback
    )
    logging.get_absl_logger().addFilter(is_ours)


def use_float32() -> None:
    """Computes in float32 whatever JAX_ENABLE_X64 says: parameters and checkpoints are float32."""
    jax.config.update("jax_enable_x64", False)


def split_cpu(num_devices: int) -> None:
    """Makes the CPU count as so many devices, unless XLA_FLAGS say how many; before any JAX call.

    Small convolutions use one thread each, so that two devices train faster on two cores than one.
    """
    if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        jax.config.update("jax_num_cpu_devices", num_devices)


def join_processes() -> None:
    """Joins the processes of a pod or cluster, see `processes.join`.

    Raises:
      ConfigError: where there are none to join.
    """
    try:
        processes.join()
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"config.distributed: {error} (set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
            "JAX_PROCESS_ID)"
        ) from error


def use_compilation_cache() -> None:
    """Keeps compiled programs in $JAX_COMPILATION_CACHE_DIR, by default ~/.cache/ebm_jax/xla."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(cache / "ebm_jax" / "xla"))


def _unknown_mode(error: BaseException) -> str | None:
    found = re.search(r"flag --mode=(.*?): value should be one of", str(error))
    if found is None:
        return None
    close = difflib.get_close_matches(found[1], tasks.names(), cutoff=0)[0]
    modes = ", ".join(tasks.names())
    return f"--mode: expected one of {modes}, got {found[1]!r}; did you mean {close!r}?"


def _absent(error: BaseException) -> str | None:
    """What to write for a flag that has to be given, as its validator says."""
    found = re.fullmatch(r"flag (--\w+)=None: (expected .*)", str(error))
    return f"{found[1]}: {found[2]}" if found else None


def _unexpected(error: BaseException) -> str:
    """One line, which names the file with the traceback."""
    tracebacks = [*traceback.format_exception(error), *_background]
    return f"{type(error).__name__}: {_text(error)}{_kept(tracebacks)}"


def _kept(tracebacks: Sequence[str]) -> str:
    """Writes tracebacks to a file; returns where, for the end of a line, or '' where it cannot."""
    try:
        descriptor, path = tempfile.mkstemp(prefix="ebm_jax_traceback_", suffix=".txt")
        with os.fdopen(descriptor, "w") as file:
            file.write("".join(tracebacks))
    except OSError:
        return ""
    return f" (traceback in {path})"


def _unknown_field(error: BaseException) -> str:
    near = re.search(r'Did you mean "(.+?)" instead of "(.+?)"', str(error))
    if near is None:
        name = _text(error).strip("\"'")
        return f"no config field {name!r}: the fields are those of the --config file"
    return f"no config field {near[2]!r}: did you mean {near[1]!r}?"


def _unreadable_config(error: OSError) -> str:
    cause = re.search(r"\[Errno \d+\] (.+?): '(.+?)'", str(error))
    if cause is None:
        return f"--config: {_text(error)}"
    path = pathlib.Path(cause[2])
    there = [str(file) for file in path.parent.glob("*.py")]
    near = difflib.get_close_matches(str(path), there)
    return f"--config={path}: {cause[1]}" + (f"; did you mean {near[0]}?" if near else "")


def _cause(error: BaseException) -> str:
    """The message that a config file raised, without the traceback around it."""
    head, _, trace = str(error).partition("Traceback (most recent call last):")
    if not trace:
        return _text(error)
    last = trace.strip().splitlines()[-1]
    if "get_config() takes" in last:
        last = "expected the path alone, as this config has no variants"
    return " ".join(f"{head.partition(': Error')[0]}: {last}".split())


def _text(error: BaseException) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__


def _leave(text: str, code: int = USAGE_EXIT_CODE) -> NoReturn:
    print(f"main.py: {text}", file=sys.stderr)
    processes.fail(text, code)
    sys.exit(code)
