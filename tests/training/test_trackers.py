"""Weights & Biases and MLflow, by fakes of their modules: what is sent, resumed, refused, lost."""

import json
import re
import sys
import types

import jax
import numpy as np
import pytest

from configs import toy2d
from ebm_jax import tasks
from ebm_jax.runs.settings import ConfigError
from ebm_jax.training import trackers
from ebm_jax.training.metric_writers import MetricWriter
from ebm_jax.training.trackers import Trackers

CONFIG = {"seed": 3, "data": {"name": "digits", "values": (0.0, 1.0)}}
GRID = np.full((4, 6, 3), 128, np.uint8)


class FakeWandb(types.ModuleType):
    """Remembers what is logged by run id, and how runs were begun."""

    def __init__(self):
        super().__init__("wandb")
        self.runs, self.begun, self.ended, self.axes = {}, [], [], []

    def init(self, **options):
        self.begun.append(options)
        logged = self.runs.setdefault(options["id"], [])
        return types.SimpleNamespace(
            log=logged.append,
            define_metric=lambda name, step_metric=None: self.axes.append((name, step_metric)),
            finish=lambda exit_code: self.ended.append(exit_code),
        )

    def Settings(self, **options):  # as the module calls it
        return options

    def Image(self, image):  # as the module calls it
        return ("image", np.asarray(image).shape)


class FakeMlflow(types.ModuleType):
    """One store of runs; params cannot change, and no more than 100 come at once."""

    def __init__(self):
        super().__init__("mlflow")
        self.runs, self.active, self.ended, self.params, self.files = {}, None, [], {}, {}

    def start_run(self, run_id=None, run_name=None):
        if run_id is not None and run_id not in self.runs:
            raise RuntimeError(f"Run '{run_id}' not found")
        self.active = run_id or f"{run_name}-{len(self.runs)}"
        self.runs.setdefault(self.active, [])
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=self.active))

    def log_params(self, params):
        assert 0 < len(params) <= 100
        assert not params.keys() & self.params.keys()
        self.params |= params

    def log_dict(self, content, name):
        self.files[name] = content

    def log_metrics(self, values, step):
        self.runs[self.active].append((step, values))

    def log_image(self, image, key, step):
        self.runs[self.active].append((step, {key: image.shape}))

    def end_run(self, status):
        self.ended.append(status)


@pytest.fixture
def wandb(monkeypatch):
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


@pytest.fixture
def mlflow(monkeypatch):
    module = FakeMlflow()
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


def write(workdir, names, steps, config=CONFIG):
    with Trackers() as others:
        others.start(names, workdir, config)
        with MetricWriter(workdir, tensorboard=False, others=others) as writer:
            writer.rewind(steps[0] - 1)
            for step in steps:
                values = {"loss": float(step), "gap": np.array([1.0, np.nan])}
                writer.write(step, values)
            writer.images(steps[-1], {"samples": GRID})


def test_wandb_gets_numbers_images_and_the_config(tmp_path, wandb):
    write(tmp_path / "run", ("wandb",), [1, 2])
    (begun,) = wandb.begun
    assert begun["name"] == "run"
    assert begun["project"] == "ebm_jax"
    assert begun["config"] == {"seed": 3, "data": {"name": "digits", "values": [0.0, 1.0]}}
    assert begun["dir"] == str(tmp_path / "run")
    assert begun["settings"] == {"console": "off"}
    assert re.fullmatch("[0-9a-f]{8}", begun["id"])
    assert wandb.runs[begun["id"]] == [
        {"training_step": 1, "loss": 1.0, "gap/0": 1.0},
        {"training_step": 2, "loss": 2.0, "gap/0": 1.0},
        {"training_step": 2, "samples": ("image", (4, 6, 3))},
    ]
    assert wandb.axes == [("training_step", None), ("*", "training_step")]
    assert wandb.ended == [0]
    assert type(wandb.ended[0]) is int


def test_a_service_that_is_named_twice_has_one_run_until_it_is_ended(tmp_path, wandb):
    with Trackers() as others:
        others.start(("wandb", "wandb"), tmp_path, CONFIG)
    others.scalars(3, {"loss": 1.0})
    assert len(wandb.begun) == 1
    assert list(wandb.runs.values()) == [[]]


def test_mlflow_gets_numbers_images_and_the_config(tmp_path, mlflow):
    config = CONFIG | {"many": {f"field_{i}": i for i in range(250)}, "long": "x" * 1_000}
    write(tmp_path / "run", ("mlflow",), [1, 2], config)
    assert mlflow.runs == {
        "run-0": [
            (1, {"loss": 1.0, "gap/0": 1.0}), (2, {"loss": 2.0, "gap/0": 1.0}),
            (2, {"samples": (4, 6, 3)}),
        ]
    }  # fmt: skip
    assert len(mlflow.params) == 254
    assert mlflow.params["data.name"] == "digits"
    assert mlflow.params["many.field_249"] == "249"
    assert len(mlflow.params["long"]) == 500
    assert mlflow.files["config.json"]["long"] == config["long"]
    assert mlflow.ended == ["FINISHED"]


def test_a_resumed_run_goes_on_in_the_same_runs(tmp_path, wandb, mlflow):
    """Steps after the checkpoint are there twice, as the page says."""
    write(tmp_path, ("wandb", "mlflow"), [1, 2, 3])
    known = json.loads((tmp_path / "trackers.json").read_text())
    write(tmp_path, ("mlflow", "wandb"), [3, 4])
    assert json.loads((tmp_path / "trackers.json").read_text()) == known
    assert set(known) == {"wandb", "mlflow"}
    assert [begun["id"] for begun in wandb.begun] == [known["wandb"]] * 2
    assert all(begun["resume"] == "allow" for begun in wandb.begun)
    (logged,) = wandb.runs.values()
    assert [row["training_step"] for row in logged if "loss" in row] == [1, 2, 3, 3, 4]
    (logged,) = mlflow.runs.values()
    assert [step for step, values in logged if "loss" in values] == [1, 2, 3, 3, 4]


def test_other_processes_start_no_run_and_send_nothing(tmp_path, wandb, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with Trackers() as others, MetricWriter(tmp_path, others=others) as writer:
        writer.write(1, {"loss": 1.0})
        writer.images(1, {"samples": GRID})
    assert wandb.begun == []


def test_an_error_in_training_ends_the_runs_as_failed(tmp_path, wandb, mlflow):
    with pytest.raises(ValueError, match="cannot be written after"):
        write(tmp_path, ("wandb", "mlflow"), [1, 1])
    assert (wandb.ended, mlflow.ended) == ([1], ["FAILED"])


def test_a_service_that_fails_does_not_end_training(tmp_path, wandb, mlflow, capsys, monkeypatch):
    def away(values, step):
        raise OSError("no route\nto host")

    monkeypatch.setattr(mlflow, "log_metrics", away)
    write(tmp_path, ("wandb", "mlflow"), [1, 2])
    assert capsys.readouterr().err == (
        "mlflow: no route to host; it gets no more of this run, metrics.jsonl does\n"
    )
    assert mlflow.ended == []
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    (logged,) = wandb.runs.values()
    assert len(logged) == 3


# ---- from --mode=train


def small(*writers):
    config = toy2d.get_config()
    config.network.update(width=4, depth=1, num_frequencies=2)
    config.method.update(num_steps=1)
    config.optimizer.update(schedule="constant", warmup_steps=0)
    config.training.update(batch_size=8, num_steps=2)
    config.train.update(log_every=1, checkpoint_every=1, sample_every=0, writers=writers)
    config.sampling.update(num_samples=8, batch_size=8)
    return config


def test_training_sends_lines_and_grids(tmp_path, wandb, mlflow):
    """And a run that is done already begins nothing."""
    assert tasks.run("train", small("wandb", "mlflow"), tmp_path / "run") == 0
    lines = [json.loads(s) for s in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    (logged,) = wandb.runs.values()
    scalars = [row for row in logged if "loss" in row]
    assert [row["training_step"] for row in scalars] == [1, 2]
    assert [row["loss"] for row in scalars] == [line["loss"] for line in lines]
    assert [row["training_step"] for row in logged if "samples" in row] == [2]
    (logged,) = mlflow.runs.values()
    assert [step for step, values in logged if "samples" in values] == [2]
    assert wandb.begun[0]["config"]["training"]["num_steps"] == 2
    assert tasks.run("train", small("wandb", "mlflow"), tmp_path / "run") == 0
    assert len(wandb.begun) == 1


def test_no_service_by_default(tmp_path, wandb, mlflow):
    assert tasks.run("train", small(), tmp_path / "run") == 0
    assert (wandb.begun, mlflow.runs) == ([], {})
    assert not (tmp_path / "run/trackers.json").exists()


@pytest.mark.parametrize("name", trackers.SERVICES)
def test_a_missing_package_is_said_before_anything_is_done(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)  # what makes its import fail
    expected = rf"train\.writers: '{name}' wants .* pip install 'ebm_jax\[{name}\]'"
    with pytest.raises(ConfigError, match=expected):
        tasks.run("train", small(name), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_service_that_refuses_is_said_in_one_line(tmp_path, mlflow):
    (tmp_path / "trackers.json").write_text('{"mlflow": "gone"}')
    with pytest.raises(ConfigError) as caught:
        tasks.run("train", small("mlflow"), tmp_path)
    assert str(caught.value) == (
        "train.writers: mlflow cannot be started: Run 'gone' not found (it is asked for run gone "
        f"of {tmp_path}/trackers.json)"
    )
    assert not (tmp_path / "metrics.jsonl").exists()


def test_an_unknown_service_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.writers: expected one of wandb, mlflow"):
        tasks.run("train", small("wandbs"), tmp_path / "run")
