"""The program: `python main.py` in a checkout, `ebm-jax` where the package is installed.

    ebm-jax --config=digits --workdir=runs/digits
    ebm-jax --config=digits --workdir=runs/digits --mode=sample
    ebm-jax --config=cifar10:small --config.training.batch_size=8 --workdir=...

Exit codes: 0 done; 2 a command that cannot be run; 3 training diverged; 130, 143 interrupted.
"""

import sys

from absl import app, flags
from ml_collections import config_flags

from ebm_jax import tasks
from ebm_jax.command_line import (
    collect_background_errors,
    join_processes,
    one_line_errors,
    parse_flags,
    split_cpu,
    use_compilation_cache,
    use_float32,
)
from ebm_jax.runs.settings import read_general

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config: name or path.py, :variant after it; override with --config.a.b=v."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of this run alone.")
_MODE = flags.DEFINE_enum("mode", "train", tasks.names(), "What to do.")
for _name, _expected in (
    ("config", "what to train, such as --config=configs/digits.py (--mode=list names all)"),
    ("workdir", "the directory of this run, such as --workdir=runs/digits"),
):
    flags.register_validator(_name, lambda value: value is not None, f"expected {_expected}")


def main(argv: list[str]) -> None:
    """Runs one mode. argv: the program alone; `parse_flags` lets nothing else through."""
    del argv
    config, workdir = _CONFIG.value, _WORKDIR.value
    assert workdir is not None  # it is required
    collect_background_errors()
    with one_line_errors():
        use_compilation_cache()
        use_float32()
        general = read_general(config)
        split_cpu(general.cpu_devices)
        if general.distributed:
            join_processes()
        sys.exit(tasks.run(_MODE.value, config, workdir))


def run() -> None:
    """The console script."""
    app.run(main, flags_parser=parse_flags)
