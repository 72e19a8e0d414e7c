"""--mode=continual, on a method of which it is known what it remembers.

Images of six grays, one for each class. The method learns of every example that there is its class;
told to forget, it unlearns the classes that it does not see. A class that it knows is told exactly.
"""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effects_stubs import SHAPE, full_bars
from effects_table import TABLE, changed, shows
from flax import linen as nn

from configs import default
from ebm_jax import tasks
from ebm_jax.data import Dataset
from ebm_jax.methods import base
from ebm_jax.methods.base import MethodState
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.runs import build
from ebm_jax.runs.settings import ConfigError
from ebm_jax.tasks import _updates

__all__ = ["full_bars"]

GRAYS = 20 + 40 * np.arange(6)
PER_TASK = 3  # updates: 40 examples of two classes in batches of 16, rounded up


def images(split):
    labels = np.arange(120, dtype=np.int32) % 6
    gray = np.broadcast_to(GRAYS[labels][:, None, None, None], (120, *SHAPE)).astype(np.uint8)
    return Dataset("grays", split, gray, labels, 6, (0.0, 255.0))


class Linear(nn.Module):
    """One energy, or logits."""

    num_classes: int | None = 6
    num_outputs: int = 1
    input_shape = SHAPE

    @nn.compact
    def __call__(self, x, condition=None):
        return nn.Dense(self.num_outputs)(x.reshape(x.shape[0], -1))


LINEAR = Linear()


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
    """Knows a class y where knows_y > 0, with E(x, y) = 1000 (gray - gray_y)^2.

    forgets: 'never', 'always', or 'later': once its memory has seen the updates of a whole task.
    """

    network: Any = LINEAR
    forgets: str = "never"
    num_classes: int = 6

    def init(self, rng_key, example_batch):
        return {"knows": -jnp.ones(6)}, MethodState((), jnp.zeros(8))

    def loss(self, params, method_state, batch, rng_key):
        count = method_state.sharded
        rate = {"never": 0.0, "always": 0.1, "later": 0.1 * (count[0] >= PER_TASK)}[self.forgets]
        own = jax.nn.one_hot(batch["label"], 6)
        squares = own * (params["knows"] - 1) ** 2 + rate * (1 - own) * (params["knows"] + 1) ** 2
        losses = squares.sum(1) / 2
        return losses.mean(), (MethodState((), count + 1), {"error": base.mean_over_batch(losses)})

    def densities(self, params):
        def class_energy(level, label):
            center = jnp.asarray(GRAYS / 127.5 - 1)[label]
            unknown = 1e4 * (params["knows"][label] < 0)
            return lambda x: 1e3 * (x.mean((1, 2, 3)) - center) ** 2 + unknown

        return Densities(
            lambda level: None, jnp.ones(1), jnp.zeros(1), BaseDistribution(box=(-1.0, 1.0)),
            num_classes=self.num_classes, class_energy=class_energy,
        )  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(config, method) -> continual.json."""
    monkeypatch.setattr(build, "load_split", lambda config, split: images(split))

    def call(config, method=None):
        monkeypatch.setattr(build, "make_method", lambda *args: method or Memory())
        assert tasks.run("continual", config, tmp_path) == 0
        return json.loads((tmp_path / "continual" / "continual.json").read_text())

    return call


def config_of(*fields, **values):
    config = default.get_config()
    config.data.random_flip = False
    config.training.update(batch_size=16, ema_decay=0.0)
    config.optimizer = default.optimizer("adam", learning_rate=0.6, b1=0.0)
    config.continual.update(num_tasks=3, num_seeds=1, learners=("energies",))
    config.continual.update(values)
    return changed(config, *fields)


def matrix(found, learner="energies"):
    return np.array(found["learners"][learner]["matrix"]["mean"])


ROWS = [field for field in TABLE if field.startswith("continual.")]


@shows("continual.num_tasks", "continual.num_passes", "continual.num_seeds", "continual.learners")
def test_one_that_remembers(run, tmp_path):
    others = [row for row in ROWS if not row.endswith("buffer")]
    found = run(config_of(*others))
    assert found["tasks"] == [[0, 1], [2, 3], [4, 5]]
    assert found["updates_per_task"] == [5] * 3  # of 80 examples
    assert run(config_of(num_passes=1))["updates_per_task"] == [PER_TASK] * 3
    assert found["measured_on"]["seeds"] == [0, 1]
    assert list(found["learners"]) == ["energies"]
    scores = found["learners"]["energies"]
    np.testing.assert_array_equal(matrix(found), np.tril(np.ones((3, 3))))
    assert scores["final"] == {"mean": 1, "std": 0, "by_seed": [1, 1]}
    assert scores["forgetting"]["mean"] == 0
    np.testing.assert_array_equal(scores["confusion"], 40 * np.eye(6))  # of two seeds
    for name in ("accuracy", "confusion", "energies"):
        assert (tmp_path / "continual" / f"{name}.png").stat().st_size > 1000
    assert run(config_of(num_tasks=2))["tasks"] == [[0, 1, 2], [3, 4, 5]]


def test_one_that_forgets_is_right_on_the_last_task_alone(run):
    config = config_of(learners=("energies", "energies_joint"), num_passes=10)
    config.optimizer.learning_rate = 0.1
    found = run(config, Memory(forgets="always"))
    np.testing.assert_array_equal(matrix(found), np.eye(3))
    scores = found["learners"]["energies"]
    assert scores["final"]["mean"] == pytest.approx(1 / 3)
    assert (scores["forgetting"]["mean"], scores["final"]["std"]) == (1, None)
    np.testing.assert_array_equal(scores["confusion"][4:], 20 * np.eye(6)[4:])
    np.testing.assert_array_equal(matrix(found, "energies_joint"), np.ones((1, 3)))
    assert "forgetting" not in found["learners"]["energies_joint"]


@shows("continual.buffer")
def test_memory_that_is_kept(run):
    """Emptied at each task it never counts the updates of more than one."""
    for fields, expected in (((), np.tril(np.ones((3, 3)))), (["continual.buffer"], np.eye(3))):
        found = run(config_of(*fields), Memory(forgets="later"))
        np.testing.assert_array_equal(matrix(found), expected)


def test_softmax_networks_have_the_batches_of_their_task(run, monkeypatch):
    seen, usual = [], _updates.train

    def train(kept, step_fn, batch, state, num_steps, **options):
        seen.append([batch(step) for step in range(int(state.step), num_steps)])
        return usual(kept, step_fn, batch, state, num_steps, **options)

    monkeypatch.setattr(_updates, "train", train)
    learners = ("softmax", "softmax_current", "softmax_joint")
    found = run(config_of(learners=learners, num_passes=8))
    assert [len(batches) for batches in seen] == [20] * 6 + [60]
    for i, batches in enumerate(seen):
        labels = np.concatenate([batch["label"].reshape(-1) for batch in batches])
        classes = range(6) if i == 6 else (2 * (i % 3), 2 * (i % 3) + 1)
        counts = np.bincount(labels, minlength=6)
        assert set(np.flatnonzero(counts)) == set(classes)
        assert np.ptp(counts[list(classes)]) == 0  # whole passes
        masks = [batch["is_candidate"] for batch in batches if "is_candidate" in batch]
        assert len(masks) == (20 if 3 <= i < 6 else 0)
        assert all((mask == np.isin(np.arange(6), classes)).all() for mask in masks)
    assert matrix(found, "softmax").shape == (3, 3)
    assert matrix(found, "softmax_joint").shape == (1, 3)


def test_goes_on_where_it_stopped(run, monkeypatch):
    """In the middle of the second task, whose memory is not emptied again."""
    config, method = config_of(num_passes=30), Memory(forgets="later")  # 75 updates per task
    whole, steps, check = run(config, method), [], _updates.check

    def third_fails(values):
        steps.append(1)
        return "interrupted" if len(steps) == 4 else check(values)

    with monkeypatch.context() as patch:
        patch.setattr(_updates, "check", third_fails)
        with pytest.raises(ConfigError, match="energies, seed 0, diverged at step 150: interrupt"):
            run(config, method)
    assert run(config, method)["learners"] == whole["learners"]


def test_what_one_model_learned_is_kept_when_there_are_more_of_them(run, monkeypatch):
    """And nothing of it where a model would learn otherwise."""
    check, steps, fails_at = _updates.check, [], 4

    def counted(values):
        steps.append(1)
        return "interrupted" if len(steps) == fails_at else check(values)

    monkeypatch.setattr(_updates, "check", counted)
    with pytest.raises(ConfigError, match="interrupted"):
        run(config_of(num_passes=30), Memory())
    fails_at = 0
    numbers = []
    for values in ({"num_seeds": 2}, {"num_seeds": 2}, {"num_seeds": 1}):
        steps.clear()
        run(config_of(num_passes=30, **values), Memory())
        numbers.append(len(steps))
    resumed, both, one = numbers  # nothing is kept once all is done
    assert both == 2 * one
    assert 0 < both - resumed < one

    fails_at = 4
    steps.clear()
    with pytest.raises(ConfigError, match="interrupted"):
        run(config_of(num_passes=30), Memory())
    fails_at = 0
    steps.clear()
    run(config_of(num_passes=30, buffer="kept"), Memory())
    assert len(steps) == one


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_tasks": 4}, "num_tasks: .* 6 classes divide, two or more in each, such as 3, got 4"),
        ({"num_tasks": 6}, "continual.num_tasks: .* two or more in each, such as 3, got 6"),
        ({"num_seeds": 0}, "continual.num_seeds: expected a whole number >= 1, got 0"),
        ({"learners": ()}, r"continual.learners: expected one or more.*got \(\)"),
        ({"learners": ("softmax",) * 2}, "continual.learners: expected one or more, each once"),
    ],
)
def test_what_cannot_be_done_is_refused(run, values, message):
    with pytest.raises(ConfigError, match=message):
        run(config_of(**values))


def test_models_and_trainings_that_do_not_fit_are_refused(run):
    with pytest.raises(ConfigError, match=r"--mode=continual: expected a model with an energy per"):
        run(config_of(), Memory(num_classes=0))
    with pytest.raises(ConfigError, match=r"learners: expected energies alone, as Memory here has"):
        run(config_of(learners=("energies", "softmax")), Memory(network=None))
    config = config_of()
    config.training.init_from = "elsewhere"
    with pytest.raises(ConfigError, match=r"training\.init_from: expected '', as --mode=continual"):
        run(config)
    config = config_of()
    config.optimizer.schedule = "cosine"
    with pytest.raises(ConfigError, match=r"optimizer\.schedule: expected 'constant'"):
        run(config)
