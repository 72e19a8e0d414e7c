"""One process of a pod that runs many modes, one after the other, as main.py would run each.

Usage: pod_modes.py CONFIG WORKDIR MODES [FIELD=VALUE ...]

MODES: with commas between. What a mode refuses is printed as main.py prints it. A line of stdout
'<mode>: <exit code>' ends each.
"""

import ast
import importlib
import os
import sys

import jax

from ebm_jax import command_line, tasks
from ebm_jax.runs.settings import ConfigError


def main(name: str, workdir: str, modes: str, *overrides: str) -> None:
    """Runs all modes in a workdir."""
    file, _, variant = name.partition(":")
    config = importlib.import_module(f"configs.{file}").get_config(*[variant] * bool(variant))
    config.update_from_flattened_dict(
        {
            field: ast.literal_eval(value)
            for field, _, value in (o.partition("=") for o in overrides)
        }
    )
    command_line.use_float32()
    if "JAX_NUM_PROCESSES" in os.environ:
        command_line.join_processes()
    with command_line.one_line_errors():
        for mode in modes.split(","):
            try:
                code = tasks.run(mode, config, workdir)
            except ConfigError as error:
                print(f"main.py: {error}", file=sys.stderr, flush=True)
                code = command_line.USAGE_EXIT_CODE
            print(f"{mode}: {code}", flush=True)
            jax.clear_caches()


if __name__ == "__main__":
    main(*sys.argv[1:])
