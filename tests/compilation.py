"""How tests compile what takes longer to compute than to compile; conftest.py has all the rest."""

import functools
import importlib.metadata

import jax

OPTIONS: dict[str, bool | int] = {"xla_backend_optimization_level": 3}
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones have one kind alone
    OPTIONS["xla_cpu_use_fusion_emitters"] = True
jit_optimized = functools.partial(jax.jit, compiler_options=OPTIONS)
