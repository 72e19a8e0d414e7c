"""Runs of main.py that train for a given time: a first short run tells the steps per second."""

import importlib
import json
import pathlib
import subprocess
import sys
import time
from typing import Any

from ebm_jax.io import files

ROOT = pathlib.Path(__file__).parent.parent
CALIBRATION_STEPS = 60


def load_config(name: str) -> Any:
    """The config of configs/<name>, as `digits.py` or `toy2d.py:rings`, beside this package."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    module, _, variant = name.partition(".py")
    get_config = importlib.import_module(f"configs.{module}").get_config
    return get_config(variant[1:]) if variant else get_config()


def run_main(name: str, workdir: pathlib.Path, *flags: str) -> float:
    """Runs main.py in a process of its own; returns the seconds that it took."""
    command = [
        sys.executable,
        "main.py",
        f"--config=configs/{name}",
        f"--workdir={workdir.resolve()}",
        "--config.train.sample_every=0",
        *flags,
    ]
    begin = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    return time.perf_counter() - begin


def steps_per_second(workdir: pathlib.Path) -> float:
    """Mean rate of a run from its first line of metrics to its last."""
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    return (last["step"] - first["step"]) / (last["time"] - first["time"])


def num_steps_in(name: str, workdir: pathlib.Path, seconds: float) -> int:
    """Steps of a config in so many seconds of training; kept, so that a run can go on."""
    schedule_file = workdir / "num_steps.json"
    if not schedule_file.exists():
        trial = workdir / "calibration"
        run_main(
            name,
            trial,
            f"--config.training.num_steps={CALIBRATION_STEPS}",
            f"--config.train.log_every={CALIBRATION_STEPS // 2}",
            "--config.optimizer.warmup_steps=0",
        )
        rate = steps_per_second(trial)
        files.write_json(schedule_file, {"num_steps": max(1, round(rate * seconds))})
    return json.loads(schedule_file.read_text())["num_steps"]
