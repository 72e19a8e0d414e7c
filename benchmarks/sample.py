"""Images per second of progressive sampling, and what it costs against levels, steps and batch.

    python benchmarks/sample.py                        # digits, as benchmarks/train_step.py has it
    python benchmarks/sample.py --shape=cifar_small

The sampler is the product's own, pmapped. One of T, K and the batch varies at a time around the
shape's own; all are timed in turn in one process. Linear cost means a constant time per image and
gradient; flat memory means that what a chain holds does not grow with T or K. A table on stdout, a
plot and JSON in benchmarks/results/.

Floor, for T = 6, K = 30 and the shape's own batch: T K times what the network's convolutions and
their input gradients cost as straight-line code, as in benchmarks/train_step.py.
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measure import machine, quartiles, spread, table, time_in_turn
from train_step import (
    SHAPES,
    add_network_arguments,
    batch_size_of,
    floor_functions,
    floor_seconds,
    layers_of,
    network,
)

from ebm_jax import command_line, parallel
from ebm_jax.io import charts, files
from ebm_jax.methods import RecoveryLikelihood

TIMES = (1, 2, 4, 8)  # what varies, in multiples of its smallest value


def cases(batch_size: int) -> list[tuple[str, int, int, int]]:
    """(what varies, T, K, batch)."""
    return (
        [("levels", 2 * n, 30, batch_size) for n in TIMES]
        + [("steps", 6, 10 * n, batch_size) for n in TIMES]
        + [("batch", 6, 30, n * batch_size // 4) for n in TIMES]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="digits", help=f"one of {', '.join(SHAPES)}")
    parser.add_argument("--rounds", type=int, default=7)
    add_network_arguments(parser)
    parser.add_argument("--out", default="benchmarks/results/sample.json")
    args = parser.parse_args()
    command_line.split_cpu(args.cpu_devices)

    shape = SHAPES[args.shape]
    batch_size = batch_size_of(shape, args)
    module = network(shape, args)
    key = jax.random.key(0)
    x = jnp.zeros((1, *module.input_shape))
    params = jax.jit(module.init)(key, x, jnp.zeros(1, jnp.int32))["params"]

    functions, memory = {}, {}
    for case in cases(batch_size):
        _, num_pairs, num_steps, size = case
        method = RecoveryLikelihood(module, num_pairs=num_pairs, num_steps=num_steps)
        index = np.arange(size, dtype=np.int32)
        sampler = parallel.map_examples(
            lambda params, index, method=method: {"x": method.sample(params, key, index)}, size
        )
        functions[case] = lambda sampler=sampler, index=index: sampler(params, index)
        on_one = jax.jit(method.sample).lower(params, key, index).compile()
        memory[case] = on_one.memory_analysis().temp_size_in_bytes
    layers = layers_of(module)
    floors = floor_functions(layers, batch_size, jnp.dtype(args.dtype), ("chain",))
    seconds = time_in_turn(functions | floors, args.rounds)

    results = [describe(case, seconds[case], memory[case]) for case in functions]
    num_pairs, num_steps = 6, 30
    of_layers = {key: seconds[key] for key in floors}
    floor = num_pairs * num_steps * floor_seconds(layers, of_layers, "chain")[0]
    share = floor / seconds["batch", num_pairs, num_steps, batch_size]
    print(table(list(results[0]), [[show(v) for v in found.values()] for found in results]))
    print(f"\nT = {num_pairs}, K = {num_steps}, batch {batch_size}: floor {floor:.3f} s, "
          f"floor / time {spread(share)}")  # fmt: skip
    measured_on = machine()
    settings = vars(args) | {"shape_of": shape._asdict(), "batch_size": batch_size}
    files.write_json(
        args.out,
        {
            "measured_on": measured_on,
            "settings": settings,
            "sample": results,
            "floor_seconds": floor,
            "floor_over_time": quartiles(share),
        },
    )
    picture = args.out.replace(".json", ".png")
    draw(picture, results)
    print(f"\n{measured_on}\nwritten to {args.out} and {picture}")


def describe(case: tuple[str, int, int, int], seconds: np.ndarray, memory: int) -> dict[str, Any]:
    varies, num_pairs, num_steps, size = case
    return {
        "varies": varies,
        "T": num_pairs,
        "K": num_steps,
        "batch": size,
        "seconds": spread(seconds),
        "images/s": size / quartiles(seconds)[1],
        "microseconds per image and gradient": 1e6
        * quartiles(seconds)[1]
        / (size * num_pairs * num_steps),
        "temporary MiB": memory / 2**20,
    }


def show(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def draw(path: str, results: list[dict[str, Any]]) -> None:
    """Time per image and gradient while each of T, K and the batch grows."""
    cost = "microseconds per image and gradient"
    curves = {
        varies: [found[cost] for found in results if found["varies"] == varies]
        for varies in ("levels", "steps", "batch")
    }
    charts.line_figure(path, TIMES, curves, x_label="times the smallest", y_label=cost)


if __name__ == "__main__":
    main()
