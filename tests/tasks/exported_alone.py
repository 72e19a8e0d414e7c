"""Calls what --mode=export wrote in a process that has neither this package nor flax.

python exported_alone.py FOLDER inputs.npz outputs.npz
"""

import runpy
import sys

import numpy as np

folder, given, found = sys.argv[1:]
for name in ("ebm_jax", "flax", "optax", "orbax", "ml_collections"):
    sys.modules[name] = None  # an import of it raises
model = runpy.run_path(f"{folder}/load.py")["load"](folder)
inputs = np.load(given)
outputs = {
    "energy": model["energy"](inputs["x"], 0),
    "grad": model["energy_and_grad"](inputs["x"], 0)[1],
    "noisier": model["energy"](inputs["x"], 1),
    "one": model["energy"](inputs["x"][:1], 0),
    "sample": model["sample"](3, inputs["index"]),
}
np.savez(found, **outputs)
print(*sorted(model))
