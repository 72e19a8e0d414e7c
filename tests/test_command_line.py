"""What stands around a mode, without starting processes: paths of configs, errors as a line."""

import logging
import os
import pathlib
import sys
import threading
import types

import jax
import pytest

from ebm_jax import command_line
from ebm_jax.command_line import (
    _absent,
    _cause,
    _text,
    _unknown_field,
    _unknown_mode,
    _with_paths,
)
from ebm_jax.runs.settings import ConfigError
from ebm_jax.training.divergence import DivergenceError


def test_configs_by_their_names(tmp_path, monkeypatch):
    """In one word or two, with a variant; paths and files that are there stay as they are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").write_text("")
    shipped = pathlib.Path(command_line._shipped_config("digits"))
    assert shipped.name == "digits.py"
    assert shipped.exists()
    given = ["main.py", "--config=digits:t1k", "--config", "digits", "digits", "--config=x/y.py",
             "--config=mine", "--config", "a.py:b"]  # fmt: skip
    before = list(given)
    assert _with_paths(given) == [
        "main.py", f"--config={shipped}:t1k", "--config", str(shipped), "digits",
        "--config=x/y.py", "--config=mine", "--config", "a.py:b",
    ]  # fmt: skip
    assert given == before
    assert _with_paths(["digits"]) == ["digits"]
    assert _with_paths(["digits", "--config"]) == ["digits", "--config"]


@pytest.mark.parametrize(
    "argv", [["--help"], ["-h"], ["-help"], ["--mode=list"], ["--mode", "list"]]
)
def test_what_there_is_needs_no_other_flag(argv, monkeypatch, capsys):
    monkeypatch.setattr(command_line, "overview", lambda: "all that there is")
    with pytest.raises(SystemExit) as left:
        command_line.parse_flags(["main.py", *argv])
    assert left.value.code == 0
    assert capsys.readouterr().out == "all that there is\n"


def test_a_reader_that_has_seen_enough(monkeypatch):
    """What else would go to the terminal goes nowhere, so that Python does not complain either."""
    moved = []

    def overview():
        raise BrokenPipeError

    monkeypatch.setattr(command_line, "overview", overview)
    monkeypatch.setattr(sys, "stdout", types.SimpleNamespace(fileno=lambda: 99))
    monkeypatch.setattr(command_line.os, "open", lambda path, how: (path, how))
    monkeypatch.setattr(command_line.os, "dup2", lambda *given: moved.append(given))
    with pytest.raises(SystemExit) as left:
        command_line.parse_flags(["main.py", "--help"])
    assert left.value.code == 0
    assert moved == [((os.devnull, os.O_WRONLY), 99)]


@pytest.mark.parametrize("is_given", [False, True])
def test_other_libraries_say_little_unless_they_are_asked(monkeypatch, capsys, is_given):
    """What is no flag is an error."""
    told, config = [], types.SimpleNamespace(to_dict=dict)

    class Flags(dict):
        def __call__(self, argv):
            return [word for word in argv if not word.startswith("--")]

    known = Flags(verbosity=types.SimpleNamespace(present=is_given))
    known.config = config
    monkeypatch.setattr(command_line.flags, "FLAGS", known)
    monkeypatch.setattr(command_line.logging, "set_verbosity", told.append)
    assert command_line.parse_flags(["main.py", "--mode=sample"]) == ["main.py"]
    assert told == ([] if is_given else [command_line.logging.WARNING])
    with pytest.raises(SystemExit) as left:
        command_line.parse_flags(["main.py", "--mode=sample", "word"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "main.py: expected flags as --name=value, got 'word'\n"


def test_a_config_that_there_is_not(capsys):
    with pytest.raises(SystemExit) as left:
        command_line._shipped_config("digitz")
    assert left.value.code == 2
    assert capsys.readouterr().err == (
        "main.py: --config: expected the path or the name of a config, got 'digitz'; did you mean "
        "'digits'?\n"
    )


def test_values_of_flags_in_two_words():
    assert command_line._values(["--mode", "list", "x", "--mode", "y"], "--mode") == {"list", "y"}
    assert command_line._values(["--mode"], "--mode") == set()


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DivergenceError("it\n diverged"), 3, "it diverged"),
        (ConfigError("one  line"), 2, "one line"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError("disk"), 2, "OSError: disk"),
        (ArithmeticError(), 2, "ArithmeticError: ArithmeticError"),
        (RuntimeError("odd"), 1, "RuntimeError: odd"),
        (jax.errors.JaxRuntimeError("peer"), 1, "JaxRuntimeError: peer"),
        (KeyError("name"), 1, "KeyError: name"),
        (OSError(28, "No space left"), 2, "OSError: [Errno 28] No space left"),
    ],
)
def test_errors_are_one_line(error, code, said, capsys, monkeypatch):
    """Other processes learn of them too, with the same exit code."""
    told = []
    monkeypatch.setattr(command_line.processes, "fail", lambda *given: told.append(given))
    monkeypatch.setattr(command_line.processes, "await_cause", lambda: told.append("await"))
    monkeypatch.setattr(command_line, "_background", ["of a thread"])
    with pytest.raises(SystemExit) as left, command_line.one_line_errors():
        raise error
    assert left.value.code == code
    line = capsys.readouterr().err
    assert line.startswith(f"main.py: {said}")
    assert line.count("\n") == 1
    is_of_jax = isinstance(error, jax.errors.JaxRuntimeError)
    assert told == ["await"] * is_of_jax + [(line.removeprefix("main.py: ").rstrip(), code)]
    if "traceback in" in line:
        path = pathlib.Path(line.split("(traceback in ")[1].rstrip(")\n"))
        assert (path.name[:18], path.suffix) == ("ebm_jax_traceback_", ".txt")
        assert type(error).__name__ in path.read_text()
        assert path.read_text().endswith("of a thread")
        path.unlink()
    else:
        assert code in (3, 130) or isinstance(error, ConfigError)


def test_what_threads_said_is_kept_when_a_command_ends(capsys, monkeypatch):
    monkeypatch.setattr(command_line, "_background", ["of a thread"])
    with pytest.raises(SystemExit) as left, command_line.one_line_errors():
        sys.exit(4)
    assert left.value.code == 4
    said = capsys.readouterr().err
    assert said.startswith("main.py: errors in other threads (traceback in ")
    path = pathlib.Path(said.split("(traceback in ")[1].rstrip(")\n"))
    assert path.read_text() == "of a thread"
    path.unlink()
    monkeypatch.setattr(command_line, "_background", [])
    with pytest.raises(SystemExit), command_line.one_line_errors():
        sys.exit(0)
    assert capsys.readouterr().err == ""


def test_errors_of_threads_are_collected(monkeypatch):
    kept, filters = [], []
    monkeypatch.setattr(command_line, "_background", kept)
    for module, name in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, name, getattr(module, name))
    logger = types.SimpleNamespace(addFilter=filters.append)
    monkeypatch.setattr(command_line.logging, "get_absl_logger", lambda: logger)
    command_line.collect_background_errors()
    error = ValueError("here")
    sys.excepthook(ValueError, error, None)
    found = types.SimpleNamespace(exc_type=ValueError, exc_value=error, exc_traceback=None)
    threading.excepthook(found)
    sys.unraisablehook(found)
    assert kept == ["ValueError: here\n"] * 3
    (is_ours,) = filters

    def passes(level, path):
        return is_ours(logging.LogRecord("x", level, path, 1, "m", (), None))

    assert not passes(logging.ERROR, "/lib/orbax/x.py")
    assert passes(logging.WARNING, "/lib/orbax/x.py")
    assert passes(logging.ERROR, "/lib/other/x.py")


def test_fields_and_modes_that_there_are_not():
    near = AttributeError('x Did you mean "data.name" instead of "data.nam"?')
    assert _unknown_field(near) == "no config field 'data.nam': did you mean 'data.name'?"
    assert _unknown_field(KeyError("odd")) == (
        "no config field 'odd': the fields are those of the --config file"
    )
    said = _unknown_mode(ValueError("flag --mode=sampel: value should be one of <..>"))
    assert said.startswith("--mode: expected one of card, classify, ")
    assert said.endswith("got 'sampel'; did you mean 'sample'?")
    assert _unknown_mode(ValueError("other")) is None
    absent = ValueError("flag --workdir=None: expected the directory of this run")
    assert _absent(absent) == "--workdir: expected the directory of this run"
    assert _absent(ValueError("flag --workdir=x: expected another")) is None


def test_causes():
    assert _cause(ValueError("a\n b")) == "a b"
    trace = "flag --config: Error: x\nTraceback (most recent call last):\n  File\nKeyError: 'y'\n"
    assert _cause(ValueError(trace)) == "flag --config: KeyError: 'y'"
    variant = "head\nTraceback (most recent call last):\nTypeError: get_config() takes 0 arguments"
    assert _cause(ValueError(variant)) == (
        "head : expected the path alone, as this config has no variants"
    )
    assert _text(KeyError("a b")) == "a b"
    assert _text(ValueError()) == "ValueError"


def test_configs_that_cannot_be_read(tmp_path):
    (tmp_path / "digits.py").write_text("")
    error = OSError(f"[Errno 2] No such file or directory: '{tmp_path}/digit.py'")
    assert command_line._unreadable_config(error) == (
        f"--config={tmp_path}/digit.py: No such file or directory; did you mean "
        f"{tmp_path}/digits.py?"
    )
    far = OSError(f"[Errno 13] Permission denied: '{tmp_path}/nothing/like/it.cfg'")
    assert command_line._unreadable_config(far) == (
        f"--config={tmp_path}/nothing/like/it.cfg: Permission denied"
    )
    assert command_line._unreadable_config(OSError("odd")) == "--config: odd"


def test_devices_of_the_cpu_and_the_cache(monkeypatch, tmp_path):
    """XLA_FLAGS and the variable of the cache come first."""
    set_to = {}
    monkeypatch.setattr(jax.config, "update", lambda name, value: set_to.update({name: value}))
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    command_line.split_cpu(3)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    command_line.use_compilation_cache()
    assert set_to == {}
    monkeypatch.delenv("XLA_FLAGS")
    command_line.split_cpu(3)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    command_line.use_compilation_cache()
    command_line.use_float32()
    assert set_to == {
        "jax_num_cpu_devices": 3,
        "jax_compilation_cache_dir": f"{tmp_path}/ebm_jax/xla",
        "jax_enable_x64": False,
    }
    monkeypatch.delenv("XDG_CACHE_HOME")
    command_line.use_compilation_cache()
    home = pathlib.Path.home()
    assert set_to["jax_compilation_cache_dir"] == str(home / ".cache/ebm_jax/xla")
