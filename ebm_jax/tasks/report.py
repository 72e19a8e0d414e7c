"""--mode=report: all that the workdir holds as one HTML page."""

import pathlib

import jax
import ml_collections

from ebm_jax.io import files, report
from ebm_jax.runs.settings import ConfigError, one_line
from ebm_jax.runs.workdir import check_config, make_folder, resolve


def main(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> int:
    """Writes `report.html` in the workdir. Computes nothing and needs no checkpoint."""
    path = resolve(workdir)
    if not path.is_dir():
        raise ConfigError(f"workdir: expected the directory of a run, got {path}")
    check_config(path, config, "evaluate")
    make_folder(path)
    if jax.process_index() == 0:
        with one_line():
            text = report.page(path)
            files.write_atomically(path / "report.html", text.encode())
        print(f"{path}/report.html: {len(text) / 1e6:.1f} MB, all in one file", flush=True)
    return 0
