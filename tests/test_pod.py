"""A pod rehearsed: main.py on four processes of two devices each, over loopback.

    pytest -n 0 -m slow tests/test_pod.py

Four JAX processes share two cores here, so each job is started once and all is asserted of it.
"""

import json
import signal
import time

import numpy as np
import pytest
from main_processes import TINY
from PIL import Image
from pod import Pod, run

from ebm_jax import tasks

slow = pytest.mark.slow

FLAGS = tuple(flag for flag in TINY if "cpu_devices" not in flag)
# Of the modes' own sections: what is done in seconds and still has a number of every kind.
SHORT = (
    "optimizer.schedule='constant'", "training.batch_size=8", "training.num_steps=12",
    "method.num_steps=2", "sampling.num_samples=16", "sampling.batch_size=16",
    "train.log_every=1", "train.sample_every=0",
)  # fmt: skip
NARROW = ("network.width=4", "network.multipliers=(1,)")
IMAGES = (
    *SHORT, *NARROW, "evaluate.num_samples=80", "export.platforms=('cpu',)",
    "fid.num_samples=80", "fid.num_splits=2", "fid.kid_subset_size=40", "inpaint.num_images=3",
    "inpaint.num_draws=2", "interpolate.num_pairs=3", "interpolate.num_points=4",
    "long_run.num_steps=10", "long_run.num_chains=16", "neighbours.num_images=30",
    "neighbours.num_samples=16", "neighbours.max_levels=1", "ood.num_images=20",
    "ood.sets=('uniform_noise','flipped')", "ood.max_levels=2", "restore.num_images=10",
    "restore.corruptions=('noise',)",
)  # fmt: skip
DENSITY = (
    *SHORT, "likelihood.num_chains=16", "likelihood.num_images=16",
    "likelihood.num_temperatures=(20,)", "likelihood.num_components=(2,)",
    "likelihood.num_conditional_images=0", "likelihood.reverse_steps=20",
    "likelihood.tuning_steps=20",
)  # fmt: skip
# Trained so far that no attack turns on the rounding of a gradient.
CLASSES = (
    *SHORT, *NARROW, "training.num_steps=60", "optimizer.learning_rate=1e-2",
    "network.num_blocks=(1,)", "method.buffer_size=64", "method.buffer_shards=8",
    "sampler.num_steps=4", "classify.num_images=32", "classify.baseline_steps=10",
    "crossclass.num_images=16", "crossclass.num_rounds=2", "crossclass.steps_per_round=2",
    "robustness.num_images=16", "robustness.linf_radii=(0.1,)", "robustness.l2_radii=()",
    "robustness.published_steps=2", "robustness.strict_steps=(2,)", "robustness.num_restarts=1",
    "robustness.num_random=4", "robustness.refine_steps=2", "robustness.num_draws=1",
    "robustness.adaptive_images=0", "robustness.baseline_steps=10", "compose.num_images=16",
    "compose.judge_steps=10", "continual.num_seeds=1", "continual.num_tasks=2",
    "continual.learners=('energies','softmax')",
)  # fmt: skip
TRAJECTORIES = (
    *SHORT, "rollout.num_trajectories=16", "rollout.num_draws=1", "rollout.horizons=(1,5)",
    "rollout.feed_forward_steps=10", "rollout.film_frames=0",
)  # fmt: skip
# {name: (config, modes, fields)}
JOBS = {
    "images": (
        "digits",
        (
            "train", "card", "evaluate", "sample", "fid_stats", "fid", "inpaint", "interpolate",
            "neighbours", "ood", "restore", "long_run", "export", "report",
        ),
        IMAGES,
    ),
    "density": ("toy2d", ("train", "likelihood"), DENSITY),
    "classes": (
        "digits_igebm:conditional",
        ("train", "classify", "crossclass", "robustness", "compose", "continual"),
        CLASSES,
    ),
    "trajectories": ("trajectories:linear_gaussian", ("train", "rollout"), TRAJECTORIES),
}  # fmt: skip


def training(workdir, num_steps, *more):
    steps = f"--config.training.num_steps={num_steps}"
    return (*FLAGS, f"--workdir={workdir}", steps, *more)


def metrics(workdir):
    """{step: values but those of time}, once each."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    timed = ("time", "steps_per_second")
    return [{k: v for k, v in line.items() if k not in timed} for line in lines]


def files_of(folder):
    """What a workdir holds; names of TensorBoard's files have a time in them."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(str(p) for p in paths if p.parts[0] not in ("tensorboard", "checkpoints"))


def assert_all_say(results, line, code):
    """All processes ended with one line of main.py and one exit code."""
    for result in results:
        assert result.code == code, result.err
        assert [said for said in result.err.splitlines() if said.startswith("main.py: ")] == [line]


@slow
def test_four_processes_then_two_are_one(tmp_path):
    """Trained on four, resumed on two: the metrics of one process, and no more files."""
    four, one = tmp_path / "four", tmp_path / "one"
    for number, steps in ((4, 6), (2, 10)):
        for result in run(number, tmp_path / f"out_{number}", *training(four, steps)):
            assert result.code == 0, result.err
    assert run(1, tmp_path / "out_1", *training(one, 10))[0].code == 0
    found, expected = metrics(four), metrics(one)
    assert len(found) == len(expected) == 10
    for here, there in zip(found, expected, strict=True):
        assert here.keys() == there.keys()
        for name in here:
            assert here[name] == pytest.approx(there[name], rel=2e-3, abs=1e-4), (
                here["step"],
                name,
            )
    assert set(files_of(four)) - set(files_of(one)) == {"samples/step_0000006.png"}
    drawn = [
        np.asarray(Image.open(folder / "samples/step_0000010.png"), int) for folder in (four, one)
    ]
    assert np.mean(np.abs(drawn[0] - drawn[1])) < 1


def started(pod, workdir, number):
    """Waits until training has written so many more lines than there were."""
    path = workdir / "metrics.jsonl"
    before = time.time()
    while time.time() < before + 200:
        assert [process.poll() for process in pod.processes] == [None] * len(pod.processes)
        if path.exists() and path.stat().st_mtime > before:
            if (last := json.loads(path.read_text().splitlines()[-1])["step"]) >= number:
                return last
        time.sleep(0.1)
    raise AssertionError("no step was made")


@slow
def test_what_ends_one_ends_all(tmp_path):
    """A process killed, then one told to end as preemption does; the same command goes on."""
    flags = training(tmp_path / "run", 100_000, "--config.train.checkpoint_every=5")
    with Pod(4, tmp_path / "killed", *flags) as pod:
        started(pod, tmp_path / "run", 6)
        pod.processes[2].kill()
        begin = time.monotonic()
        results = pod.wait(60)
        assert time.monotonic() - begin < 30
    assert results.pop(2).code == -signal.SIGKILL
    line = "main.py: process 2 of 4 ended without a word; the same command goes on from what is "
    assert_all_say(results, line + "saved", 1)

    with Pod(4, tmp_path / "preempted", *flags) as pod:
        started(pod, tmp_path / "run", 8)
        pod.processes[3].send_signal(signal.SIGTERM)
        results = pod.wait(60)
    assert [result.code for result in results] == [128 + signal.SIGTERM] * 4
    assert "going on from step 5" in results[0].err
    (saved,) = [line for line in results[0].out.splitlines() if line.startswith("step ")]
    step = int(saved.split()[1])
    assert step == max(int(p.name) for p in (tmp_path / "run/checkpoints").iterdir())

    results = run(4, tmp_path / "again", *training(tmp_path / "run", step + 2))
    assert [result.code for result in results] == [0] * 4
    assert f"going on from step {step}" in results[0].err
    assert len(metrics(tmp_path / "run")) == step + 2


@slow
def test_data_missing_on_one_process(tmp_path):
    """All end with the message of that one, before anything is written."""
    folder = tmp_path / "data/downloads/manual/celeba/img_align_celeba"
    folder.mkdir(parents=True)
    image = Image.fromarray(np.full((218, 178, 3), 99, np.uint8))
    for i in range(8):
        image.save(folder / f"{i}.jpg")
    (folder.parent / "list_eval_partition.txt").write_text(
        "".join(f"{i}.jpg 0\n" for i in range(8))
    )
    environments = {i: {"TFDS_DATA_DIR": str(tmp_path / "data")} for i in range(4)}
    environments[3] = {"TFDS_DATA_DIR": str(tmp_path / "nothing")}
    flags = training(tmp_path / "run", 2, "--config.data.name=celeba", "--config.data.image_size=8")
    with Pod(4, tmp_path / "out", *flags, environments=environments) as pod:
        results = pod.wait(120)
    (line,) = {result.err.strip().splitlines()[-1] for result in results}
    assert f"{tmp_path}/nothing/downloads/manual/celeba" in line
    assert_all_say(results, line, 2)
    assert not (tmp_path / "run").exists()


def numbers(tree, path=""):
    """{path: number} of all numbers in JSON but those of versions and times."""
    if isinstance(tree, dict):
        skipped = ("versions", "measured_on", "seconds")
        items = [(k, v) for k, v in tree.items() if k not in skipped]
    elif isinstance(tree, list):
        items = list(enumerate(tree))
    else:
        is_number = isinstance(tree, int | float) and not isinstance(tree, bool)
        return {path: float(tree)} if is_number else {}
    return {k: v for name, inner in items for k, v in numbers(inner, f"{path}/{name}").items()}


# (rtol, atol) by mode, of chains of many steps; elsewhere rounding and no more.
LOOSE = {"long_run": (0.02, 0.05)}


def assert_same_results(one, four):
    """The same files, with the same numbers."""
    assert files_of(four) == files_of(one)
    for path in one.glob("*/*.json"):
        mode = path.parent.name
        there = numbers(json.loads(path.read_text()))
        here = numbers(json.loads((four / path.relative_to(one)).read_text()))
        assert here.keys() == there.keys()
        rtol, atol = LOOSE.get(mode, (5e-3, 1e-3))
        for name, value in there.items():
            assert here[name] == pytest.approx(value, rel=rtol, abs=atol), f"{mode}{name}"
    for path in one.glob("*/*.npz"):
        with np.load(path) as there, np.load(four / path.relative_to(one)) as here:
            for name in there.files:
                if there[name].dtype.kind == "f":
                    np.testing.assert_allclose(here[name], there[name], rtol=1e-2, atol=1e-2)


def test_every_mode_has_a_job():
    assert {mode for _, modes, _ in JOBS.values() for mode in modes} == set(tasks.names())


@slow
@pytest.mark.parametrize("name", JOBS)
def test_modes_give_the_numbers_of_one_process(name, tmp_path):
    """All that a model is trained and judged by, on four processes and on one."""
    config, modes, fields = JOBS[name]
    outs = []
    for number in (1, 4):
        workdir = tmp_path / f"run_{number}"
        arguments = (config, str(workdir), ",".join(modes), *fields)
        program = ("tests/pod_modes.py",)
        with Pod(number, tmp_path / f"out_{number}", *arguments, program=program) as pod:
            results = pod.wait(1_500)
        for result in results:
            assert result.code == 0, result.err
            ended = [line for line in result.out.splitlines() if line.endswith(": 0")]
            assert ended == [f"{mode}: 0" for mode in modes]
        outs.append(workdir)
    assert_same_results(*outs)
