"""The command line: bad input is one line on stderr and changes nothing; good input leaves files.

Each run is a process of its own. What is wrong with a run that begins is in training/test_loop.py.
"""

import json
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from main_processes import DIGITS, TINY, TINY_IGEBM, run_main
from PIL import Image

from ebm_jax import command_line, tasks

CIFAR10 = "--config=configs/cifar10.py"


def tree(folder):
    """{path: contents} of all files below a folder."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refusal(*arguments):
    """What a refused command says on its one line."""
    result = run_main(*arguments)
    assert result.code == 2, result
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("main.py: ")
    return line.removeprefix("main.py: ")


@pytest.mark.parametrize("arguments", [["--help"], ["--mode=list"], ["--mode", "list"], ["-h"]])
def test_what_there_is(arguments):
    """Every mode and every config has a line, and nothing else needs to be given."""
    result = run_main(*arguments)
    assert result.code == 0
    lines = result.out.splitlines()
    assert max(map(len, lines)) <= 100
    firsts = [line.split()[0] for line in lines if line.startswith("  ") and line.split()]
    assert set(tasks.names()) <= set(firsts)
    files = {path.name for path in pathlib.Path("configs").glob("*.py")} - {"default.py"}
    assert files <= set(firsts)
    (digits,) = [line for line in lines if line.startswith("  digits.py")]
    assert digits.startswith("  digits.py :t1k            UCI digits (8 x 8")
    (sample,) = [line for line in lines if line.startswith("  sample ")]
    assert "new samples from the EMA weights" in sample
    assert lines.count("  python main.py --config=configs/digits.py --workdir=runs/digits") == 1


def test_the_package_is_the_same_program():
    done = subprocess.run(
        [sys.executable, "-m", "ebm_jax", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout == run_main("--help").out


BAD_FLAGS = {
    "unknown config file": (
        ["--config=configs/digit.py"],
        "--config=configs/digit.py: No such file or directory; did you mean configs/digits.py?",
    ),
    "unknown variant": (
        [f"{CIFAR10}:smal"],
        "flag --config=configs/cifar10.py:smal: ValueError: expected a variant of small, t1k, got "
        "'smal'; did you mean 'small'?",
    ),
    "a variant where there are none": (
        ["--config=configs/svhn.py:small"],
        "flag --config=configs/svhn.py:small: expected the path alone, as this config has no ",
    ),
    "mistyped field": (
        [DIGITS, "--config.training.batch_sise=64"],
        "no config field 'batch_sise': did you mean 'batch_size'?",
    ),
    "mistyped section": (
        [DIGITS, "--config.trainin.batch_size=64"],
        "no config field 'trainin': did you mean 'training'?",
    ),
    "field like no other": (
        [DIGITS, "--config.training.zzz=64"],
        "no config field 'zzz': the fields are those of the --config file",
    ),
    "wrong type": (
        [DIGITS, "--config.training.batch_size=many"],
        "flag --config.training.batch_size=many: invalid literal for int() with base 10: 'many'",
    ),
    "negative batch": (
        [DIGITS, "--config.training.batch_size=-64"],
        "training.batch_size: expected a whole number >= 1, got -64",
    ),
    "rate that is no number": (
        [DIGITS, "--config.optimizer.learning_rate=nan"],
        "optimizer.learning_rate: expected a number > 0, got nan",
    ),
    "infinite learning rate": (
        [DIGITS, "--config.optimizer.learning_rate=inf"],
        "optimizer.learning_rate: expected a number > 0 of a size from 1.17549e-38 to 3.4e+38, "
        "got inf",
    ),
    "negative seed": ([DIGITS, "--config.seed=-1"], "seed: expected a whole number >= 0, got -1"),
    "seed of 33 bits": (
        [DIGITS, "--config.seed=4294967296"],
        "seed: expected a whole number >= 0 of a size from 0 to 2147483647, got 4294967296",
    ),
    "no devices": (
        [DIGITS, "--config.cpu_devices=0"],
        "cpu_devices: expected a whole number >= 1 and <= 1024, got 0",
    ),
    "batch that does not divide": (
        [DIGITS, "--config.cpu_devices=8", "--config.training.batch_size=60"],
        "training.batch_size: expected a multiple of the 8 devices, such as 64, got 60",
    ),
    "batch smaller than the devices": (
        [DIGITS, "--config.cpu_devices=8", "--config.training.batch_size=3"],
        "training.batch_size: expected a multiple of the 8 devices, such as 8, got 3",
    ),
    "image that cannot be halved": (
        [DIGITS, "--config.network.multipliers=(1,1,1,1,1)"],
        "image_size: expected one that can be halved 4 times, such as 16, or fewer ",
    ),
    "odd width": (
        [DIGITS, "--config.network.width=5"],
        "width: expected an even number >= 4, got 5",
    ),
    "unknown network": (
        [DIGITS, "--config.network.name=recovery_resent"],
        "network.name: expected one of recovery_resnet, igebm_resnet, igebm_conv, igebm_mlp, "
        "mdsm_resnet, mlp, conditional_mlp, film_resnet, got 'recovery_resent'; did you mean "
        "'recovery_resnet'?",
    ),
    "unknown method": (
        [DIGITS, "--config.method.name=contrastive"],
        "method.name: expected one of ",
    ),
    "unknown number type": (
        [DIGITS, "--config.compute.dtype=int8"],
        "compute.dtype: expected one of float32, bfloat16, got 'int8'; did you mean ",
    ),
    "unknown data set": (
        [DIGITS, "--config.data.name=digit"],
        "unknown data set 'digit'; nearest is 'digits', known are ",
    ),
    "unknown split": (
        [DIGITS, "--config.data.split=trian"],
        "digits has no split 'trian'; it has test, train",
    ),
    "sampling that would fail after training": (
        [DIGITS, "--config.sampler.num_steps=-1"],
        "sampler.num_steps: expected a whole number >= 0, got -1",
    ),
    "a level that there is not": (
        [DIGITS, "--config.sampler.restore_level=99"],
        "sampler.restore_level: expected one of the levels 1 to 2, got 99",
    ),
    "a value of another mode": (
        [DIGITS, "--config.fid.kid_subsets=0"],
        "fid.kid_subsets: expected a whole number >= 1, got 0",
    ),
    "a step of another mode": (
        [DIGITS, "--config.long_run.step_size=nan"],
        "long_run.step_size: expected a number >= 0, got nan",
    ),
    "unknown mode": (
        [DIGITS, "--mode=sampl"],
        f"--mode: expected one of {', '.join(tasks.names())}, got 'sampl'; did you mean 'sample'?",
    ),
    "unknown flag": (
        [DIGITS, "--wrokdir=x"],
        "Unknown command line flag 'wrokdir'. Did you mean: workdir ?",
    ),
    "word that is no flag": (
        [DIGITS, "train"],
        "expected flags as --name=value, got 'train'",
    ),
    "no config": (
        [],
        "--config: expected what to train, such as --config=configs/digits.py (--mode=list names "
        "all)",
    ),
}


@pytest.mark.parametrize(("flags", "says"), BAD_FLAGS.values(), ids=BAD_FLAGS)
def test_bad_flags(flags, says, tmp_path):
    workdir = tmp_path / "run"
    line = refusal(f"--workdir={workdir}", *flags)
    assert line.startswith(says) if says.endswith(" ") else line == says
    assert not workdir.exists()


def test_config_file_with_an_error_in_it(tmp_path):
    config = tmp_path / "mine.py"
    config.write_text("import ml_collections\ndef get_config(:\n")
    line = refusal(f"--config={config}", f"--workdir={tmp_path}/run")
    assert line == f"{config}, line 2: invalid syntax"
    assert list(tmp_path.iterdir()) == [config]


def test_no_workdir():
    expected = "--workdir: expected the directory of this run, such as --workdir=runs/digits"
    assert refusal(DIGITS) == expected


def test_workdir_that_cannot_be_one(tmp_path):
    file = tmp_path / "file"
    file.write_text("mine")
    assert (
        refusal(DIGITS, f"--workdir={file}")
        == f"workdir: expected a directory, got the file {file}"
    )
    below = refusal(*TINY, f"--workdir={file}/run")
    assert below == f"workdir {file}/run cannot be made: {file} is a file"
    nowhere = refusal(*TINY, "--workdir=/proc/run")  # where root cannot write either
    assert nowhere.startswith("workdir /proc/run cannot be written: ")
    assert refusal(DIGITS, "--workdir=") == "workdir: expected a directory, got ''"
    assert tree(tmp_path) == {file: b"mine"}


def test_data_set_that_is_not_there(tmp_path):
    flags = ("--config.data.name=celeba", f"--config.data_dir={tmp_path}/data")
    line = refusal(CIFAR10, f"--workdir={tmp_path}/run", *flags)
    folder = tmp_path / "data" / "downloads" / "manual" / "celeba"
    assert line.startswith("celeba: found no list_eval_partition.txt in ")
    assert str(folder) in line
    assert "put it there" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", ["sample", "evaluate"])
def test_nothing_trained(mode, tmp_path):
    line = refusal(DIGITS, f"--workdir={tmp_path}/run", f"--mode={mode}")
    says = f"nothing is trained in {tmp_path}/run: run the same command with --mode=train"
    assert line == says
    assert not (tmp_path / "run").exists()


UNEXPECTED = {
    OSError(28, "No space left on device"): 2,
    ValueError("a sampler's\nsecond line"): 2,
    OverflowError("too large"): 2,
    MemoryError(): 2,
    TypeError("a fault of this code"): 1,
}


@pytest.mark.parametrize(("error", "code"), UNEXPECTED.items(), ids=str)
def test_what_slips_through_is_one_line_too(error, code, capsys):
    with pytest.raises(SystemExit) as left, command_line.one_line_errors():
        raise error
    assert left.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"main.py: {type(error).__name__}: ")
    (path,) = re.findall(r"\(traceback in (.+)\)$", line)
    text = pathlib.Path(path).read_text()
    pathlib.Path(path).unlink()
    assert text.startswith("Traceback (most recent call last):")
    assert "raise error" in text


def test_ctrl_c_before_there_is_anything_to_save(capsys):
    with pytest.raises(SystemExit) as left, command_line.one_line_errors():
        raise KeyboardInterrupt
    assert left.value.code == 130
    assert capsys.readouterr().err == "main.py: interrupted\n"


def test_float32_whatever_the_environment_says():
    usual = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        command_line.use_float32()
        assert jnp.zeros(1, float).dtype == jnp.float32
    finally:
        jax.config.update("jax_enable_x64", usual)


def test_processes_of_the_environment(monkeypatch):
    asked = {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: asked.update(given))
    monkeypatch.setenv("JAX_NUM_PROCESSES", "")
    monkeypatch.setenv("JAX_PROCESS_ID", "3")
    command_line.join_processes()
    assert asked == {"num_processes": None, "process_id": 3}
    monkeypatch.setenv("JAX_NUM_PROCESSES", "two")
    with pytest.raises(command_line.ConfigError, match=r"config\.distributed: .*'two'"):
        command_line.join_processes()


def test_a_run_that_diverged_at_once_goes_on_with_a_lower_rate(tmp_path):
    flags = (*TINY, f"--workdir={tmp_path}/run", "--config.training.num_steps=4")
    result = run_main(*flags, "--config.train.max_abs_energy=1e-30")
    assert result.code == 3, result.err
    assert "there was no checkpoint yet" in result.err
    assert not (tmp_path / "run" / ".lock").exists()
    result = run_main(*flags, "--config.optimizer.learning_rate=1e-3")
    assert result.code == 0, result.err
    assert "optimizer.learning_rate: 0.001 -> 0.5" in refusal(
        *flags, "--config.optimizer.learning_rate=0.5"
    )


def train(workdir, num_steps):
    flags = (f"--config.training.num_steps={num_steps}", "--config.train.checkpoint_every=1")
    return run_main(*TINY, f"--workdir={workdir}", *flags)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two steps with a checkpoint of each."""
    workdir = tmp_path_factory.mktemp("trained") / "run"
    result = train(workdir, 2)
    assert result.code == 0, result.err
    return workdir


def test_sampling(trained):
    result = run_main(*TINY, f"--workdir={trained}", "--mode=sample")
    assert result.code == 0, result.err
    out = trained / "sample"
    assert result.out == (
        f"16 samples from the EMA weights of step 2\n{out}/samples.json; samples.png, samples.npz\n"
    )
    samples = np.load(out / "samples.npz")["x"]
    assert samples.shape == (16, 8, 8, 1)
    assert np.isfinite(samples).all()
    assert (out / "samples.json").is_file()
    with Image.open(out / "samples.png") as picture:
        assert picture.width > 400


def test_evaluation_does_not_ask_how_it_was_trained(trained):
    """Fields of training alone may differ, but not when training goes on."""
    other = ("--config.training.batch_size=4", "--config.optimizer.learning_rate=1.0")
    evaluation = (*TINY, *other, f"--workdir={trained}", "--mode=sample")
    assert run_main(*evaluation).code == 0
    assert "training.batch_size: 8 -> 4" in refusal(*TINY, *other, f"--workdir={trained}")
    line = refusal(*evaluation, "--config.method.step_scale=0.5")
    assert line.endswith("or these as they were: method.step_scale: 0.007 -> 0.5")


def test_trained_on_two_devices_sampled_on_one(tmp_path):
    """The replay buffer is stored in two shards, which no other number of devices could hold."""
    flags = (*TINY_IGEBM, f"--workdir={tmp_path / 'run'}", "--config.training.num_steps=1")
    samples = []
    assert run_main(*flags).code == 0
    for devices in (2, 1):
        result = run_main(*flags, "--mode=sample", f"--config.cpu_devices={devices}")
        assert result.code == 0, result.err
        samples.append(np.load(tmp_path / "run" / "sample" / "samples.npz")["x"])
    np.testing.assert_allclose(*samples, atol=1e-5)


def test_checkpoint_of_another_architecture(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    (workdir / "config.json").unlink()  # else the config's difference is told
    before = tree(workdir)
    for mode, prefix in (("train", ""), ("sample", "ema_")):
        flags = ("--config.network.width=6", f"--mode={mode}")
        line = refusal(*TINY, f"--workdir={workdir}", *flags)
        assert line.startswith(f"{workdir}/checkpoints/2 was made by another architecture: ")
        assert f"{prefix}params/conv_in/bias is float32[4] in it and float32[6] is wanted" in line
        assert line.endswith("use the config it was trained with, or another workdir")
    assert tree(workdir) == before


def truncate(checkpoint):
    """Cuts the files of a checkpoint's arrays to half their length."""
    for path in (checkpoint / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_truncated_newest_checkpoint_gives_way_to_the_one_before(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    truncate(workdir / "checkpoints" / "2")
    result = train(workdir, 3)
    assert result.code == 0, result.err
    assert f"{workdir}/checkpoints/2 is damaged" in result.err
    assert "trying step 1 instead" in result.err
    assert "going on from step 1" in result.err
    names = {path.name for path in (workdir / "checkpoints").iterdir()}
    assert names == {"1", "2", "3", "damaged-2"}


def test_only_damaged_checkpoints(trained, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(trained, workdir)
    for step in (1, 2):
        truncate(workdir / "checkpoints" / str(step))
    before = tree(workdir)
    result = run_main(*TINY, f"--workdir={workdir}", "--mode=sample")
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith(
        f"main.py: all 2 checkpoints in {workdir}/checkpoints are damaged (steps 1, 2)"
    )
    assert tree(workdir) == before


def test_sampling_from_two_checkpoints_together(trained):
    """The mean of an energy and itself is that energy; the sum of two is twice as deep."""

    def samples(*flags):
        result = run_main(*TINY, f"--workdir={trained}", "--mode=sample", *flags)
        assert result.code == 0, result.err
        made_by = json.loads((trained / "sample" / "samples.json").read_text())
        return np.load(trained / "sample" / "samples.npz")["x"], made_by["measured_on"]["ensemble"]

    alone, nothing = samples()
    same, described = samples("--config.ensemble.checkpoints=(2,2)")
    assert nothing is None
    assert described == {"checkpoints": [2, 2], "combine": "mean", "temperature": 1.0}
    np.testing.assert_allclose(same, alone, rtol=1e-4, atol=1e-5)
    deeper, _ = samples("--config.ensemble.checkpoints=(1,2)", "--config.ensemble.combine=sum")
    assert np.abs(deeper - alone).max() > 0.1


BAD_ENSEMBLES = {
    "(7,)": "no checkpoint of step 7 in ",
    "(1,2)|median": "ensemble.combine: expected one of mean, sum, mixture, cycle, got 'median'",
    "(1,2)|cycle": "ensemble.combine: expected 'mean', 'sum' or 'mixture', got 'cycle', which is ",
    "(1,2)|mixture": "ensemble.combine 'mixture' at temperature 1 wants energies in nats",
}


@pytest.mark.parametrize(("ensemble", "says"), BAD_ENSEMBLES.items(), ids=BAD_ENSEMBLES)
def test_ensembles_that_cannot_be(trained, ensemble, says):
    checkpoints, _, combine = ensemble.partition("|")
    flags = [f"--config.ensemble.checkpoints={checkpoints}"]
    flags += [f"--config.ensemble.combine={combine}"] if combine else []
    assert refusal(*TINY, f"--workdir={trained}", "--mode=sample", *flags).startswith(says)
