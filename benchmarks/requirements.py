"""What a training step of each row needs: parameters, arithmetic, and bytes on a device.

    pip install libtpu
    python benchmarks/requirements.py                                # every row, one device
    python benchmarks/requirements.py --rows=cifar10,celeba64 --devices=4
    python benchmarks/requirements.py --compiler=cpu --ways=plain,parts    # a minute or two a row

Nothing is run and no accelerator is needed: the product's own step is compiled for a TPU v5e by its
compiler, which says what it would keep in memory. It shows which batch fits before one rents. That
compiler takes ten minutes for a small row and longer for others. XLA's for CPUs is quick; it keeps
more (2.3 GiB of fashion_mnist, where that one keeps 1.4) and does not save what `remat` could.

FLOPs are those of convolutions and matrix products, two for each multiplication, loops multiplied
out; not what `--remat` computes again. Bytes are arguments (parameters, EMA, moments, buffers) and
temporaries. A table on stdout, the same as JSON in benchmarks/results/.
"""

import argparse
import importlib
import importlib.metadata
import math
import os
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from measure import table

from ebm_jax import data
from ebm_jax.io import files
from ebm_jax.runs import build
from ebm_jax.training.train_step import make_train_step


class Row(NamedTuple):
    """Height and width of a config's images, their channels, and its classes."""

    image_size: int
    channels: int = 3
    num_classes: int = 1


ROWS = {
    "cifar10": Row(32),
    "cifar10:t1k": Row(32),
    "celeba64": Row(64),
    "lsun_church64": Row(64),
    "lsun_bedroom64": Row(64),
    "lsun_church128": Row(128),
    "lsun_bedroom128": Row(128),
    "cifar10_igebm": Row(32),
    "cifar10_igebm:conditional": Row(32, num_classes=10),
    "imagenet32_igebm": Row(32, num_classes=1_000),
    "imagenet128_igebm": Row(128, num_classes=1_000),
    "cifar10_mdsm": Row(32),
    "celeba_mdsm": Row(32),
    "fashion_mnist": Row(32, channels=1),
    "fashion_mnist_igebm": Row(32, channels=1),
    "fashion_mnist_mdsm": Row(32, channels=1),
}
# As it is; in parts; with blocks computed again; both; with kernels and activations of 16 bit.
WAYS = {
    "plain": {},
    "parts": {"microbatch": True},
    "remat": {"remat": True},
    "both": {"microbatch": True, "remat": True},
    "bfloat16": {"dtype": "bfloat16"},
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", default=",".join(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--ways", default="plain,parts,remat", help=f"of {', '.join(WAYS)}")
    parser.add_argument("--devices", type=int, default=1, help="that share a batch")
    parser.add_argument("--parts", type=int, default=8, help="of a batch, where it is in parts")
    parser.add_argument("--compiler", default="v5e:2x2", help="of this TPU topology, or cpu")
    parser.add_argument("--out", default="benchmarks/results/requirements.json")
    return parser.parse_args()


def run_of(name: str, way: dict[str, Any], args: argparse.Namespace) -> tuple[build.Run, int, int]:
    """(run, examples on a device, parts of them) of a row, with black images for data."""
    row, (file, _, variant) = ROWS[name], name.partition(":")
    module = importlib.import_module(f"configs.{file}")
    config = module.get_config(*[variant] * bool(variant))
    on_device = config.training.batch_size // args.devices
    parts = min(args.parts, on_device) if way.get("microbatch") else 1
    config.compute.update({**way, "formulation": "native", "microbatch": 0})
    shape = (row.image_size, row.image_size, row.channels)
    images = np.zeros((1, *shape), np.uint8)
    dataset = data.Dataset(
        config.data.name, "train", images, np.zeros(1, np.int32), row.num_classes, (0.0, 255.0)
    )
    return build.build(config, dataset), on_device, parts


def count_flops(jaxpr: Any) -> float:
    """Of convolutions and matrix products, loops multiplied out."""
    total = 0.0
    for equation in jaxpr.eqns:
        name, times = equation.primitive.name, 1
        if name in ("conv_general_dilated", "dot_general"):
            total += 2 * _multiplications(equation)
        if name == "scan":
            times = equation.params["length"]
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += times * count_flops(inner)
    return total


def _multiplications(equation: Any) -> float:
    left, right = (variable.aval.shape for variable in equation.invars)
    (out,) = (variable.aval.shape for variable in equation.outvars)
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return math.prod(out) * math.prod(left[axis] for axis in contracted)
    of_kernel = equation.params["dimension_numbers"].rhs_spec  # out, in, spatial
    return math.prod(out) * math.prod(right[axis] for axis in of_kernel[1:])


def measure(name: str, way: str, args: argparse.Namespace, device: Any) -> dict[str, Any]:
    run, on_device, parts = run_of(name, WAYS[way], args)
    step = make_train_step(
        run.method,
        build.make_optimizer(run.config),
        rng_key=run.key("train"),
        ema_decay=run.config.training.ema_decay,
        preprocess=run.preprocess(),
        num_parts=parts,
    )
    there = SingleDeviceSharding(device)
    state = build.state_template(run)
    batch = {
        "image": jax.ShapeDtypeStruct((on_device, *run.dataset.example_shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((on_device,), jnp.int32),
    }
    flops = count_flops(jax.make_jaxpr(step)(state, batch).jaxpr)
    begin = time.perf_counter()
    compiled = (
        jax.jit(step, donate_argnums=0, in_shardings=there, out_shardings=there)
        .lower(state, batch)
        .compile()
    )
    memory = compiled.memory_analysis()
    return {
        "batch_size_per_device": on_device,
        "parts": parts,
        "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params)),
        "flops_per_step_and_device": flops,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "compile_seconds": time.perf_counter() - begin,
    }


def main() -> None:
    args = parse()
    device = _device(args.compiler)
    ways, results, lines = args.ways.split(","), {}, []
    for name in args.rows.split(","):
        found = {}
        for way in ways:
            try:
                found[way] = measure(name, way, args, device)
            except jax.errors.JaxRuntimeError as error:  # the compiler's, for what does not fit
                found[way] = {"refused": str(error).splitlines()[0]}
            print(name, way, found[way], flush=True)
        results[name] = found
        lines.append(_line(name, found))
    print(table(["row", "M parameters", "batch", "TFLOP per step", *ways], lines))
    about = files.versions() | {"compiled_for": args.compiler, "devices": args.devices}
    files.write_json(args.out, {"measured_with": about, "requirements": results})


def _device(compiler: str) -> Any:
    """What is compiled for: a CPU, without LLVM's optimizations, or a TPU that is not there."""
    if compiler == "cpu":
        quick = "--xla_backend_optimization_level=0 "
        if importlib.metadata.version("jaxlib").startswith("0.10."):  # others do not know the flag
            quick += "--xla_cpu_use_fusion_emitters=false "
        os.environ["XLA_FLAGS"] = quick + os.environ.get("XLA_FLAGS", "")
        return jax.devices("cpu")[0]
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU here to be asked
    (device, *_) = topologies.get_topology_desc(platform="tpu", topology_name=compiler).devices
    return device


def _line(name: str, found: dict[str, dict[str, Any]]) -> list[str]:
    first = next(result for result in found.values() if "refused" not in result)
    return [
        name,
        f"{first['parameters'] / 1e6:.2f}",
        f"{first['batch_size_per_device']}",
        f"{first['flops_per_step_and_device'] / 1e12:.3g}",
        *(_gibibytes(result) for result in found.values()),
    ]


def _gibibytes(result: dict[str, Any]) -> str:
    if "refused" in result:
        return "more than there is"
    return f"{(result['argument_bytes'] + result['temporary_bytes']) / 2**30:.1f} GiB"


if __name__ == "__main__":
    main()
