"""Signals as requests, with real signals: in this process, and in two that train together."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from ebm_jax.io.interruption import Interruption
from ebm_jax.training.checkpoints import Checkpoints


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_a_request(number, code, capfd):
    usual = signal.getsignal(number)
    with Interruption() as interruption:
        assert not interruption.requested(1)
        send(number)
        assert interruption.requested(2)
        assert interruption.requested(3)
        assert interruption.exit_code == code
    assert signal.getsignal(number) is usual
    signal.signal(number, signal.SIG_IGN)
    interruption.__exit__()  # once more, which is none of its business
    assert signal.signal(number, usual) == signal.SIG_IGN
    said = capfd.readouterr().err
    assert said.strip() == (
        f"{signal.Signals(number).name}: saving after this step; Ctrl-C again stops at once"
    )


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_stops_at_once(first):
    with Interruption() as interruption:
        send(first)
        assert interruption.requested(1)
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)


def test_a_second_sigterm_ends_the_process_as_without_it(monkeypatch):
    done, usual = [], signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        send(signal.SIGTERM)
        with monkeypatch.context() as patch:
            patch.setattr(signal, "signal", lambda *of: done.append(of))
            patch.setattr(os, "kill", lambda *of: done.append(of))
            interruption._on_signal(signal.SIGTERM, None)
    assert done == [(signal.SIGTERM, signal.SIG_DFL), (os.getpid(), signal.SIGTERM)]
    assert signal.getsignal(signal.SIGTERM) is usual


def test_signals_are_given_back_once():
    with Interruption() as interruption:
        pass
    usual = signal.getsignal(signal.SIGINT)
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interruption.__exit__()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, usual)


def test_several_processes_agree_on_a_step(monkeypatch):
    """By the preemption service, which SIGTERM is left to and Ctrl-C passed on to."""
    asked, sent = [], []
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(
        multihost_utils,
        "reached_preemption_sync_point",
        lambda step: asked.append(step) or step > 4,
    )
    usual = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:
        assert signal.getsignal(signal.SIGTERM) is usual
        with monkeypatch.context() as patch:
            patch.setattr(os, "kill", lambda *of: sent.append(of))
            interruption._on_signal(signal.SIGINT, None)
        assert [interruption.requested(step) for step in (3, 4, 5)] == [False, False, True]
        assert interruption.exit_code == 130
    assert asked == [3, 4, 5]
    assert sent == [(os.getpid(), signal.SIGTERM)]
    assert Interruption().exit_code == 143  # of a SIGTERM that reached another process


def test_outside_the_main_thread_nothing_is_caught():
    usual = signal.getsignal(signal.SIGINT)
    seen = []

    def task():
        with Interruption() as interruption:
            seen.append((signal.getsignal(signal.SIGINT) is usual, interruption.requested(1)))

    thread = threading.Thread(target=task)
    thread.start()
    thread.join()
    assert seen == [(True, False)]


TOGETHER = """
import sys, time
import jax, numpy as np
from absl import logging
address, index, directory = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(address, 2, index)
from ebm_jax.io.interruption import Interruption
from ebm_jax.training.checkpoints import Checkpoints

def state(step):
    return {"step": np.asarray(step), "x": np.full((3, 4), step, np.float32)}

with Checkpoints(directory, keep_latest=2, pin_every=4) as checkpoints, Interruption() as stop:
    found = checkpoints.restore_latest(state(0))
    first = 0 if found is None else found[0]
    if found is not None:
        np.testing.assert_array_equal(found[1]["x"], state(first)["x"])
    print("from", first, flush=True)
    for step in range(first + 1, 10_000):
        time.sleep(0.02)
        if stop.requested(step):
            checkpoints.save(step, state(step))
            print("saved", step, flush=True)
            checkpoints.close()
            sys.exit(stop.exit_code)
        if step <= first + 8:
            checkpoints.save(step, state(step))
        if step == first + 9:
            print("ready", flush=True)
"""


def start_two(directory):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    environment = os.environ | {"XLA_FLAGS": "", "JAX_PLATFORMS": "cpu"}
    return [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, address, str(index), str(directory)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for index in range(2)
    ]


def read_until_ready(process):
    text = ""
    for line in process.stdout:  # other lines are those of the collective library
        text += line
        if line == "ready\n":
            return text
    raise AssertionError(text + process.stderr.read())


def run_until_signal(directory, target, number):
    """Runs two processes, signals one of them; returns what each said and their exit codes."""
    processes = start_two(directory)
    try:
        begun = [read_until_ready(process) for process in processes]
        processes[target].send_signal(number)
        results = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    firsts = [int(re.search(r"from (\d+)", text)[1]) for text in begun]
    saved = [int(re.search(r"saved (\d+)", out)[1]) for out, _ in results]
    errors = [err for _, err in results]
    return firsts, saved, [process.returncode for process in processes], errors


def test_two_processes_save_the_same_step_and_fall_back_together(tmp_path):
    """SIGTERM to one process alone; then a damaged newest checkpoint; then Ctrl-C on the other."""
    firsts, saved, codes, _ = run_until_signal(tmp_path, 1, signal.SIGTERM)
    assert firsts == [0, 0]
    assert saved[0] == saved[1] >= 9
    assert codes == [143, 143]
    alone = Checkpoints(tmp_path, keep_latest=2)  # one process reads what two have written
    assert alone.steps() == [4, 8, saved[0]]
    template = {"step": np.asarray(0), "x": np.zeros((3, 4), np.float32)}
    np.testing.assert_array_equal(alone.restore(8, template)["x"], np.full((3, 4), 8, np.float32))

    (tmp_path / str(saved[0]) / "manifest" / "metadata").write_text("{}")
    firsts, again, codes, errors = run_until_signal(tmp_path, 0, signal.SIGINT)
    assert firsts == [8, 8]
    assert again[0] == again[1] >= 17
    assert codes == [130, 143]  # each by the signal that reached it
    assert "trying step 8 instead" in errors[0]
    assert "damaged" not in errors[1]  # process 0 alone speaks
    assert (tmp_path / f"damaged-{saved[0]}").is_dir()
    assert alone.steps() == [4, 8, 12, 16, again[0]]
