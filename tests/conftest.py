"""Eight CPU devices, quick compilation, and compiled programs shared by all processes of a run.

All are set before jax is imported anywhere; the workers of pytest-xdist inherit them. Without
LLVM's optimizations, with XLA's earlier emitters of loops and each program in one piece it compiles
in a quarter of the time, and most of the tests' time is that. Passes that make loops faster and
nothing possible are left out: another eighth. Without `algsimp` too it would be a third, but then
gradients of paddings do not compile and a log Z came out wrong. Flags of XLA_FLAGS come last and
win:

    XLA_FLAGS="--xla_cpu_use_fusion_emitters=true --xla_backend_optimization_level=3" pytest

A jaxlib that does not know a flag ends the process: newer ones get none that may be gone.
"""

import gc
import importlib.metadata
import os
import pathlib
import tempfile
from collections.abc import Iterator

import pytest

_NO_PASSES = (
    "simplify-while-loops",
    "while-loop-invariant-code-motion",
    "while-loop-constant-sinking",
    "reshape-mover",
    "tree_reduction_rewriter",
    "simplify-sorts",
)
QUICK = f"--xla_backend_optimization_level=0 --xla_disable_hlo_passes={','.join(_NO_PASSES)}"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
DEVICES = "--xla_force_host_platform_device_count=8"
if QUICK not in os.environ.get("XLA_FLAGS", ""):  # else a worker's, whose parent set them
    os.environ["XLA_FLAGS"] = f"{QUICK} {os.environ.get('XLA_FLAGS', '')} {DEVICES}"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # in the first process: it removes the folder
    compiled = tempfile.TemporaryDirectory(prefix="ebm_jax_tests_", ignore_cleanup_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
# What takes less is compiled again sooner than it is written and read.
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")

# Tracing makes objects by the million, nearly all of which end without a look for cycles.
gc.set_threshold(50_000, 20, 50)


def pytest_xdist_auto_num_workers() -> int | None:
    """One more than cores: a worker leaves its core while it waits for a process or a device."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None  # that many
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True, scope="module")
def one_context() -> Iterator[None]:
    """Lowerings of a file share a context."""
    from compilation import shared_context

    with shared_context():
        yield


MAX_MAPPINGS = 16_384  # of the 65,530 that Linux allows a process; with twice as many it has 4 GB


@pytest.fixture(autouse=True, scope="module")
def programs_are_let_go() -> Iterator[None]:
    """Forgets compiled programs before they are too many: each holds mappings of memory.

    A process that reaches Linux's limit of them ends in a segmentation fault.
    """
    yield
    mappings = pathlib.Path("/proc/self/maps")
    if mappings.exists() and mappings.read_bytes().count(b"\n") > MAX_MAPPINGS:
        import jax

        jax.clear_caches()
        gc.collect()
