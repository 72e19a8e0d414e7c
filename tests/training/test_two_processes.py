"""Two processes with two devices each, over loopback, against one process."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from small_runs import batches, toy

WORKER = Path(__file__).with_name("two_processes_worker.py")


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def test_two_processes_give_the_numbers_of_one(tmp_path):
    """State and metrics after three updates; both processes hold the same state."""
    port = str(free_port())
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_PLATFORMS": "cpu",
    }
    workers = [
        subprocess.Popen(
            [sys.executable, WORKER, str(process), "2", port, tmp_path / f"{process}.npz"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for process in (0, 1)
    ]  # fmt: skip
    try:
        outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(outputs)

    step, state = toy()
    step, metrics = jax.jit(step), None
    for batch in batches():
        state, metrics = step(state, batch)
    wanted = jax.tree.leaves((state, metrics))
    of_each = []
    for process in (0, 1):
        with np.load(tmp_path / f"{process}.npz") as file:
            of_each.append([file[name] for name in file.files])
    assert len(of_each[0]) == len(wanted)
    for first, second, one in zip(*of_each, wanted, strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_allclose(first, one, rtol=1e-5, atol=1e-6)
