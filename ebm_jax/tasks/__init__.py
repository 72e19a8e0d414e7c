"""One module or package per --mode of main.py.

A mode that reads a trained model has `Settings`, `IMAGES_ONLY` and `run(trained, settings, work)
-> Result`, see `runs.modes`; any other has `main(config, workdir) -> exit code`.
"""

import importlib
import os
import pkgutil
from types import ModuleType

import ml_collections

from ebm_jax.runs.build import check_sections
from ebm_jax.runs.modes import Task, run_task
from ebm_jax.runs.settings import check_names, read_section


def names() -> list[str]:
    """The modes there are: the modules of this package."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def load(name: str) -> ModuleType:
    """The module of one mode."""
    return importlib.import_module(f"{__name__}.{name}")


def check(config: ml_collections.ConfigDict) -> None:
    """Raises ConfigError for a value that a section of a config cannot have, whatever the mode."""
    settings = {mode: task.Settings for mode in names() if hasattr(task := load(mode), "Settings")}
    check_names(config, tuple(settings))
    check_sections(config)
    for mode, cls in settings.items():
        read_section(config, mode, cls)


def run(mode: str, config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> int:
    """Runs one mode, after a check of all sections; returns the exit code.

    Raises:
      ConfigError: with one line, for what cannot be run.
    """
    check(config)
    task = load(mode)
    if isinstance(task, Task):
        return run_task(task, mode, config, workdir, other_modes=names())
    return task.main(config, workdir)
