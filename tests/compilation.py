"""How tests compile what takes longer to compute than to compile; conftest.py has all the rest."""

import functools

import jax

jit_optimized = functools.partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 3, "xla_cpu_use_fusion_emitters": True},
)
