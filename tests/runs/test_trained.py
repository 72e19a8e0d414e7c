"""Samples and energies of a trained model, with a method of a few lines."""

import contextlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.runs import build, settings, trained
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun

KEY = jax.random.key(7)


def trained_run(method, batch_size=5):
    run = types.SimpleNamespace(
        method=method, key=lambda name: {"sample": KEY}[name],
        sampling=settings.Sampling(batch_size=batch_size, seed=3),
    )  # fmt: skip
    return TrainedRun(run, 9, {"scale": np.float32(2)}, 0.75)


class Blocks:
    """Samples of blocks of four: their indices, and the values of keys behind them."""

    block_size, num_moved = 4, 8

    def __init__(self):
        self.asked = []

    def sample_block(self, params, rng_key, block, move, on_round):
        """[4, 2]."""
        self.asked.append(block)
        on_round(6)
        index = np.arange(8, dtype=np.int32)
        moved = move(params, np.full(8, 6, np.int32), np.zeros((8, 1), np.float32), index, index)
        first = np.arange(4.0) + 4 * block + float(jax.random.uniform(rng_key))
        return np.stack([first, moved[:4, 0]], axis=1)

    def move_entries(self, params, rng_key, number, x, index, label):
        """[8, 1]."""
        return x + params["scale"] * (jax.random.uniform(rng_key) + number + index + label)[:, None]


@pytest.mark.parametrize("own_key", [False, True])
def test_samples_of_blocks_are_made_once_where_they_are_asked_for_in_order(own_key):
    method, shown = Blocks(), []
    trained = trained_run(method)
    assert trained.block_size == 4
    key = jax.random.key(8) if own_key else KEY
    work = types.SimpleNamespace(show=shown.append)
    sample = trained.sampler(key if own_key else None, work)
    draws_key, chains_key = jax.random.split(key)

    def expected(first, stop):
        index = np.arange(first, stop)
        moves = [jax.random.uniform(jax.random.fold_in(chains_key, i // 4)) for i in index]
        moved = 2 * (np.array(moves) + 6 + 2 * (index % 4))
        return np.stack([index + float(jax.random.uniform(draws_key)), moved], axis=1)

    np.testing.assert_allclose(sample(2, 9), expected(2, 9), rtol=1e-6)
    assert method.asked == [0, 1, 2]
    assert shown == [{"block": block, "round": 6} for block in range(3)]
    np.testing.assert_allclose(sample(9, 12), expected(9, 12), rtol=1e-6)
    assert method.asked == [0, 1, 2]  # the last block is kept
    np.testing.assert_allclose(sample(4, 8), expected(4, 8), rtol=1e-6)
    assert method.asked == [0, 1, 2, 1]
    trained.sampler()(0, 1)  # without a bar
    assert len(shown) == 4


def test_samples_each_by_itself():
    """As many at once as are asked for, rounded up to the devices."""

    class Method:
        def sample(self, params, rng_key, index):
            """[n, 1]."""
            return params["scale"] * index[:, None] + jax.random.uniform(rng_key)

    trained = trained_run(Method())
    assert trained.block_size == 0
    for key, given in ((KEY, None), (jax.random.key(8), jax.random.key(8))):
        found = trained.sampler(given)(3, 9)
        expected = 2 * np.arange(3, 9)[:, None] + float(jax.random.uniform(key))
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("number", [1, 8, 11])
def test_energies_of_as_many_as_there_are(number):
    """With noise that is a function of an example's number, whatever divides them."""

    def energy(level):
        return lambda x: jnp.sum(x, 1) * (1 + level)

    a_bar, sigma_bar = jnp.array([0.5, 0.25]), jnp.array([0.75, 0.875])
    densities = Densities(energy, a_bar, sigma_bar, BaseDistribution())
    trained = trained_run(types.SimpleNamespace(densities=lambda params: densities))
    x = np.arange(2.0 * number, dtype=np.float32).reshape(number, 2)
    noised = densities.noised(KEY, 1, jnp.asarray(x), jnp.arange(number))
    found = trained.energies(KEY, 1, x)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, 2 * np.asarray(noised).sum(1), rtol=1e-5)


@pytest.mark.parametrize("steps", [(), (30, 50, 40)])
def test_what_is_read_of_a_workdir(monkeypatch, tmp_path, steps):
    """EMA parameters, of the newest checkpoint or of several; the rest as it was saved."""
    config = default.get_config()
    config.ensemble.checkpoints = steps
    read, built = [], []
    checkpoints = types.SimpleNamespace(
        restore=lambda *given, part: read.append((*given, part)) or f"at {given[0]}",
        restore_latest=lambda template, part: read.append((template, part)) or (70, "newest"),
    )
    saved = {"training": {"ema_decay": 0.5}}
    monkeypatch.setattr(trained, "check_trained", lambda config, path: tmp_path / path)
    monkeypatch.setattr(trained, "saved_config", lambda path: saved)
    monkeypatch.setattr(
        trained, "open_checkpoints", lambda config, path: contextlib.nullcontext(checkpoints)
    )
    monkeypatch.setattr(
        build, "build", lambda given, **where: built.append((given, where)) or "a run"
    )
    monkeypatch.setattr(build, "params_template", lambda run: f"template of {run}")
    monkeypatch.setattr(build, "make_ensemble", lambda run, number: f"{number} of {run}")
    found = trained.load_trained(config, "here")
    assert built == [(config, {"workdir": tmp_path / "here"})]
    assert (found.ema_decay, found.workdir) == (0.5, tmp_path / "here")
    if steps:
        assert read == [(step, "template of a run", "ema_params") for step in steps]
        assert (found.run, found.step) == ("3 of a run", 50)
        assert found.params == {f"member_{i}": f"at {step}" for i, step in enumerate(steps)}
    else:
        assert read == [("template of a run", "ema_params")]
        assert (found.run, found.step, found.params) == ("a run", 70, "newest")
    config.training.ema_decay = 0.25
    for unknown in ({"training": {}}, {}, None):
        monkeypatch.setattr(trained, "saved_config", lambda path, unknown=unknown: unknown)
        assert trained.load_trained(config, "here").ema_decay == 0.25
    monkeypatch.setattr(checkpoints, "restore_latest", lambda template, part: None)
    config.ensemble.checkpoints = ()
    with pytest.raises(ConfigError, match=r"here has no checkpoint yet: run the same command with"):
        trained.load_trained(config, "here")
