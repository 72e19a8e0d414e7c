"""The functions that `--mode=export` wrote; needs jax, numpy and flatbuffers alone.

model = load("runs/digits/export")                       # this file is in that folder too
energies = model["energy"](x, level)                     # x [n, ...] float32, level int
images = model["sample"](seed, np.arange(n, dtype=np.int32))
"""

import functools
import pathlib

import jax
import numpy as np
from jax import export


def load(folder: str | pathlib.Path = pathlib.Path(__file__).parent) -> dict:
    """Each function by its name, its parameters bound; export.json says what they take and give."""
    params = dict(np.load(pathlib.Path(folder) / "params.npz"))

    def bound(path: pathlib.Path):
        program = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
        return functools.partial(program, params)

    return {path.stem: bound(path) for path in pathlib.Path(folder).glob("*.stablehlo")}
