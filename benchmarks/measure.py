"""How the benchmarks here time things: in turn, in one process, medians and quartiles."""

import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from ebm_jax.io import files


def time_in_turn(functions: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each function [rounds]: one call of each in turn, `rounds` times over.

    What a function returns is waited for. The first call of each (compilation) is not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for function in functions.values():
        jax.block_until_ready(function())
    for _ in range(rounds):
        for name, function in functions.items():
            begin = time.perf_counter()
            jax.block_until_ready(function())
            seconds[name].append(time.perf_counter() - begin)
    return {name: np.asarray(values) for name, values in seconds.items()}


def quartiles(values: np.ndarray) -> list[float]:
    """[lower quartile, median, upper quartile]."""
    return [float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])]


def spread(values: np.ndarray, digits: int = 2) -> str:
    """'median (lower to upper quartile)'."""
    low, middle, high = quartiles(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def machine() -> dict[str, Any]:
    """Versions, device and processor: what a figure was measured on."""
    return files.versions() | {"processor": _processor()}


def _processor() -> str:
    """The processor's name and number of cores, as far as the system tells."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else "unknown"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
