"""The host-side runner: run_chain's result, a line to read, an interrupt that loses nothing."""

import io
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers

KEY = jax.random.key(3)
KERNEL = samplers.mala(lambda x: 0.5 * jnp.sum(x**2, axis=1), 0.4)
X0 = jnp.linspace(-1, 1, 12).reshape(6, 2)


class Interrupting(io.StringIO):
    """A stream whose user presses Ctrl-C at its n-th line."""

    def __init__(self, at):
        super().__init__()
        self.left = at

    def write(self, text):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt
        return super().write(text)


def assert_same(a, b):
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6), a, b)


@pytest.mark.parametrize("options", [{}, {"keep_every": 5, "first_chain": 3}])
def test_same_result_as_run_chain(options):
    stream = io.StringIO()
    run = samplers.run_with_progress(KEY, KERNEL, X0, 40, report_every=15, stream=stream, **options)
    state, info = samplers.run_chain(KEY, KERNEL, X0, 40, **options)
    assert run.num_steps == 40
    assert_same(run.state, state)
    assert_same(run.info, jax.device_get(info))
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(run.info))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("15 of 40 steps, acceptance 0.")


def test_an_interrupt_keeps_what_is_done_and_the_rest_can_follow():
    whole, info = samplers.run_chain(KEY, KERNEL, X0, 40, keep_every=5)
    stream = Interrupting(at=2)
    part = samplers.run_with_progress(
        KEY, KERNEL, X0, 40, keep_every=5, report_every=10, stream=stream
    )
    assert part.num_steps == 20
    assert_same(part.info.kept, info.kept[:4])
    rest = samplers.run_with_progress(
        KEY, KERNEL, part.state, 20, first_step=part.num_steps, stream=io.StringIO()
    )
    assert_same(rest.state, whole)


def test_a_terminals_line_is_ended():
    stream = io.StringIO()
    stream.isatty = lambda: True
    samplers.run_with_progress(KEY, KERNEL, X0, 10, report_every=10, stream=stream)
    assert re.fullmatch(r"\r[^\n]*10 of 10 steps[^\n]*\n", stream.getvalue())


def test_an_interrupt_before_anything_is_done_is_one(monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("ebm_jax.samplers.progress.run_chain", interrupted)
    with pytest.raises(KeyboardInterrupt):
        samplers.run_with_progress(KEY, KERNEL, X0, 40, stream=io.StringIO())


def test_chains_that_are_not_finite_are_counted_in_the_line():
    stream = io.StringIO()
    kernel = samplers.langevin(lambda x: 0.5 * jnp.sum(x**2, axis=1), 0.1)
    samplers.run_with_progress(
        KEY, kernel, X0.at[1, 0].set(jnp.nan), 10, report_every=10, stream=stream
    )
    assert stream.getvalue().endswith(", 1 not finite\n")


def test_pieces_that_keep_every_does_not_divide():
    with pytest.raises(ValueError, match="multiples of keep_every=5, got num_steps=40 and report"):
        samplers.run_with_progress(KEY, KERNEL, X0, 40, keep_every=5, report_every=7)


def test_the_device_holds_one_chunk():
    x0 = jnp.zeros((500, 256))
    live = []

    class Watching(io.StringIO):
        def write(self, text):
            live.append(sum(a.nbytes for a in jax.live_arrays()) / x0.nbytes)
            return len(text)

    kernel = samplers.langevin(lambda x: 0.5 * jnp.sum(x**2, axis=1), 0.1)
    samplers.run_with_progress(
        KEY, kernel, x0, 40, report_every=2, keep_every=1, keep=lambda s: s.x, stream=Watching()
    )
    assert max(live) < live[0] + 3


SLOW = """
import os, signal, sys, threading, time
import jax, jax.numpy as jnp
from ebm_jax import samplers

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for background jobs

def energy_fn(x):  # some 10 ms of work that Ctrl-C cannot stop within
    square = jnp.full((500, 500), x[0, 0])
    return 0.5 * jnp.sum(x**2, axis=1) + 1e-20 * jnp.sum(square @ square)

pressed = []

def press():
    pressed.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)

class Terminal:
    # Presses Ctrl-C eight seconds after the first chunk, whose compilation may take long.

    timer = threading.Timer(8, press)

    def isatty(self):
        return True

    def write(self, text):
        if not self.timer.is_alive() and not pressed:
            self.timer.start()

    def flush(self):
        pass

kernel = samplers.langevin(energy_fn, 0.1)
run = samplers.run_with_progress(
    jax.random.key(0), kernel, jnp.ones((2, 2)), 100_000, stream=Terminal()
)
waited = time.perf_counter() - pressed[0]
print(run.num_steps, waited)
assert 1 <= run.num_steps < 10_000
assert waited < 8
"""


def test_ctrl_c_is_answered_within_seconds():
    """100,000 steps of 10 ms: a hundredth of the run would be 10 s; chunks last about one."""
    done = subprocess.run([sys.executable, "-c", SLOW], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
