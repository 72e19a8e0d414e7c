"""What there is: modes, configs and their variants, a line each, for `python main.py --help`."""

import importlib
import pkgutil
import textwrap

from ebm_jax import tasks

_EXAMPLES = """\
  python main.py --config=configs/digits.py --workdir=runs/digits
  python main.py --config=configs/digits.py --workdir=runs/digits --mode=sample
  python main.py --config=configs/digits.py:t1k --config.seed=1 --workdir=runs/digits_t1k"""
_WIDTH, _NAMES = 100, 26  # of a line, and of the names at its left


def overview() -> str:
    """The text that `--help` and `--mode=list` print."""
    return "\n".join(
        [
            "Train, sample and evaluate energy-based models.\n",
            _EXAMPLES,
            "\nFlags: --config=FILE[:VARIANT], --config.SECTION.FIELD=VALUE, --workdir=DIRECTORY,",
            "--mode=MODE (train), and absl's own with --helpfull.",
            "\nModes",
            *_columns(modes()),
            "\nConfigs (:variant)",
            *_columns(configs()),
            "\nThe fields of a mode's section: `ebm_jax/tasks/<mode>.py`; where all others are:",
            "`configs/default.py`.",
            "\nExit codes: 0 done; 2 cannot be run; 3 training diverged; 130, 143 interrupted.",
        ]
    )


def modes() -> dict[str, str]:
    """Each mode and what it does."""
    return {
        name: _first_line(tasks.load(name).__doc__).partition(": ")[2] for name in tasks.names()
    }


def configs() -> dict[str, str]:
    """Each file of `configs/`, its variants after it, and what it is of."""
    package = importlib.import_module("configs")
    found = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        module = importlib.import_module(f"configs.{name}")
        if name != "default":
            variants = "".join(f" :{v}" for v in getattr(module, "VARIANTS", ()) if v)
            found[f"{name}.py{variants}"] = _first_line(module.__doc__)
    return found


def _first_line(doc: str | None) -> str:
    return (doc or "").strip().partition("\n")[0]


def _columns(rows: dict[str, str]) -> list[str]:
    """Names and lines side by side; a name that is too long has lines of its own."""
    found = []
    for name, line in rows.items():
        *above, last = textwrap.wrap(name, _WIDTH, initial_indent="  ", subsequent_indent=" " * 4)
        if above or len(last) > _NAMES:
            found += [*above, last]
            last = ""
        found += textwrap.wrap(
            line, _WIDTH, initial_indent=f"{last:<{_NAMES}}  ", subsequent_indent=" " * (_NAMES + 2)
        )
    return found
