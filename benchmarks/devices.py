"""Weak scaling of the training step over forced CPU devices, and what the devices exchange.

    python benchmarks/devices.py

Each number of devices runs in a process of its own, with the same batch per device, on the network
of benchmarks/train_step.py's `digits`. Where devices share cores their work adds up, so the last
column matters: time per device, one being the time on one device. The all-reduces are counted in
the compiled HLO. A table on stdout, the same as JSON in benchmarks/results/.
"""

import argparse
import json
import math
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from measure import machine, quartiles, table, time_in_turn
from train_step import SHAPES, network, train_step_of

from ebm_jax import command_line
from ebm_jax.io import files
from ebm_jax.training import device_state

DEVICES = (1, 2, 4, 8)
BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}


def all_reduces(hlo: str) -> list[int]:
    """Bytes that each all-reduce of a compiled program sums per device."""
    found = []
    for result in re.findall(r"= (.+?) all-reduce(?:-start)?\(", hlo):
        arrays = re.findall(r"(\w+)\[([\d,]*)\]", result)
        found.append(
            sum(
                BYTES[kind] * math.prod(int(n) for n in shape.split(",") if n)
                for kind, shape in arrays
            )
        )
    return found


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The step on args.devices devices, in this process."""
    command_line.split_cpu(args.devices)
    module = network(SHAPES["digits"], args)
    step, init = train_step_of(module)
    state = device_state.to_devices(jax.device_get(jax.jit(init)(jax.random.key(0))))
    shape = (args.devices, args.per_device, *module.input_shape)
    batch = {"image": jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))}
    pmapped = device_state.pmap_train_step(step)
    hlo = pmapped.lower(state, batch).compile().as_text()
    holder = [state]

    def one_step():
        holder[0], metrics = pmapped(holder[0], dict(batch))
        return metrics

    seconds = time_in_turn({"step": one_step}, args.rounds)["step"]
    return {"milliseconds": quartiles(1e3 * seconds), "all_reduce_bytes": all_reduces(hlo)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--per_device", type=int, default=8, help="images per device")
    parser.add_argument("--dtype", default="float32", help="float32 or bfloat16")
    parser.add_argument("--formulation", default="auto", help="auto, native, flipped or dense")
    parser.add_argument("--devices", type=int, default=0, help="this many in this process; 0: all")
    parser.add_argument("--out", default="benchmarks/results/devices.json")
    args = parser.parse_args()
    if args.devices:
        print(json.dumps(measure(args)))
        return
    results = {}
    for devices in DEVICES:
        command = [sys.executable, __file__, f"--devices={devices}", f"--rounds={args.rounds}",
                   f"--per_device={args.per_device}", f"--dtype={args.dtype}",
                   f"--formulation={args.formulation}"]  # fmt: skip
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        results[devices] = json.loads(out.splitlines()[-1])
    one = results[1]["milliseconds"][1]
    head = ["devices", "batch", "ms per step", "all-reduces", "KiB in them", "time per device"]
    rows = []
    for devices, found in results.items():
        low, middle, high = found["milliseconds"]
        reduced = found["all_reduce_bytes"]
        rows.append(
            [
                str(devices),
                str(devices * args.per_device),
                f"{middle:.0f} ({low:.0f} to {high:.0f})",
                str(len(reduced)),
                f"{sum(reduced) / 1024:.0f}",
                f"{middle / one / devices:.2f}",
            ]
        )
    print(table(head, rows))
    measured_on = machine()
    files.write_json(
        args.out, {"measured_on": measured_on, "settings": vars(args), "devices": results}
    )
    print(f"\n{measured_on}\nwritten to {args.out}")


if __name__ == "__main__":
    main()
