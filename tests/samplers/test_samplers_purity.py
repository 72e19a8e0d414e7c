"""`import ebm_jax.samplers` brings in jax and numpy, and nothing else."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import jax, jax.numpy, jax.tree_util, jax.scipy.special, numpy
def installed():
    return {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
before = installed()
from ebm_jax import samplers
after = installed()
every_name = {name: hasattr(samplers, name) for name in samplers.__all__}
print(json.dumps([sorted(before), sorted(after - before), every_name]))
"""
UNWANTED = {
    "absl", "blackjax", "chex", "etils", "flax", "matplotlib", "ml_collections", "optax", "orbax",
    "pandas", "rich", "scipy", "sklearn", "tensorboardX", "tensorflow", "tensorflow_datasets",
    "torch", "tqdm",
}  # fmt: skip


def test_import_brings_in_jax_and_numpy_alone():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    jax_brings, we_bring, every_name = json.loads(done.stdout)
    assert set(we_bring) == {"ebm_jax"}
    assert not (UNWANTED - set(jax_brings)) & set(we_bring)
    assert all(every_name.values())
