"""A pod on this machine: the real command line in several processes of two CPU devices each.

    pod = Pod(4, folder, "--config=...", "--workdir=...")
    results = pod.wait()              # of each process: .code, .out, .err

What each process writes goes to files of `folder`, which can be read while they run.
"""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Self

from main_processes import ROOT, Result

DEVICES = 2  # of each process


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Pod:
    """Processes that run `main.py` together; one alone is not distributed. A context manager.

    Args:
      number: of processes. folder: of what they print. arguments: of the program, for all.
      program: a Python program and its first arguments.
      environments: what is in the environment of single processes beside that of all.
    """

    def __init__(
        self,
        number: int,
        folder: pathlib.Path,
        *arguments: str,
        program: tuple[str, ...] = ("main.py",),
        environments: Mapping[int, Mapping[str, str]] | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        together = number > 1
        self._paths = [(folder / f"{i}.out", folder / f"{i}.err") for i in range(number)]
        port, self.processes = free_port(), []
        for i, paths in enumerate(self._paths):
            environment = os.environ | {
                "PYTHONPATH": str(ROOT),
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES}"
                " --xla_backend_optimization_level=0",  # compiles in half the time
            }
            if together:
                environment |= {
                    "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
                    "JAX_NUM_PROCESSES": str(number),
                    "JAX_PROCESS_ID": str(i),
                }
            with contextlib.ExitStack() as stack:
                out, err = (stack.enter_context(open(path, "w")) for path in paths)
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-W", "ignore", *program, *arguments]
                        + ["--config.distributed"] * (together and program == ("main.py",)),
                        cwd=ROOT,
                        env=environment | dict((environments or {}).get(i, {})),
                        stdin=subprocess.DEVNULL,
                        stdout=out,
                        stderr=err,
                    )
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def wait(self, timeout: float = 300) -> list[Result]:
        """Results of all processes, in their order; whoever takes longer is killed."""
        end = time.monotonic() + timeout
        with self:
            for process in self.processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.1, end - time.monotonic()))
        return [
            Result(process.returncode, *(path.read_text() for path in paths))
            for process, paths in zip(self.processes, self._paths, strict=True)
        ]


def run(number: int, folder: pathlib.Path, *arguments: str, timeout: float = 300) -> list[Result]:
    """Runs one command on so many processes to its end."""
    return Pod(number, folder, *arguments).wait(timeout)
