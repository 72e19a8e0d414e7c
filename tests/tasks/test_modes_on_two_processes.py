"""Modes on two processes over loopback: the numbers of one, and what process 0 says."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import gaussian_runs as exact
import numpy as np

WORKER = pathlib.Path(__file__).with_name("two_processes_worker.py")


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def numbers_of(folder):
    """(what has to be equal, log Z): steps that chains were tuned to, energies where they go.

    Of the annealing only the first temperatures: where rounding turns one acceptance into a refusal
    all that follows is another draw.
    """
    long_run = json.loads((folder / "long_run/long_run.json").read_text())
    likelihood = json.loads((folder / "likelihood/likelihood.json").read_text())
    energies = [r["energy"] for r in long_run["records"]]
    sides = [row[way]["log_z"] for row in likelihood["log_z"] for way in ("forward", "reverse")]
    steps = [point["step_size"] for point in likelihood["tuned"]][:4]
    splits = [split["energy"]["mean"] for split in likelihood["splits"].values()]
    return [*long_run["step_sizes_by_level"].values(), *energies, *splits, *steps], sides


def test_two_processes_give_the_numbers_of_one(tmp_path, monkeypatch):
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"),
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(pathlib.Path(__file__).parents[2]),  # configs, too
    }
    port = str(free_port())
    workers = [
        subprocess.Popen(
            [sys.executable, WORKER, str(process), "2", port, tmp_path],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for process in (0, 1)
    ]  # fmt: skip
    try:
        outputs = [worker.communicate(timeout=400)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)
    assert {path.name for path in tmp_path.glob("done_*")} == {"done_0", "done_1"}

    config = exact.small_config(exact.install(monkeypatch))
    for mode in ("long_run", "likelihood"):
        assert exact.run_mode(mode, config, tmp_path / "alone") == 0
    (one, log_z_of_one), (two, log_z_of_two) = map(
        numbers_of, (tmp_path / "alone", tmp_path / "run")
    )
    np.testing.assert_allclose(two, one, rtol=2e-3)
    np.testing.assert_allclose(log_z_of_two, log_z_of_one, atol=1)
