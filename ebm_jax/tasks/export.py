"""--mode=export: energy, gradient and sampler as StableHLO, which run without this package.

Each function is a file of `jax.export`: of a batch of any size, for several platforms at once, its
parameters an argument that lies beside it. `load.py`, in the same folder, makes functions of them.
"""

import dataclasses
import functools
import importlib.util
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

from ebm_jax.io import load_exported
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.build import Run, named_key
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.samplers import energy_and_grad
from ebm_jax.settings import setting

IMAGES_ONLY = False

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
_COMPARED = 3  # examples that the functions read back are compared on
_LABELS = {
    "x": "float32 [n, ...] in model units: at the noise of its level where that has some",
    "level": "int32 []: 0, the lowest noise, to num_levels - 1",
    "label": "int32 [n]: a class; or float32 [n, k]: the values of a label",
    "seed": "int32 []",
    "index": "int32 [n]: which samples; i is that of --mode=sample with sampling.seed=seed",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Where the functions shall run."""

    platforms: tuple[str, ...] = setting(
        ("cpu", "cuda", "tpu"), "that every function is lowered for", one_of=_PLATFORMS
    )


class Function(NamedTuple):
    """What is exported.

    call: (params, *arguments) -> arrays. arguments: names, of _LABELS. gives: in words.
    """

    call: Callable[..., Any]
    arguments: tuple[str, ...]
    gives: str


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`export/`: a .stablehlo per function, params.npz, load.py, and export.json.

    Energies are exported in float32 with products at highest precision, samplers as trained. What
    was written is read back, and compared with the functions themselves on this machine.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise ImportError("jax.export writes with flatbuffers: pip install 'ebm_jax[export]'")
    if not settings.platforms:
        raise ValueError(f"export.platforms: expected some of {', '.join(_PLATFORMS)}, got ()")
    params = traverse_util.flatten_dict(trained.params, sep="/")
    functions = _functions(trained)
    arguments = _arguments(trained)
    work.begin("exporting", len(functions))
    contents, described, lines = {}, {}, []
    for name, function in functions.items():
        values = tuple(arguments[argument] for argument in function.arguments)
        content = _lower(name, function, params, values, settings.platforms)
        error = _difference(function, params, values, content, settings.platforms)
        contents[f"{name}.stablehlo"] = content
        described[name] = {
            "arguments": list(function.arguments),
            "gives": function.gives,
            "bytes": len(content),
            "largest_difference": error,
        }
        said = "this platform is none of them" if error is None else f"differs by {error:.1e}"
        lines.append(f"  {name}({', '.join(function.arguments)}): {len(content):,} bytes; {said}")
        work.advance(1, {"exported": float(len(contents))})
    run, source = trained.run, pathlib.Path(load_exported.__file__).read_bytes()
    scale, offset = run.intensity_scale(run.data.low, run.data.high)
    units = {"scale": scale, "offset": offset, "of": "intensities 0 .. 255"}
    return Result(
        num_examples=_COMPARED,
        metrics={
            "functions": described,
            "arguments": _LABELS,
            "platforms": list(settings.platforms),
            "num_levels": len(arguments["a_bar"]),
            "a_bar": arguments["a_bar"],
            "sigma_bar": arguments["sigma_bar"],
            "example_shape": list(run.dataset.example_shape),
            "model_units": units if run.has_images else {"values": run.dataset.value_range},
            "difference": "largest, relative to the largest value, of the function read back",
            "needs": "jax, numpy, flatbuffers",
        },
        summary=[f"step {trained.step} for {', '.join(settings.platforms)}:", *lines],
        figures={},
        archives={"params": {name: np.asarray(value) for name, value in params.items()}},
        other_files=contents | {"load.py": source},
    )


def _functions(trained: TrainedRun) -> dict[str, Function]:
    """Those that this model has, by name."""
    if trained.block_size:
        raise ValueError(
            "sampler.chains: expected 'fresh', as what is exported makes each sample by itself, "
            "got 'refreshed_buffer'"
        )
    with trained.for_densities() as exact:
        run = exact.run
        densities = run.method.densities(trained.params)

    def energy(run: Run, params: Any, x: Any, level: Any) -> Any:
        return run.method.densities(params).energy(level)(x)

    def class_energy(run: Run, params: Any, x: Any, level: Any, label: Any) -> Any:
        of_class = run.method.densities(params).class_energy
        assert of_class is not None
        return of_class(level, label)(x)

    def sample(run: Run, params: Any, seed: Any, index: Any) -> Any:
        return run.method.sample(params, named_key(seed, "sample"), index)

    sampler = _on_platforms(sample, trained.run)
    found = {"sample": Function(sampler, ("seed", "index"), "x [n, ...]")}
    energies: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {}
    if densities.class_energy is not None:
        energies["class_energy"] = (class_energy, ("x", "level", "label"))
    if densities.num_classes or densities.class_energy is None:
        energies["energy"] = (energy, ("x", "level"))
    for name, (of_run, arguments) in energies.items():
        call = _precise(_on_platforms(of_run, run))
        both = _precise(_on_platforms(_with_grad(of_run), run))
        found[name] = Function(call, arguments, "[n] in nats")
        found[f"{name}_and_grad"] = Function(both, arguments, "([n], its gradient in x [n, ...])")
    return found


def _with_grad(energy: Callable[..., Any]) -> Callable[..., Any]:
    def both(run: Run, params: Any, x: Any, *others: Any) -> Any:
        return energy_and_grad(lambda x: energy(run, params, x, *others), x)

    return both


def _precise(call: Callable[..., Any]) -> Callable[..., Any]:
    """With matrix products at highest precision, see `TrainedRun.for_densities`."""

    @functools.wraps(call)
    def precise(*arguments: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return call(*arguments)

    return precise


def _on_platforms(call: Callable[..., Any], run: Run) -> Callable[..., Any]:
    """(flat params, *arguments), convolutions as each platform does them best."""
    formulation = run.config.compute.formulation
    on_cpu, elsewhere = (
        functools.partial(call, run.with_formulation(one if formulation == "auto" else formulation))
        for one in ("flipped", "native")
    )

    def called(flat: dict[str, Any], *arguments: Any) -> Any:
        params = traverse_util.unflatten_dict(flat, sep="/")
        if formulation != "auto":
            return on_cpu(params, *arguments)
        return jax.lax.platform_dependent(params, *arguments, cpu=on_cpu, default=elsewhere)

    return called


def _arguments(trained: TrainedRun) -> dict[str, np.ndarray]:
    """Values of every argument to compare on, and the levels of the densities."""
    run, densities = trained.run, trained.run.method.densities(trained.params)
    x = run.random_examples(run.held_out(), _COMPARED)
    a_bar, sigma_bar = (np.asarray(v) for v in (densities.a_bar, densities.sigma_bar))
    noise = np.random.default_rng(run.sampling.seed).normal(size=x.shape)
    return {
        "x": (a_bar[0] * x + sigma_bar[0] * noise).astype(np.float32),
        "level": np.asarray(0, np.int32),
        "label": np.asarray(run.dataset.labels[: len(x)]),
        "seed": np.asarray(run.sampling.seed, np.int32),
        "index": np.arange(len(x), dtype=np.int32),
        "a_bar": a_bar,
        "sigma_bar": sigma_bar,
    }


def _lower(
    name: str,
    function: Function,
    params: Any,
    values: tuple[Any, ...],
    platforms: tuple[str, ...],
) -> bytes:
    """The function of a batch of any size, serialized.

    Raises:
      ValueError: for one that must know how many examples it is given.
    """
    (batch,) = export.symbolic_shape("n")

    def shape(value: Any) -> jax.ShapeDtypeStruct:
        shape = (batch, *value.shape[1:]) if value.ndim else ()
        return jax.ShapeDtypeStruct(shape, value.dtype)

    templates = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), params)
    exporting = export.export(jax.jit(function.call), platforms=platforms)
    try:
        return bytes(exporting(templates, *map(shape, values)).serialize())
    except (TypeError, jax.errors.InconclusiveDimensionOperation) as error:
        raise ValueError(
            f"{name} cannot be exported for batches of any size, as it asks for theirs (x.shape[0] "
            f"has no value then, and len(x) fails): {str(error).strip().splitlines()[0]}"
        ) from error


def _difference(
    function: Function, params: Any, values: tuple[Any, ...], content: bytes, platforms: Any
) -> float | None:
    """Of the function read back from the function; None where it does not run here."""
    here = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if here not in platforms:
        return None
    expected = jax.jit(function.call)(params, *values)
    found = jax.jit(export.deserialize(bytearray(content)).call)(params, *values)
    errors = jax.tree.map(
        lambda a, b: float(jnp.max(jnp.abs(a - b)) / jnp.maximum(jnp.max(jnp.abs(b)), 1e-30)),
        found,
        expected,
    )
    return max(jax.tree.leaves(errors))
