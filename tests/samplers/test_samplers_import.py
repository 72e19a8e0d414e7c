"""The samplers bring in jax and numpy and nothing else."""

import json
import subprocess
import sys

PROGRAM = """
import json, sys
import numpy, jax, jax.numpy, jax.sharding
before = set(sys.modules)
import ebm_jax.samplers
after = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps([sorted(after), sorted(name.partition(".")[0] for name in sys.modules)]))
"""


def test_import_brings_in_jax_and_numpy_alone():
    out = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, check=True, text=True
    )
    new, everything = json.loads(out.stdout)
    assert set(new) - set(sys.stdlib_module_names) == {"ebm_jax"} | (set(new) & {"jax", "jaxlib"})
    forbidden = {"flax", "optax", "absl", "tensorflow", "orbax", "matplotlib", "blackjax", "chex"}
    assert not forbidden & set(everything)


def test_everything_named_is_there():
    from ebm_jax import samplers

    assert samplers.__all__ == sorted(samplers.__all__)
    for name in set(samplers.__all__) - {"EnergyFn"}:  # a type of callables
        assert getattr(samplers, name).__doc__, name
