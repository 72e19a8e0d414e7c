"""What the fields of --mode=rollout do, on states that grow by known factors."""

import dataclasses
import io
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from effects_stubs import full_bars, images
from effects_table import TABLE, changed, shows
from flax import linen as nn
from PIL import Image

from configs import trajectories as config_file
from ebm_jax import tasks
from ebm_jax.data.sources import trajectories
from ebm_jax.networks.conditional_mlp import ConditionalMLP
from ebm_jax.runs import build, modes
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks import rollout

__all__ = ["full_bars"]

LENGTH, CONTEXT, FACTOR = 8, 2, 0.9


def states_of(split):
    """80 to train on, 50 held out: x_{t+1} = -.8 x_t + noise, in two columns."""
    rng = np.random.default_rng(len(split))
    states = [rng.normal(size=(80 if split == "train" else 50, 2))]
    for _ in range(LENGTH - 1):
        states.append(-0.8 * states[-1] + 0.3 * rng.normal(size=states[0].shape))
    return np.stack(states, axis=1)


def dataset(split):
    return trajectories.cut(
        "made", split, states_of(split), of_training=states_of("train"), columns=("a", "b"),
        context=CONTEXT,
    )  # fmt: skip


NETWORK = ConditionalMLP(input_size=2, label_size=4, width=4, depth=1)


@dataclasses.dataclass(frozen=True)
class Known:
    """The next state is .9 of the last, and .05 of the one before and the action if given."""

    network: nn.Module = NETWORK
    is_conditional: bool = True
    is_last: bool = False

    def sample(self, params, rng_key, index, *, label=None):
        if self.is_last:
            return label
        action = label[:, :-4] if label.shape[1] > 4 else 0.0
        return FACTOR * label[:, -2:] + 0.05 * label[:, -4:-2] + action


def predicted(true):
    states = list(np.swapaxes(true[:, :CONTEXT], 0, 1))
    while len(states) < LENGTH:
        states.append(FACTOR * states[-1] + 0.05 * states[-2])
    return np.stack(states, axis=1)


def distances(a, b):
    """By matrix square roots."""
    found = []
    for t in range(LENGTH):
        x, y = a[:, t].astype(np.float64), b[:, t].astype(np.float64)
        root = scipy.linalg.sqrtm(np.cov(x.T))
        overlap = np.trace(np.real(scipy.linalg.sqrtm(root @ np.cov(y.T) @ root)))
        traces = np.trace(np.cov(x.T)) + np.trace(np.cov(y.T))
        found.append(np.sum((x.mean(0) - y.mean(0)) ** 2) + traces - 2 * overlap)
    return np.array(found)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(config, method, data) -> its JSON."""
    given = [Known(), dataset]
    monkeypatch.setattr(build, "load_split", lambda config, split: given[1](split))

    def load_trained(config, workdir):
        general, sections = build.check_sections(config)
        described = build.Run(
            config, given[1]("train"), given[0], general, sections["data"], sections["sampling"]
        )
        return TrainedRun(described, 7, {"unused": np.zeros(3)}, 0.999)

    monkeypatch.setattr(modes, "load_trained", load_trained)
    monkeypatch.setattr(modes, "check_trained", lambda config, workdir: pathlib.Path(workdir))

    def call(config, method=None, data=dataset, mode="rollout"):
        given[:] = [method or Known(), data]
        assert tasks.run(mode, config, tmp_path) == 0
        return json.loads((tmp_path / mode / f"{mode}.json").read_text())

    return call


def config_of(*fields, **values):
    config = config_file.get_config("linear_gaussian")
    config.training.update(batch_size=16, num_steps=4, ema_decay=0.0)
    config.optimizer.update(learning_rate=0.05, warmup_steps=0)
    config.sampling.batch_size = 32
    config.rollout.update(horizons=(1, 3), feed_forward=False, film_frames=0, num_draws=1, **values)
    return changed(config, *fields)


ROWS = [field for field in TABLE if field.startswith("rollout.")]


@shows(*ROWS)
def test_rollout(run, tmp_path, monkeypatch):
    """Every number in closed form but those of the feed-forward network."""
    filmed = []
    usual = rollout._film_of
    monkeypatch.setattr(rollout, "_film_of", lambda *a: filmed.append(a[2]) or usual(*a))
    for fields, number, horizons in (
        ((), 50, (1, 3)),
        (("rollout.num_trajectories", "rollout.horizons", "rollout.num_draws"), 40, (2, 4)),
    ):
        config = config_of(*fields)
        split = config.held_out_split = "validation" if fields else "test"
        found = run(config)
        assert found["split"] == split
        true = dataset(split).trajectories.states[:number]
        assert found["measured_on"]["num_samples"] == number
        assert (found["context"], found["length"], found["columns"]) == (2, 8, ["a", "b"])
        rows = found["competitors"]
        assert set(rows) == {"energies", "last frame repeated", "floor: training trajectories"}
        assert len(rows["energies"]["mean_frechet_of_each_draw"]) == (2 if fields else 1)
        repeated = np.concatenate([true[:, :1], np.repeat(true[:, 1:2], 7, axis=1)], axis=1)
        floor = dataset("train").trajectories.states[:number]
        for name, states in (
            ("energies", predicted(true)), ("last frame repeated", repeated),
            ("floor: training trajectories", floor),
        ):  # fmt: skip
            expected = distances(states, true)
            np.testing.assert_allclose(rows[name]["frechet"], expected, rtol=1e-3, atol=1e-5)
            assert rows[name]["mean_frechet"] == pytest.approx(expected.mean(), rel=1e-3)
            if "floor" in name:
                assert "squared_errors" not in rows[name]
                continue
            np.testing.assert_allclose(rows[name]["frechet"][:2], 0, atol=1e-9)
            assert set(rows[name]["squared_errors"]) == {str(h) for h in horizons}
            for h in horizons:
                each = np.mean((states - true)[:, 1 + h] ** 2, axis=1)
                error = rows[name]["squared_errors"][str(h)]
                assert error["mean"] == pytest.approx(each.mean(), rel=1e-4)
                spread = each.std(ddof=1) / np.sqrt(number)
                assert error["standard_error"] == pytest.approx(spread, rel=1e-4)
    with np.load(tmp_path / "rollout" / "states.npz") as states:
        np.testing.assert_allclose(states["energies"], predicted(true), rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(states["true"], true)
        assert set(states) == {"true", "energies", "last_frame_repeated"}
        for rows in filmed:  # repeated frames are no film
            assert list(rows) == ["true", "energies"]
        for name, x in filmed[-1].items():
            np.testing.assert_array_equal(x, states[name])
    assert not (tmp_path / "rollout" / "film.gif").exists()


def test_feed_forward_and_film(run, tmp_path):
    """Its error falls with its updates; the film has as many frames as are asked for."""
    found = {}
    for steps in (2, 3, 150):
        fields = ["rollout.feed_forward_steps"] if steps == 3 else []
        values = {"feed_forward_steps": steps} if steps != 3 else {}
        config = config_of(*fields, **values)
        config.rollout.feed_forward = True
        config = changed(config, "rollout.film_frames") if steps == 3 else config
        result = run(config)
        found[steps] = result["competitors"]["feed-forward network"]["squared_errors"]["1"]["mean"]
        assert result["num_parameters"]["feed-forward network"] == 4 * 4 + 4 + 4 * 2 + 2
        if steps == 3:
            film = Image.open(io.BytesIO((tmp_path / "rollout" / "film.gif").read_bytes()))
            assert film.n_frames == 2
            assert (tmp_path / "rollout" / "film.png").exists()
    assert len(set(found.values())) == 3
    energies = result["competitors"]["energies"]["squared_errors"]["1"]["mean"]
    assert found[150] < 0.3 * found[2]
    assert found[150] < 0.3 * energies


@shows("rollout.spectral_norm")
def test_spectral_norm(run, tmp_path):
    """States double: a free network learns that, one of norm 1 lets no two states grow apart."""

    def growing(split):
        rng = np.random.default_rng(len(split))
        states = rng.normal(size=(60, 1, 2)) * 2.0 ** np.arange(4)[:, None]
        return trajectories.cut(
            "made", split, states, of_training=states, columns=("a", "b"), context=1
        )

    network = ConditionalMLP(input_size=2, label_size=2, width=4, depth=1)
    growth = {}
    for fields in ((), ("rollout.spectral_norm",)):
        config = config_of(*fields, num_trajectories=60, feed_forward_steps=150)
        config.rollout.update(feed_forward=True, horizons=(1,))
        run(config, Known(network, is_last=True), growing)
        with np.load(tmp_path / "rollout" / "states.npz") as states:
            x = states["feed_forward_network"][:, :2]
        between = np.linalg.norm(x[:, None] - x[None], axis=-1)[np.triu_indices(60, 1)]
        growth[fields] = np.max(between[:, 1] / between[:, 0])
    assert growth[()] > 1.5
    assert growth[("rollout.spectral_norm",)] < 1.0001


def test_recorded_actions_go_into_the_rollout(run, tmp_path):
    """x_t = .9 x_{t-1} + .05 x_{t-2} + a_t, in closed form from the recorded actions."""

    def acted(split):
        actions = {s: np.random.default_rng(len(s)).normal(size=(80, 8, 2)) for s in
                   ("train", split)}  # fmt: skip
        return trajectories.cut(
            "made", split, states_of(split), of_training=states_of("train"), columns=("a", "b"),
            context=CONTEXT,
            actions=(actions[split][: len(states_of(split))], actions["train"]),
        )  # fmt: skip

    assert run(config_of(), data=acted)["num_actions"] == 2
    cut = acted("test").trajectories
    states = list(np.swapaxes(cut.states[:, :CONTEXT], 0, 1))
    for t in range(CONTEXT, LENGTH):
        states.append(FACTOR * states[-1] + 0.05 * states[-2] + cut.actions[:, t])
    with np.load(tmp_path / "rollout" / "states.npz") as found:
        np.testing.assert_allclose(found["energies"], np.stack(states, 1), rtol=1e-4, atol=1e-5)


def test_what_is_refused(run):
    def gray(split):
        return images(split)

    for method, data, values, message in (
        (None, gray, {}, "expected a model of trajectories, got one of made"),
        (Known(is_conditional=False), dataset, {}, "expected contrastive_divergence with the"),
        (None, dataset, {"horizons": (7,)}, "rollout.horizons: expected at most 6"),
        (None, dataset, {"num_trajectories": 2}, "rollout.num_trajectories: 2 examples"),
        (Known(nn.Dense(1)), dataset, {"feed_forward": True}, "Dense is no conditional_mlp"),
    ):
        config = config_of()
        config.rollout.update(values)
        with pytest.raises(ConfigError, match=message) as error:
            run(config, method, data)
        assert len(str(error.value).splitlines()) == 1
    for mode in ("evaluate", "interpolate", "robustness"):
        with pytest.raises(ConfigError, match="made has trajectories: use --mode=rollout"):
            run(config_of(), mode=mode)


def test_units_are_those_of_the_data(monkeypatch):
    monkeypatch.setattr(build, "load_split", lambda config, split: dataset(split))
    config = config_of()
    config.network.label_size = 4
    assert build.build(config).has_trajectories
    config.data.high = 9.0
    with pytest.raises(ConfigError, match=r"data.high: expected 10, as states of made are z-sc"):
        build.build(config)
    config.data.high = 10.0
    config.network.label_size = 2
    with pytest.raises(ConfigError, match=r"label_size: expected 4, the values of a lab"):
        build.build(config)


def test_samples_beside_what_followed_in_truth(monkeypatch, tmp_path):
    """The figure of --mode=sample takes states for what they are, and not for points of a plane."""
    from ebm_jax.io import charts
    from ebm_jax.runs import preview

    seen = []
    monkeypatch.setattr(build, "load_split", lambda config, split: dataset(split))
    monkeypatch.setattr(charts, "histograms_picture", seen.append)
    config = config_of()
    config.network.label_size = 4
    run = build.build(config)
    samples = jnp.arange(20.0).reshape(10, 2)
    preview.figure(run, {}, np.asarray(samples))
    assert list(seen[0]) == ["a, z-score", "b, z-score"]
    np.testing.assert_array_equal(seen[0]["b, z-score"]["generated"], samples[:, 1])
    np.testing.assert_array_equal(
        seen[0]["a, z-score"]["real: made"], dataset("train").images[:10, 0]
    )
