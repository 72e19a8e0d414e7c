"""Ways to lower and to compile; conftest.py makes the quick ones the usual ones."""

import functools
import importlib.metadata
from contextlib import AbstractContextManager, nullcontext
from unittest import mock

import jax
from jax._src.interpreters import mlir

NEWER_EMITTERS: dict[str, bool | int] = {}  # of loops; later releases have no others
if importlib.metadata.version("jaxlib").startswith("0.10."):
    NEWER_EMITTERS["xla_cpu_use_fusion_emitters"] = True

# For what takes longer to compute than to compile.
jit_optimized = functools.partial(
    jax.jit, compiler_options={"xla_backend_optimization_level": 3, **NEWER_EMITTERS}
)
# Programs of two kinds of index need not round alike with the earlier emitters of loops.
jit_alike = functools.partial(jax.jit, compiler_options=NEWER_EMITTERS)


def shared_context() -> AbstractContextManager:
    """Lowerings share MLIR's context, which JAX else makes for each: a twelfth of the tests' time.

    It keeps what it has seen: not for ever. Private to JAX: a release without it makes its own.
    """
    if not hasattr(mlir, "make_ir_context"):
        return nullcontext()
    return mock.patch.object(mlir, "make_ir_context", functools.cache(mlir.make_ir_context))
