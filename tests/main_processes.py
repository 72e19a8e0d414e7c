"""Runs of main.py's command line, each in a process of its own, without importing JAX each time.

    result = run_main("--config=...", "--workdir=...")     # .code, .out, .err

One process imports everything and starts no backend; every run is a fork of it, which parses the
flags, does its work and ends as main.py would. What one run has compiled the next finds on disk.
"""

import atexit
import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
DIGITS = "--config=configs/digits.py"

# Digits with a network of 700 parameters on one device.
TINY = (
    DIGITS,
    "--config.cpu_devices=1",
    "--config.network.width=4",
    "--config.network.multipliers=(1,)",
    "--config.method.num_steps=2",
    "--config.optimizer.schedule=constant",
    "--config.training.batch_size=8",
    "--config.train.log_every=1",
    "--config.train.sample_every=0",
    "--config.sampling.num_samples=16",
    "--config.sampling.batch_size=16",
)

# IGEBM on two devices, each with a shard of the replay buffer, which four steps fill.
TINY_IGEBM = (
    "--config=configs/digits_igebm.py",
    "--config.cpu_devices=2",
    "--config.network.width=4",
    "--config.network.multipliers=(1,)",
    "--config.network.num_blocks=(1,)",
    "--config.method.num_steps=2",
    "--config.method.buffer_size=32",
    "--config.optimizer.schedule=constant",
    *TINY[-6:],
)


class Result(NamedTuple):
    """Exit code (minus a signal's number), standard output and error of one run."""

    code: int
    out: str
    err: str


def run_main(*arguments: str, signal_after: tuple[int, int] | None = None) -> Result:
    """Runs main.py with these flags; signal_after (n, number): with a signal after n updates."""
    server, folder = _server()
    paths = [f"{folder}/{name}" for name in ("out", "err")]
    asked = ["main.py", *arguments], paths, signal_after, _measured_test()
    server.stdin.write(json.dumps(asked) + "\n")
    server.stdin.flush()
    code = int(server.stdout.readline())
    return Result(code, *(pathlib.Path(path).read_text() for path in paths))


def _measured_test() -> str | None:
    """The test under way, where it is measured which lines tests run."""
    coverage = sys.modules.get("coverage")
    if coverage is None or coverage.Coverage.current() is None:
        return None
    return os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]


@functools.cache
def _server() -> tuple[subprocess.Popen, str]:
    folder, flags = tempfile.TemporaryDirectory(), os.environ["XLA_FLAGS"].split()
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ
        | {
            "PYTHONPATH": str(ROOT),
            "XLA_FLAGS": " ".join(f for f in flags if "device_count" not in f),  # runs say it
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        },
    )

    @atexit.register
    def stop() -> None:
        server.stdin.close()
        server.wait(timeout=60)
        folder.cleanup()

    return server, folder.name


def _next_run():
    """Forks for every line of stdin; returns what the line asks in the fork, None in the server."""
    for line in sys.stdin:
        arguments, paths, signal_after, test = json.loads(line)
        process = os.fork()
        if process == 0:
            for path, stream in zip(paths, (1, 2), strict=True):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            return arguments, signal_after, test
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
    return None


def _send_after(num_updates: int, number: int) -> None:
    """Has this process send itself a signal once its training has made so many updates."""
    from ebm_jax.training import device_state

    compile_train_step = device_state.pmap_train_step

    def pmap_train_step(train_step):
        compiled, count = compile_train_step(train_step), itertools.count(1)

        def step(state, batch):
            state, metrics = compiled(state, batch)
            if next(count) == num_updates:
                os.kill(os.getpid(), number)
            return state, metrics

        return step

    device_state.pmap_train_step = pmap_train_step


def _measure(test: str) -> None:
    """Has the lines that this process runs written down as those of a test."""
    import coverage

    measured = coverage.Coverage(data_suffix=True)
    measured.start()
    measured.switch_context(f"{test}|run")

    @atexit.register
    def save() -> None:
        measured.stop()
        measured.save()


if __name__ == "__main__":
    from absl import app
    from compilation import shared_context

    from ebm_jax import main  # with all that it imports

    for mode in main.tasks.names():
        main.tasks.load(mode)
    if (run := _next_run()) is not None:
        sys.argv, signal_after, test = run
        if signal_after is not None:
            _send_after(*signal_after)
        if test is not None:
            _measure(test)
        with shared_context():
            app.run(main.main, flags_parser=main.parse_flags)
