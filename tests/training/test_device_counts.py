"""IGEBM on 1, 2 and 8 devices, each in a process of its own: one set of numbers, one checkpoint."""

import json
import shutil

import numpy as np
import pytest
from main_processes import TINY_IGEBM, run_main

from ebm_jax.training.checkpoints import Checkpoints

BUFFER = ("--config.method.buffer_shards=8",)
PERSISTENT = ("--config.method.chain_init=persistent",)
CASES = pytest.mark.parametrize(
    ("flags", "devices"),
    [(BUFFER, 2), (BUFFER, 8), (PERSISTENT, 8)],
    ids=["buffer-2", "buffer-8", "persistent-8"],
)


def train(workdir, devices, num_steps, flags):
    """A run, or the rest of it, on so many devices; returns its exit."""
    return run_main(
        *TINY_IGEBM, *flags, f"--workdir={workdir}", f"--config.cpu_devices={devices}",
        f"--config.training.num_steps={num_steps}", "--config.train.checkpoint_every=3",
    )  # fmt: skip


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return np.array([json.loads(line)["loss"] for line in lines])


def sharded(workdir, step):
    """{name: array} of what a checkpoint holds of the buffer or the chains."""
    manifest = workdir / "checkpoints" / str(step) / "manifest" / "metadata"
    leaves = json.loads(manifest.read_text())["leaves"]
    prefix = "method_state/sharded/"
    template = {
        leaf["name"].removeprefix(prefix): np.zeros(leaf["shape"], leaf["dtype"])
        for leaf in leaves
        if leaf["name"].startswith(prefix)
    }
    with Checkpoints(workdir / "checkpoints", keep_latest=1) as checkpoints:
        return checkpoints.restore(step, template, part="method_state/sharded")


def assert_same(found, wanted, step):
    np.testing.assert_allclose(losses(found), losses(wanted), atol=1e-5)
    pairs = sharded(found, step), sharded(wanted, step)
    assert pairs[0].keys() == pairs[1].keys() != set()
    for name, values in pairs[1].items():
        # A pixel of a uint8 buffer may be rounded to its neighbor.
        tolerance = 1 if values.dtype == np.uint8 else 1e-4
        difference = np.abs(pairs[0][name].astype(float) - values.astype(float))
        assert difference.max() <= tolerance, name
        assert (difference > 1e-4).mean() < 0.01, name


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    """(flags) -> a run of six steps on one device, and the same after three."""
    made = {}

    def run(flags):
        if flags not in made:
            whole = tmp_path_factory.mktemp("on_one") / "run"
            assert train(whole, 1, 3, flags).code == 0
            begun = shutil.copytree(whole, whole.with_name("begun"))
            assert train(whole, 1, 6, flags).code == 0
            made[flags] = whole, begun
        return made[flags]

    return run


@CASES
def test_a_run_is_the_same_on_any_number_of_devices(on_one, tmp_path, flags, devices):
    result = train(tmp_path / "run", devices, 6, flags)
    assert result.code == 0, result.err
    assert_same(tmp_path / "run", on_one(flags)[0], 6)


@CASES
def test_a_run_of_one_device_goes_on_on_others(on_one, tmp_path, flags, devices):
    whole, begun = on_one(flags)
    workdir = shutil.copytree(begun, tmp_path / "run")
    result = train(workdir, devices, 6, flags)
    assert result.code == 0, result.err
    assert "going on from step 3" in result.err
    assert_same(workdir, whole, 6)
