"""--mode=train beside its loop: the first checkpoint, the lock."""

import socket

import pytest
from orbax.checkpoint._src.path import atomicity

from configs import toy2d
from ebm_jax import tasks
from ebm_jax.runs import build
from ebm_jax.runs.lock import Lock
from ebm_jax.runs.settings import ConfigError
from ebm_jax.training.checkpoint_files import CheckpointError, DamagedCheckpointError
from ebm_jax.training.checkpoints import Checkpoints


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
