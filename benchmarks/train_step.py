"""Milliseconds per training step of recovery likelihood, beside the floor of its convolutions.

    python benchmarks/train_step.py                                   # digits and cifar_small
    python benchmarks/train_step.py --shapes=cifar --dtype=bfloat16   # the paper's CIFAR-10 network

The step is the product's own: pmapped, donated, K input gradients and one update, Adam and EMA.

Floor: what the network's convolutions cost as straight-line compiled code and nothing else. Each of
them is run `REPEATS` times, one after the other, forwards and for its input gradient (the chain,
batch B), and with its kernel gradient too (the update, batch 2B), in every formulation of
`ebm_jax.networks.convolution`; the fastest counts. floor = K * sum(chain) + sum(update).

All are timed in turn in one process. A table on stdout, the same as JSON in benchmarks/results/.
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from jax.interpreters import partial_eval
from measure import machine, quartiles, table, time_in_turn

from ebm_jax import command_line, data, networks
from ebm_jax.io import files
from ebm_jax.methods import RecoveryLikelihood
from ebm_jax.networks import convolution
from ebm_jax.networks.recovery_resnet import RecoveryResNet
from ebm_jax.training import device_state
from ebm_jax.training.state import init_train_state
from ebm_jax.training.train_step import make_train_step


class Shape(NamedTuple):
    """A network, its images and its batch; K = 30 everywhere."""

    image_size: int
    channels: int
    width: int
    multipliers: tuple[int, ...]
    num_blocks: int
    batch_size: int
    accelerator_batch_size: int


SHAPES = {
    "digits": Shape(8, 1, 32, (1, 2, 2), 1, 64, 64),
    "cifar_small": Shape(32, 3, 32, (1, 2, 2, 2), 1, 16, 16),
    "cifar": Shape(32, 3, 128, (1, 2, 2, 2), 8, 8, 256),
}
NUM_STEPS = 30
REPEATS = 12


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default="digits,cifar_small", help=f"of {', '.join(SHAPES)}")
    parser.add_argument("--rounds", type=int, default=11)
    add_network_arguments(parser)
    parser.add_argument("--no_floor", action="store_true", help="time the steps alone")
    parser.add_argument("--out", default="benchmarks/results/train_step.json")
    return parser.parse_args()


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """What `network` and `batch_size_of` read, and how many devices the CPU is split into."""
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    parser.add_argument("--formulation", default="auto", help="auto, native, flipped or dense")
    parser.add_argument("--cpu_devices", type=int, default=2, help="of no effect on accelerators")
    parser.add_argument("--batch_size", type=int, default=0, help="0: the shape's own")


def batch_size_of(shape: Shape, args: argparse.Namespace) -> int:
    """--batch_size, or the shape's own on this platform."""
    on_cpu = jax.default_backend() == "cpu"
    return args.batch_size or (shape.batch_size if on_cpu else shape.accelerator_batch_size)


class Layer(NamedTuple):
    """A convolution as the network calls it: of [batch, size, size, c_in], 3 x 3, to c_out."""

    size: int
    c_in: int
    c_out: int


def network(shape: Shape, args: argparse.Namespace) -> RecoveryResNet:
    return RecoveryResNet(
        shape.image_size,
        shape.channels,
        shape.width,
        shape.multipliers,
        shape.num_blocks,
        formulation=args.formulation,
        dtype=jnp.dtype(args.dtype),
    )


def train_step_of(module: RecoveryResNet) -> tuple[Callable, Callable]:
    """(train step, rng_key -> its state) of the paper's run with this network."""
    method = RecoveryLikelihood(module, num_steps=NUM_STEPS)
    optimizer = optax.adam(1e-4)
    step = make_train_step(
        method,
        optimizer,
        rng_key=jax.random.key(0),
        ema_decay=0.999,
        preprocess=lambda _, x: data.scale_images(x, -1.0, 1.0),
    )

    def init(rng_key):
        example_batch = {"image": jnp.zeros((1, *module.input_shape))}
        return init_train_state(rng_key, method, optimizer, example_batch)

    return step, init


def layers_of(module: RecoveryResNet) -> list[Layer]:
    """The convolutions of one evaluation, in order."""
    found = []

    def record(call, args, kwargs, context):
        if isinstance(context.module, convolution.Conv):
            _, size, _, c_in = args[0].shape
            found.append(Layer(size, c_in, context.module.features))
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        x = jnp.zeros((1, *module.input_shape))
        jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros(1, jnp.int32))
    return found


def count_convolutions(jaxpr: Any) -> int:
    """Convolutions and matrix products of rank above 1 that a jaxpr runs, loops multiplied out."""
    total = 0
    for eqn in jaxpr.eqns:
        times = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
            total += 1
        for inner in jax.tree.leaves(
            list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += times * count_convolutions(inner)
    return total


def gradients_per_step(module: RecoveryResNet, batch_size: int) -> float:
    """Input gradients in one chain, from jaxprs without their dead code.

    Counted as convolutions of a K-step chain above those of a chain of one step, over those of one
    energy and its gradient; plus the one of the first step.
    """
    x = jnp.zeros((batch_size, *module.input_shape))
    level = jnp.zeros(batch_size, jnp.int32)
    key = jax.random.key(0)

    def count(fn, *inputs):
        closed = jax.make_jaxpr(fn)(*inputs)
        live, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
        return count_convolutions(live)

    def chain(num_steps):
        method = RecoveryLikelihood(module, num_steps=num_steps)
        params, state = jax.jit(method.init)(key, {"image": x})
        return count(lambda x: method.loss(params, state, {"image": x, "index": level}, key)[0], x)

    @jax.jit
    def normalized(key):
        return networks.normalize_params(module, module.init(key, x, level)["params"])[0]

    energy_fn = networks.bind(module, normalized(key), level)
    one = count(jax.value_and_grad(lambda x: energy_fn(x).sum()), x)
    return 1 + (chain(NUM_STEPS) - chain(1)) / one


def straight_line(layer: Layer, how: str, batch_size: int, *, update: bool, dtype: Any) -> Callable:
    """REPEATS times one layer with its gradients, pmapped, each waiting for the one before."""
    devices = jax.local_device_count()
    rng = np.random.default_rng(0)
    image_shape = (layer.size, layer.size)

    def arrays(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    def one(x, kernel, weights):
        def apply(x, kernel):
            prepared = (
                weights
                if kernel is None
                else convolution.prepare_kernel(kernel, image_shape, formulation=how)
            )
            return convolution.convolve(x, prepared)

        if update:
            y, pullback = jax.vjp(apply, x, kernel)
            return y, pullback(y)
        y, pullback = jax.vjp(lambda x: apply(x, None), x)
        return y, pullback(y)

    @jax.pmap
    def run(x, kernel, weights):
        for _ in range(REPEATS):
            results = jax.lax.optimization_barrier(one(x, kernel, weights))
            # The next repetition starts from another x, so that none is left out as done already.
            touched = sum(leaf.ravel()[0] for leaf in jax.tree.leaves(results))
            x = x.at[0, 0, 0, 0].add((1e-6 * touched).astype(x.dtype))
        return x

    x = arrays(devices, batch_size // devices, *image_shape, layer.c_in)
    kernel = jnp.broadcast_to(
        arrays(3, 3, layer.c_in, layer.c_out), (devices, 3, 3, layer.c_in, layer.c_out)
    )
    prepare = functools.partial(
        convolution.prepare_kernel, image_shape=image_shape, formulation=how
    )
    weights = jax.pmap(prepare)(kernel)
    return lambda: run(x, kernel, weights)


def floor_functions(
    layers: list[Layer], batch_size: int, dtype: Any, parts: tuple[str, ...] = ("chain", "update")
) -> dict[tuple, Callable]:
    """{(layer, part, formulation): straight-line code} for every distinct layer."""
    found = {}
    for layer in dict.fromkeys(layers):
        ways = ["native"]
        if jax.default_backend() == "cpu":
            ways += ["flipped"] + (["dense"] if layer.size <= 4 else [])
        for how in ways:
            for part in parts:
                found[layer, part, how] = straight_line(
                    layer,
                    how,
                    batch_size if part == "chain" else 2 * batch_size,
                    update=part == "update",
                    dtype=dtype,
                )
    return found


def floor_seconds(
    layers: list[Layer], seconds: dict[tuple, np.ndarray], part: str
) -> tuple[float, dict[str, dict[str, Any]]]:
    """All layers once, each in its fastest formulation; and the milliseconds of every one."""
    total, each = 0.0, {}
    for layer in layers:
        medians = {
            how: float(np.median(values)) / REPEATS
            for (found, of, how), values in seconds.items()
            if (found, of) == (layer, part)
        }
        total += min(medians.values())
        name = f"{layer.size}x{layer.size} {layer.c_in}->{layer.c_out}"
        each[name] = {how: 1e3 * value for how, value in medians.items()}
    return total, each


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    shape = SHAPES[name]
    batch_size = batch_size_of(shape, args)
    devices = jax.device_count()
    module = network(shape, args)
    step, init = train_step_of(module)
    state = device_state.to_devices(jax.device_get(jax.jit(init)(jax.random.key(0))))
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (devices, batch_size // devices, *module.input_shape), np.uint8)
    batch = {"image": jnp.asarray(images)}

    compiled_step = device_state.pmap_train_step(step)
    begin = time.perf_counter()
    compiled = compiled_step.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - begin
    memory = compiled.memory_analysis()
    holder = [state]

    def one_step():
        holder[0], metrics = compiled_step(holder[0], dict(batch))
        return metrics

    layers = layers_of(module)
    floors = {} if args.no_floor else floor_functions(layers, batch_size, jnp.dtype(args.dtype))
    seconds = time_in_turn({"step": one_step, **floors}, args.rounds)
    steps = seconds.pop("step")
    result = {
        "shape": shape._asdict(),
        "batch_size": batch_size,
        "dtype": args.dtype,
        "formulation": args.formulation,
        "rounds": args.rounds,
        "milliseconds_per_step": quartiles(1e3 * steps),
        "images_per_second": quartiles(batch_size / steps),
        "compile_seconds": compile_seconds,
        "input_gradients_per_step": gradients_per_step(module, 2),
        "temporary_bytes_per_device": memory.temp_size_in_bytes,
        "argument_bytes_per_device": memory.argument_size_in_bytes,
    }
    if floors:
        (chain, in_chain), (update, in_update) = (
            floor_seconds(layers, seconds, part) for part in ("chain", "update")
        )
        floor = NUM_STEPS * chain + update
        result |= {
            "floor_milliseconds": 1e3 * floor,
            "floor_over_step": quartiles(floor / steps),
            "layers_milliseconds": {"chain": in_chain, "update": in_update},
        }
    if (stats := jax.local_devices()[0].memory_stats()) and "peak_bytes_in_use" in stats:
        result["peak_bytes_in_use"] = stats["peak_bytes_in_use"]
    return result


def row(name: str, result: dict[str, Any], steps: list[float]) -> list[str]:
    low, middle, high = steps
    floor = result.get("floor_milliseconds")
    share = result.get("floor_over_step")
    mebibytes = (result["temporary_bytes_per_device"] + result["argument_bytes_per_device"]) / 2**20
    return [
        name,
        f"{middle:.0f} ({low:.0f} to {high:.0f})",
        f"{result['images_per_second'][1]:.0f}",
        f"{floor:.0f}" if floor else "-",
        f"{share[1]:.2f} ({share[0]:.2f} to {share[2]:.2f})" if share else "-",
        f"{result['input_gradients_per_step']:.2f}",
        f"{result['compile_seconds']:.0f}",
        f"{mebibytes:.0f}",
    ]


def main() -> None:
    args = parse()
    command_line.split_cpu(args.cpu_devices)
    head = ["shape", "ms per step", "images/s", "floor, ms", "floor / step", "input gradients",
            "compile, s", "MiB per device"]  # fmt: skip
    results = {name: measure(name, args) for name in args.shapes.split(",")}
    print(table(head, [row(n, r, r["milliseconds_per_step"]) for n, r in results.items()]))
    measured_on = machine()
    files.write_json(args.out, {"measured_on": measured_on, "train_step": results})
    print(f"\n{measured_on}\nwritten to {args.out}")


if __name__ == "__main__":
    main()
