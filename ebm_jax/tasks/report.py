"""--mode=report: all that the workdir holds as one HTML page; several runs on another."""

import dataclasses
import pathlib

import jax
import ml_collections

from ebm_jax.io import files, report
from ebm_jax.runs.settings import ConfigError, one_line, read_section
from ebm_jax.runs.workdir import check_config, make_folder, resolve
from ebm_jax.settings import setting


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which runs, and how large a page may be."""

    workdirs: tuple[str, ...] = setting(
        (), "of other runs to compare this one with, in comparison.html"
    )
    max_sample_mb: float = setting(
        20.0, "PNG of samples during training, in MB; more are thinned out evenly", above=0
    )


def main(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> int:
    """Writes `report.html`, and `comparison.html` where there are other runs, in the workdir.

    Computes nothing and needs no checkpoint.
    """
    settings = read_section(config, "report", Settings)
    path = _existing(workdir, "workdir")
    others = [_existing(other, "report.workdirs") for other in settings.workdirs]
    _check_distinct([path, *others])
    check_config(path, config, "evaluate")
    make_folder(path)
    if jax.process_index() == 0:
        with one_line():
            max_bytes = int(settings.max_sample_mb * 1e6)
            _write(path / "report.html", report.page(path, max_sample_bytes=max_bytes))
            if others:
                _write(path / "comparison.html", report.comparison([path, *others]))
    return 0


def _existing(workdir: str | pathlib.Path, name: str) -> pathlib.Path:
    path = resolve(workdir, name)
    if not path.is_dir():
        raise ConfigError(f"{name}: expected the directory of a run, got {path}")
    return path


def _check_distinct(paths: list[pathlib.Path]) -> None:
    for i, path in enumerate(paths):
        if any(path.samefile(before) for before in paths[:i]):
            raise ConfigError(
                "report.workdirs: expected other runs than that of --workdir, each once, got "
                f"{path} twice"
            )


def _write(path: pathlib.Path, text: str) -> None:
    files.write_atomically(path, text.encode())
    print(f"{path}: {len(text) / 1e6:.1f} MB, all in one file", flush=True)
