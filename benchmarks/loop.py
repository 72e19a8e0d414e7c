"""What the training loop adds to its steps: its own rate beside that of back-to-back steps.

    python benchmarks/loop.py

Both run the step of configs/digits.py in this process, in turn. The loop does all that it does in
a run: batches, progress bar, metrics to disk and TensorBoard, checkpoints; its rate is that of its
own log, from the first line to the last, so without compilation and the final picture. Back to back
means the compiled step on one batch again and again, each waited for, as the loop does on a CPU. A
table on stdout, the same as JSON in benchmarks/results/.
"""

import argparse
import json
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
from measure import machine, quartiles, spread, table
from methods_on_digits import load_config

from ebm_jax import command_line, data, tasks
from ebm_jax.io import files
from ebm_jax.runs import build
from ebm_jax.training import device_state
from ebm_jax.training.train_step import make_train_step


def rate_of_the_loop(config: Any) -> float:
    """Steps per second of a run in a new workdir."""
    with tempfile.TemporaryDirectory() as folder:
        tasks.run("train", config, f"{folder}/run")
        text = pathlib.Path(folder, "run", "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    first, last = lines[0], lines[-1]
    return (last["step"] - first["step"]) / (last["time"] - first["time"])


def back_to_back(config: Any) -> Any:
    """() -> steps per second of the compiled step, on one batch."""
    run = build.build(config)
    train_step = make_train_step(
        run.method, build.make_optimizer(config),
        rng_key=run.key("train"), ema_decay=config.training.ema_decay, preprocess=run.preprocess(),
    )  # fmt: skip
    step = device_state.pmap_train_step(train_step)
    holder = [device_state.to_devices(build.init_state(run))]
    batch = data.local_batch(
        run.dataset,
        1,
        seed=config.seed,
        global_batch_size=config.training.batch_size,
        local_devices=jax.local_device_count(),
    )

    def rate() -> float:
        begin = None
        for n in range(config.training.num_steps):
            holder[0], metrics = step(holder[0], dict(batch))
            jax.block_until_ready(metrics)
            if n == 0:  # compiled now, if it was not before
                begin = time.perf_counter()
        return (config.training.num_steps - 1) / (time.perf_counter() - begin)

    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="of each run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", default="benchmarks/results/loop.json")
    args = parser.parse_args()
    config = load_config("digits")
    config.training.num_steps = args.steps
    config.train.sample_every = 0
    command_line.use_compilation_cache()
    command_line.split_cpu(config.cpu_devices)

    steps_alone = back_to_back(config)
    rates: dict[str, list[float]] = {"loop": [], "back to back": []}
    for _ in range(args.rounds):
        rates["loop"].append(rate_of_the_loop(config))
        rates["back to back"].append(steps_alone())
    loops, alone = (np.asarray(values) for values in rates.values())
    ratio = loops / alone
    rows = [[name, spread(np.asarray(values))] for name, values in rates.items()]
    print(table(["", "steps/s"], [*rows, ["ratio", spread(ratio, 3)]]))
    measured_on = machine()
    files.write_json(
        args.out,
        {
            "measured_on": measured_on,
            "steps": args.steps,
            "steps_per_second": {name: quartiles(np.asarray(v)) for name, v in rates.items()},
            "ratio": quartiles(ratio),
        },
    )
    print(f"\n{measured_on}\nwritten to {args.out}")


if __name__ == "__main__":
    main()
