"""--mode=train in processes of its own: interrupted, killed, resumed, refused, diverged."""

import json
import signal

import pytest
from main_processes import TINY, TINY_IGEBM, run_main

EVERY_FOUR = "--config.train.checkpoint_every=4"


def train(workdir, *arguments, **options):
    return run_main(*TINY, f"--workdir={workdir}", *arguments, **options)


def to_step(num_steps):
    return f"--config.training.num_steps={num_steps}", EVERY_FOUR


def saved_leaves(workdir, step):
    """[{name, shape, dtype, crc32}] of a checkpoint."""
    manifest = workdir / "checkpoints" / str(step) / "manifest" / "metadata"
    return json.loads(manifest.read_text())["leaves"]


def logged(workdir):
    """The lines of metrics.jsonl without what the clock decides."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = ("steps_per_second", "time", "seconds")
    return [{name: v for name, v in line.items() if name not in timed} for line in lines]


def tree(folder):
    """{path: (size, time of change)} of everything below a folder."""
    return {
        path.relative_to(folder): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of twelve steps in one go."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    result = train(workdir, *to_step(12))
    assert result.code == 0, result.err
    return workdir, result


def test_a_run_says_where_everything_is(whole):
    workdir, result = whole
    assert "trained to step 12" in result.out
    assert "--mode=sample" in result.out
    for name in ("samples/step_0000012.png", "metrics.jsonl", "config.json", "versions.json"):
        assert (workdir / name).is_file()
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["12", "4", "8"]
    assert [line["step"] for line in logged(workdir)] == list(range(1, 13))


def test_killed_and_interrupted_and_resumed_is_bit_identical_to_one_go(whole, tmp_path):
    """kill -9, then SIGTERM, then Ctrl-C, each time resumed in a new process."""
    workdir = tmp_path / "run"
    killed = train(workdir, *to_step(12), signal_after=(10, signal.SIGKILL))
    assert killed.code == -signal.SIGKILL

    terminated = train(workdir, *to_step(12), signal_after=(1, signal.SIGTERM))
    assert terminated.code == 143, terminated.err
    assert "SIGTERM: saving after this step" in terminated.err
    first = int(terminated.err.partition("going on from step ")[2].split()[0])
    assert first in (4, 8)  # 8 where its checkpoint was complete when the kill came
    assert f"step {first + 1} is saved" in terminated.out

    interrupted = train(workdir, *to_step(12), signal_after=(2, signal.SIGINT))
    assert interrupted.code == 130, interrupted.err
    assert f"going on from step {first + 1}" in interrupted.err
    assert f"step {first + 3} is saved" in interrupted.out

    resumed = train(workdir, *to_step(12))
    assert resumed.code == 0, resumed.err
    assert f"going on from step {first + 3}" in resumed.err
    assert saved_leaves(workdir, 12) == saved_leaves(whole[0], 12)
    assert logged(workdir) == logged(whole[0])
    picture = "samples/step_0000012.png"
    assert (workdir / picture).read_bytes() == (whole[0] / picture).read_bytes()


def test_checkpoints_differ_from_step_to_step(whole):
    """What the comparison of two runs above relies on."""
    sums = [
        {leaf["name"]: leaf["crc32"] for leaf in saved_leaves(whole[0], step)} for step in (8, 12)
    ]
    for part in ("params", "ema_params", "opt_state", "method_state"):
        assert any(
            sums[0][name] != sums[1][name] for name in sums[0] if name.startswith(f"{part}/")
        )


def test_a_finished_run_says_so_and_a_longer_one_goes_on(whole):
    workdir, _ = whole
    before = tree(workdir)
    again = train(workdir, *to_step(12))
    assert (again.code, again.err) == (0, "")
    assert "is trained already: it is at step 12 of 12" in again.out
    assert tree(workdir) == before


def test_another_config_is_refused_with_the_fields_that_differ(whole):
    workdir, _ = whole
    before = tree(workdir)
    changes = ("--config.optimizer.b1=0.5", "--config.network.width=8", "--config.sampling.seed=3")
    result = train(workdir, *to_step(12), *changes)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert "holds a run of another config" in result.err
    assert (
        "network.width: 4 -> 8; optimizer.b1: 0.9 -> 0.5\n" in result.err
    )  # and the seed may change
    assert tree(workdir) == before


def test_divergence_has_an_exit_code_and_leaves_the_last_good_checkpoint(tmp_path):
    """The warm-up's first update has rate 0, so that step 1 is good; the second overflows."""
    workdir = tmp_path / "run"
    result = train(
        workdir,
        "--config.optimizer.learning_rate=1e38",
        "--config.train.checkpoint_every=1",
        "--config.train.max_retries=1",
        "--config.training.num_steps=20",
    )
    assert result.code == 3, result.err
    assert "going back to step 1" in result.out  # which reads it and checks every byte
    message = result.err.splitlines()[-1]
    assert message.startswith("main.py: training diverged at step ")
    assert "after 1 of 1 retries" in message
    assert f"the last good checkpoint is {workdir}/checkpoints/1;" in message
    assert "a lower learning rate" in message
    assert [path.name for path in (workdir / "checkpoints").iterdir()] == ["1"]
    assert not (workdir / "samples").exists()


def test_igebm_killed_and_resumed_is_bit_identical_with_its_replay_buffer(tmp_path):
    """The shards of both devices are part of what is compared; eight steps fill them twice."""
    flags = (*TINY_IGEBM, *to_step(8))
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert run_main(*flags, f"--workdir={whole}").code == 0
    stopped = run_main(*flags, f"--workdir={resumed}", signal_after=(2, signal.SIGTERM))
    assert stopped.code == 143
    killed = run_main(*flags, f"--workdir={resumed}", signal_after=(3, signal.SIGKILL))
    assert killed.code == -signal.SIGKILL
    result = run_main(*flags, f"--workdir={resumed}")
    assert result.code == 0, result.err
    assert "going on from step" in result.err
    assert saved_leaves(whole, 8) == saved_leaves(resumed, 8)
    stored = {leaf["name"]: leaf for leaf in saved_leaves(whole, 8)}
    images = stored["method_state/sharded/storage"]
    assert images["shape"][0] == 2
    assert images["dtype"] == "uint8"


def test_rings_that_the_devices_do_not_divide_are_refused_before_anything_is_written(tmp_path):
    workdir = tmp_path / "run"
    result = run_main(*TINY_IGEBM, f"--workdir={workdir}", "--config.method.buffer_shards=1")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "method.buffer_shards: expected a multiple of the 2 devices, got 1" in result.err
    assert not (workdir / "config.json").exists()


def test_an_igebm_that_explodes_is_caught_and_told_what_helps(tmp_path):
    workdir = tmp_path / "run"
    result = run_main(
        *TINY_IGEBM,
        f"--workdir={workdir}",
        "--config.optimizer.learning_rate=1e6",
        "--config.train.checkpoint_every=1",
        "--config.training.num_steps=20",
    )
    assert result.code == 3, result.err
    message = result.err.splitlines()[-1]
    assert message.startswith("main.py: training diverged at step ")
    for knob in ("more sampler steps", "a lower learning rate", "a larger L2 penalty"):
        assert knob in message
