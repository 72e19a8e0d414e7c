"""--mode=train beside its loop: the first checkpoint, the lock."""

import contextlib
import socket
import types

import jax
import numpy as np
import pytest
from orbax.checkpoint._src.path import atomicity

from configs import toy2d
from ebm_jax import data, parallel, tasks
from ebm_jax.io import image_grids
from ebm_jax.runs import build, preview, settings
from ebm_jax.runs.lock import Lock
from ebm_jax.runs.settings import ConfigError
from ebm_jax.tasks import train
from ebm_jax.training import device_state, divergence, loop
from ebm_jax.training.checkpoint_files import (
    CheckpointError,
    DamagedCheckpointError,
    NonFiniteError,
)
from ebm_jax.training.checkpoints import Checkpoints
from ebm_jax.training.state import TrainState


def small():
    config = toy2d.get_config()
    config.network.update(width=8, depth=1, num_frequencies=4)
    config.method.update(num_steps=2)
    config.optimizer.warmup_steps = 0
    config.training.update(batch_size=8, num_steps=4)
    config.train.update(log_every=1, checkpoint_every=1, sample_every=0)
    config.sampling.update(num_samples=8, batch_size=8)
    return config


def test_the_first_checkpoint_is_read_back_at_once(tmp_path, monkeypatch):
    read, restore = [], Checkpoints.restore

    def counted(self, step, template, **options):
        read.append(step)
        return restore(self, step, template, **options)

    monkeypatch.setattr(Checkpoints, "restore", counted)
    assert tasks.run("train", small(), tmp_path / "good") == 0
    assert read == [1]  # and none of the later ones

    def damaged(self, step, template, **options):
        raise DamagedCheckpointError(f"{self.directory}/{step} is damaged: x")

    monkeypatch.setattr(Checkpoints, "restore", damaged)
    with pytest.raises(CheckpointError, match="checkpoints/1 is damaged"):
        tasks.run("train", small(), tmp_path / "bad")
    assert [path.name for path in (tmp_path / "bad" / "checkpoints").iterdir()] == ["1"]
    assert not (tmp_path / "bad" / ".lock").exists()


def test_a_run_whose_last_checkpoint_cannot_be_written_is_not_called_trained(
    tmp_path, monkeypatch, capsys
):
    usual = atomicity.AtomicRenameTemporaryPath.finalize

    async def finalize(self):
        if self.get_final().name == "4":
            raise OSError(28, "No space left on device")
        return await usual(self)

    monkeypatch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", finalize)
    with pytest.raises(CheckpointError, match=r"step 4 could not be written.*No space left"):
        tasks.run("train", small(), tmp_path)
    assert "trained to step" not in capsys.readouterr().out


def test_a_workdir_in_use(tmp_path):
    with Lock(tmp_path / "run"):
        with pytest.raises(ConfigError, match=f"is in use by process .* on {socket.gethostname()}"):
            tasks.run("train", small(), tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_command_that_ended_between_a_look_and_the_lock(tmp_path, monkeypatch):
    """Another config is trained in the workdir while this one's data are loaded."""
    usual, other = build.build, small()
    other.network.width, other.training.num_steps = 6, 1

    def build_late(config, **where):
        monkeypatch.setattr(build, "build", usual)
        assert tasks.run("train", other, tmp_path) == 0
        return usual(config, **where)

    monkeypatch.setattr(build, "build", build_late)
    with pytest.raises(ConfigError, match=r"network\.width"):
        tasks.run("train", small(), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_a_line_of_metrics():
    """Speed is in it where there is one to tell; that all was finite so far is not."""
    shown, written, speeds = [], [], [None, 4.0]
    progress = types.SimpleNamespace(
        update=lambda step, values: shown.append((step, values)), lap=lambda: speeds.pop(0)
    )
    writer = types.SimpleNamespace(write=lambda step, values: written.append((step, values)))
    values = {"loss": 1.0, "grad_norm": 2.0, "energy": 3.0, "finite_so_far": True}
    metrics = {name: np.asarray(value) for name, value in values.items()}
    metrics["gap"] = np.array([0.5, 0.25])
    session = types.SimpleNamespace(_finite=lambda step, given: dict(given))
    for step in (5, 9):
        train._Session._log(session, writer, progress, step, metrics)
    beside_the_bar = {"loss": 1.0, "grad_norm": 2.0}
    assert shown == [(5, beside_the_bar), (9, beside_the_bar)]
    line = {"loss": 1.0, "grad_norm": 2.0, "energy": 3.0, "gap/level_0": 0.5, "gap/level_1": 0.25}
    assert written == [(5, line), (9, line | {"steps_per_second": 4.0})]


@pytest.mark.parametrize("process", [0, 1])
def test_a_grid_of_samples(tmp_path, monkeypatch, process):
    """Of EMA parameters 5, by the key of samples; the first process writes it."""

    def sample(params, key, index):
        return params + index + jax.random.uniform(key)

    run = types.SimpleNamespace(
        key=lambda name: jax.random.key(len(name)), method=types.SimpleNamespace(sample=sample),
        sampling=settings.Sampling(num_samples=11),
    )  # fmt: skip
    saved, sent = [], []
    monkeypatch.setattr(jax, "process_index", lambda: process)
    monkeypatch.setattr(preview, "figure", lambda *given: given)
    monkeypatch.setattr(image_grids, "save_image", lambda *given: saved.append(given))
    session = types.SimpleNamespace(run=run, workdir=tmp_path)
    session._sampler = train._Session._sampler.func(session)
    state = types.SimpleNamespace(ema_params=parallel.replicate(np.float32(5)))
    writer = types.SimpleNamespace(images=lambda step, images: sent.append((step, images)))
    train._Session._sample(session, writer, 40, state)
    if process:
        assert saved == sent == []
        return
    ((path, (of_run, params, samples)),) = saved
    assert path == tmp_path / "samples" / "step_0000040.png"
    assert (of_run, float(params)) == (run, 5.0)
    expected = 5 + np.arange(11) + float(jax.random.uniform(jax.random.key(len("sample"))))
    np.testing.assert_allclose(samples, expected, rtol=1e-6)
    ((step, images),) = sent
    assert (step, list(images), images["samples"]) == (40, ["samples"], saved[0][1])


@pytest.mark.parametrize("is_complete", [False, True])
@pytest.mark.parametrize("first_step", [0, 4])
def test_a_session_of_training(tmp_path, monkeypatch, capsys, first_step, is_complete):
    """What the loop is told, and what is said once all that was saved is on the disk."""
    done, fitted = [], {}

    class Writer(contextlib.AbstractContextManager):
        rewind = staticmethod(lambda step: done.append(("rewind", step)))

        def __init__(self, *where, **others):
            done.append((where, others))

        def __exit__(self, *_):
            done.append("closed")

    class Progress(Writer):
        compile_seconds = 1.6
        note = staticmethod(lambda text: done.append(text))
        update = "update"

    def fit(state, step_fn, batches, **how):
        fitted.update(how, state=state, step_fn=step_fn, batches=batches)
        return loop.Outcome(9, state, is_complete)

    monkeypatch.setattr(train, "MetricWriter", Writer)
    monkeypatch.setattr(train, "Progress", Progress)
    monkeypatch.setattr(loop, "fit", fit)
    monkeypatch.setattr(device_state, "to_devices", lambda state: ("on devices", state.step))
    monkeypatch.setattr(data, "prefetch", lambda batch, first: (batch, first))
    chosen = train.Settings(log_every=2, sample_every=3, checkpoint_every=5)
    session = train._Session.__new__(train._Session)
    session.__dict__.update(
        workdir=tmp_path, others="others", settings=chosen, step_fn="step",
        training=settings.Training(num_steps=9), run=types.SimpleNamespace(has_trajectories=True),
        stop=types.SimpleNamespace(exit_code=130),
        checkpoints=types.SimpleNamespace(wait=lambda: done.append("written")),
    )  # fmt: skip
    code = session.train(types.SimpleNamespace(step=np.int32(first_step)))
    assert done == [
        ((9, "training", first_step), {}), ((tmp_path,), {"others": "others"}),
        ("rewind", first_step), *[f"going on from step {first_step}"] * bool(first_step),
        "written", "closed", "closed",
    ]  # fmt: skip
    assert (fitted["state"], fitted["step_fn"]) == (("on devices", first_step), "step")
    assert fitted["batches"] == (session._batch, first_step)
    assert (fitted["first_step"], fitted["schedule"]) == (first_step, loop.Schedule(9, 2, 3, 5))
    assert (fitted["stop"], fitted["max_in_flight"]) == (session.stop, 1)
    called = fitted["callbacks"]
    assert (called.save, called.step_done) == (session._save, "update")
    said = capsys.readouterr().out.splitlines()
    if not is_complete:
        assert code == 130
        assert said == [f"step 9 is saved in {tmp_path}; the same command goes on from there"]
        return
    assert code == 0
    assert said == [
        "trained to step 9; the first step took 2 s with its compilation",
        f"  samples      {tmp_path}/samples/step_0000009.png",
        f"  checkpoints  {tmp_path}/checkpoints/",
        f"  metrics      {tmp_path}/metrics.jsonl; tensorboard --logdir {tmp_path}",
        "next: the same command with --mode=sample or --mode=rollout",
    ]


def test_what_a_session_keeps_and_goes_back_to(tmp_path, monkeypatch, capsys):
    """After a look at the lock; the first checkpoint is read again, and what is infinite told."""
    done = []

    def save(step, state):
        done.append(("saved", step, state))
        if state == "infinite on host":
            raise NonFiniteError("no", "opt_state/mu")

    def noted(name):
        return lambda *given: done.append((name, *given))

    session = train._Session.__new__(train._Session)
    session.__dict__.update(
        workdir=tmp_path, is_saved=False, settings=train.Settings(max_retries=4),
        lock=types.SimpleNamespace(check=noted("checked")),
        checkpoints=types.SimpleNamespace(
            save=save, wait=noted("written"), steps=lambda: (30, 60),
            restore=lambda step, state: done.append(("read", step, state)) or before,
        ),
    )  # fmt: skip
    assert session.keep("a state") == 0
    assert done == [("checked",), ("saved", 0, "a state"), ("written",)]
    assert capsys.readouterr().out == (
        f"the parameters to start from are in {tmp_path}, untrained; next: --mode=sample\n"
    )
    monkeypatch.setattr(device_state, "to_host", lambda state: f"{state} on host")
    done.clear()
    before = TrainState(60, *[None] * 4, attempt=np.int32(9), finite_so_far=True)
    session._save(5, "first")
    session._save(6, "second")
    assert done == [
        ("checked",), ("saved", 5, "first on host"), ("read", 5, "first on host"),
        ("checked",), ("saved", 6, "second on host"),
    ]  # fmt: skip
    with pytest.raises(divergence.DivergedAt) as diverged:
        session._save(70, "infinite")
    assert str(diverged.value.divergence) == "a value of opt_state/mu is not finite"
    state = before._replace(attempt=np.int32(3))
    found = session.go_back(state, diverged.value)
    assert done[-1] == ("read", 60, state)
    assert (int(found.attempt), found.attempt.dtype, found.step) == (4, np.int32, 60)
    assert capsys.readouterr().out == "diverged at step 70: going back to step 60\n"
    with pytest.raises(divergence.DivergenceError, match="after 4 of 4 retries") as given_up:
        session.go_back(found, diverged.value)
    assert f"the last good checkpoint is {tmp_path}/checkpoints/60" in str(given_up.value)


def test_batches_and_energies_are_by_the_settings(monkeypatch):
    """Examples by the seed of the run; a mean energy beyond 3 is divergence."""
    asked = []
    monkeypatch.setattr(data, "local_batch", lambda *given, **how: asked.append((given, how)))
    run = types.SimpleNamespace(dataset="made", general=settings.General(seed=6))
    session = types.SimpleNamespace(
        run=run,
        training=settings.Training(batch_size=24),
        settings=train.Settings(max_abs_energy=3),
    )
    train._Session._batch(session, 11)
    assert asked == [
        (("made", 11), {"seed": 6, "global_batch_size": 24, "process_index": 0, "process_count": 1,
                        "local_devices": jax.local_device_count()})
    ]  # fmt: skip
    values = dict.fromkeys(("loss", "grad_norm", "update_norm", "param_norm"), np.float32(0))
    values |= {"finite_so_far": np.bool_(True)}
    for energy in (2.9, 3.1):
        metrics = parallel.replicate(values | {"energy_data": np.float32(energy)})
        if energy < 3:
            found = train._Session._finite(session, 7, metrics)
            assert found["energy_data"] == np.float32(energy)
            continue
        with pytest.raises(divergence.DivergedAt) as diverged:
            train._Session._finite(session, 7, metrics)
        assert (diverged.value.step, diverged.value.divergence.bound) == (7, 3)


def test_where_a_run_begins_is_looked_at_until_it_has_begun(tmp_path, monkeypatch):
    looked = []
    monkeypatch.setattr(train.init_from, "check", looked.append)
    train._check_init_from(settings.Training(), tmp_path)
    assert looked == []
    other = settings.Training(init_from="other")
    train._check_init_from(other, tmp_path)
    (tmp_path / "checkpoints").mkdir()
    train._check_init_from(other, tmp_path)
    assert looked == ["other"]
