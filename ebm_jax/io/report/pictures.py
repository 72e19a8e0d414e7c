"""Grids of samples, step after step, in a page of limited size."""

import pathlib
import re
from collections.abc import Sequence

from ebm_jax.io.report.elements import escape, image


def sample_grids(workdir: pathlib.Path) -> list[pathlib.Path]:
    """samples/step_*.png, by step."""
    return sorted(workdir.glob("samples/step_*.png"), key=step_of)


def slides(workdir: pathlib.Path, max_bytes: int) -> str:
    """All grids of samples of a run, or evenly chosen ones that take `max_bytes` as PNG.

    Without JavaScript they stand beside each other.
    """
    paths = sample_grids(workdir)
    if not paths:
        return ""
    kept = _chosen(paths, max_bytes)
    frames = "".join(
        f"<div>{image(path.read_bytes(), f'Samples at step {step_of(path):,}')}"
        f"<span>step {step_of(path):,}</span></div>"
        for path in kept
    )
    said = f"{len(kept)} of {len(paths)} grids"
    caption = (
        f"All {len(paths)} grids that were saved."
        if len(kept) == len(paths)
        else f"{said}, evenly chosen to fit in {max_bytes / 1e6:g} MB (report.max_sample_mb)."
    )
    return (
        f'<figure class="slides-of"><div class="strip">{frames}</div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _chosen(paths: Sequence[pathlib.Path], max_bytes: int) -> list[pathlib.Path]:
    """As many as fit, evenly spaced, the last one always among them."""
    sizes = [path.stat().st_size for path in paths]
    for number in range(len(paths), 1, -1):
        chosen = [i * (len(paths) - 1) // (number - 1) for i in range(number)]
        if sum(sizes[i] for i in chosen) <= max_bytes:
            return [paths[i] for i in chosen]
    return [paths[-1]]


def step_of(path: pathlib.Path) -> int:
    """The training step that a grid's name says."""
    match = re.fullmatch(r"step_(\d+)", path.stem)
    return int(match[1]) if match else -1
