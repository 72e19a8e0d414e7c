"""One file per --mode of main.py, each with run(config, workdir) -> exit code."""

import importlib
import pkgutil
from types import ModuleType


def names() -> list[str]:
    """The modes there are: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """The module of one mode."""
    return importlib.import_module(f"{__name__}.{name}")
