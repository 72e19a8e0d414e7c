"""Ways to compile other than quickly, which conftest.py makes the usual one."""

import functools
import importlib.metadata

import jax

NEWER_EMITTERS: dict[str, bool | int] = {}  # of loops; later releases have no others
if importlib.metadata.version("jaxlib").startswith("0.10."):
    NEWER_EMITTERS["xla_cpu_use_fusion_emitters"] = True

# For what takes longer to compute than to compile.
jit_optimized = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 3, **NEWER_EMITTERS}
)
# Programs of two kinds of index need not round alike with the earlier emitters of loops.
jit_alike = functools.partial(jax.jit, compiler_options=NEWER_EMITTERS)
