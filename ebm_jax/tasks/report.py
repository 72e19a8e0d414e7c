"""--mode=report: all that the workdir holds as one HTML page."""

import pathlib

import jax
import ml_collections

from ebm_jax import workdir
from ebm_jax.experiment import ConfigError
from ebm_jax.io import files, report


def run(config: ml_collections.ConfigDict, directory: str) -> int:
    """Writes `report.html` in the workdir. Computes nothing and needs no checkpoint."""
    path = pathlib.Path(directory)
    if not path.is_dir():
        raise ConfigError(f"there is no {path}: write the workdir of a run")
    workdir.check_config(path, config, judging=True)
    if jax.process_index() == 0:
        try:
            text = report.page(path)
        except ValueError as error:
            raise ConfigError(f"--mode=report: {error}") from error
        files.write_atomically(path / "report.html", text.encode())
        print(f"{path}/report.html: {len(text) / 1e6:.1f} MB, all in one file", flush=True)
    return 0
