"""`from ebm_jax import samplers` brings in jax and numpy, and names that are documented."""

import json
import subprocess
import sys
import types

PROGRAM = """
import json, sys
import jax, jax.numpy, jax.sharding, jax.tree_util, jax.scipy.special, jax.custom_batching, numpy
def installed():
    return {name.partition(".")[0] for name in sys.modules} - set(sys.stdlib_module_names)
before = installed()
from ebm_jax import samplers
print(json.dumps([sorted(before), sorted(installed() - before)]))
"""
UNWANTED = {
    "absl", "blackjax", "chex", "etils", "flax", "matplotlib", "ml_collections", "optax", "orbax",
    "pandas", "rich", "scipy", "sklearn", "tensorboardX", "tensorflow", "tensorflow_datasets",
    "torch", "tqdm",
}  # fmt: skip


def test_import_brings_in_jax_and_numpy_alone():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    jax_brings, we_bring = json.loads(done.stdout)
    assert set(we_bring) - {"jax", "jaxlib"} == {"ebm_jax"}  # jax imports parts of itself late
    assert not (UNWANTED - set(jax_brings)) & set(we_bring)


def exports():
    from ebm_jax import samplers

    return {
        name: value
        for name, value in vars(samplers).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith("ebm_jax")
    }


def test_every_export_is_documented():
    found = exports()
    assert len(found) > 60
    for name, value in found.items():
        assert value.__doc__, name
        first = value.__doc__.strip().split("\n")[0]
        assert not first.startswith(("What ", "Where ", "How ", "Of ")), (name, first)


def test_what_others_reached_for_is_public():
    from ebm_jax import samplers

    assert {"energy_and_grad", "norm", "Blend", "roughness"} <= set(exports())
    assert isinstance(samplers.random, types.ModuleType)
    assert callable(samplers.random.normal)
    assert callable(samplers.random.uniform)
