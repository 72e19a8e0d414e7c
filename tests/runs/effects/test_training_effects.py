"""What the fields of training do in --mode=train, from config to state, and those of devices."""

import sys
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effects_stubs import SHAPE, full_bars, images, stubs
from effects_table import changed, shows
from ramp_method import Ramp, config_of, ramp, trained

from ebm_jax import command_line, data, tasks
from ebm_jax.methods import MethodState
from ebm_jax.runs import build, preview
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import load_trained
from ebm_jax.training.divergence import DIVERGED_EXIT_CODE

__all__ = ["full_bars", "ramp", "stubs"]


@shows("train.writers")
def test_writers(tmp_path, monkeypatch):
    sent = []
    run = types.SimpleNamespace(
        log=sent.append, define_metric=lambda *_, **__: None, finish=lambda exit_code: None
    )
    module = types.SimpleNamespace(init=lambda **_: run, Settings=dict, Image=np.shape)
    monkeypatch.setitem(sys.modules, "wandb", module)
    found = trained(changed(config_of(), "train.writers"), tmp_path, monkeypatch)
    numbers = [row for row in sent if "loss" in row]
    assert [(row["training_step"], row["loss"]) for row in numbers] == [
        (line["step"], line["loss"]) for line in found.lines
    ]
    assert len(numbers) == 3


@shows("compute.microbatch")
def test_microbatches(tmp_path, monkeypatch):
    """What two parts of a batch of two on each device sum to; a part sees one example."""
    config = changed(config_of(), "compute.microbatch")
    whole = trained(config_of(), tmp_path / "whole", monkeypatch)
    found = trained(config, tmp_path / "parts", monkeypatch)
    assert [line["count"] for line in whole.lines] == [16] * 3
    assert [line["count"] for line in found.lines] == [8] * 3
    for name in ("loss", "energy_pos", "square", "grad_norm"):
        values = ([line[name] for line in run.lines] for run in (found, whole))
        np.testing.assert_allclose(*values, rtol=1e-5)
    np.testing.assert_allclose(found.states[3].params["w"], whole.states[3].params["w"], rtol=1e-5)
    config.compute.microbatch = 3
    with pytest.raises(ConfigError, match="divisor of the 2 examples on a device, such as 2, got"):
        tasks.run("train", config, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


@shows("training.ema_decay", "training.num_steps", "training.batch_size", "sampling.num_samples")
def test_averages_steps_and_batches(tmp_path, monkeypatch):
    """Grids are of the EMA, one after the other of the update that made it."""
    fields = (
        "training.ema_decay", "training.num_steps", "training.batch_size", "sampling.num_samples",
    )  # fmt: skip
    config = changed(config_of(), *fields)
    config.optimizer.learning_rate = 0.5  # far enough from the raw parameters
    config.train.sample_every = 1
    found = trained(config, tmp_path, monkeypatch)
    assert sorted(found.states) == [1, 2, 3, 4, 5]
    assert [line["count"] for line in found.lines] == [24] * 5
    run = build.build(config)
    first = build.init_state(run)
    np.testing.assert_array_equal(first.ema_params["w"], first.params["w"])
    ema, decay = first.ema_params["w"].astype(np.float64), 0.7
    for step in range(1, 6):
        state = found.states[step]
        ema = decay * ema + (1 - decay) * state.params["w"]
        np.testing.assert_allclose(state.ema_params["w"], ema, rtol=1e-5)
        params, samples = found.grids[step - 1]
        np.testing.assert_allclose(params["w"], ema, rtol=1e-5)
        expected = run.method.sample(params, run.key("sample"), jnp.arange(24))
        np.testing.assert_allclose(samples, expected, rtol=1e-5)
        assert np.max(np.abs(state.params["w"] - ema)) > 0.1


@shows("seed", "sampling.seed")
def test_seeds(tmp_path, monkeypatch):
    """Parameters, order of the data and noise of training have one; samples have another."""
    config = config_of()
    runs = {}
    for name, fields in (("usual", ()), ("seed", ("seed",)), ("samples", ("sampling.seed",))):
        changed_config = changed(config, *fields)
        found = trained(changed_config, tmp_path / name, monkeypatch)
        runs[name] = found
        seed = changed_config.seed
        params = build.build(changed_config).method.init(
            jax.random.split(jax.random.key(seed))[0], {"image": np.zeros((1, *SHAPE))}
        )[0]["w"]
        sum_of_updates = found.states[1].params["w"] - params
        np.testing.assert_allclose(sum_of_updates, -0.01, rtol=1e-3)
        for step, line in enumerate(found.lines):
            order = data.batch_indices(120, 16, step, seed)
            batch = images("train").images[order] / 255
            assert line["energy_pos"] == pytest.approx(batch.mean(), rel=1e-5)
        index = jnp.arange(16)
        key = jax.random.key(changed_config.sampling.seed)
        key = jax.random.fold_in(key, zlib.crc32(b"sample"))
        expected = Ramp(None).sample(found.grids[-1][0], key, index)
        np.testing.assert_allclose(found.grids[-1][1], expected, rtol=1e-5)
    draws = {name: [line["draw"] for line in found.lines] for name, found in runs.items()}
    assert draws["usual"] == draws["samples"]
    assert len({*draws["usual"], *draws["seed"]}) == 6


def test_keys_have_nothing_in_common():
    """Nor has what is split off them, with equal seeds; else samples begin as parameters did."""
    run, found = build.build(config_of()), []
    for name in ("init", "train", "sample", "examples", "likelihood", "long_run"):
        key = run.key(name)
        for derived in (key, *jax.random.split(key), *jax.random.split(key, 3)):
            found.append(tuple(jax.random.key_data(derived).tolist()))
        for step in range(9):
            found.append(tuple(jax.random.key_data(jax.random.fold_in(key, step)).tolist()))
    own = 1 + 2 + 3 + 9
    for i in range(0, len(found), own):
        assert not set(found[i : i + own]) & {*found[:i], *found[i + own :]}


@shows("train.log_every", "train.sample_every", "train.checkpoint_every")
def test_how_often(tmp_path, monkeypatch):
    config = config_of()
    config.training.num_steps = 5
    config.train.update(log_every=1, sample_every=0, checkpoint_every=9)
    for name in ("none", "log_every", "sample_every", "checkpoint_every"):
        found = trained(
            changed(config, *([] if name == "none" else [f"train.{name}"])),
            tmp_path / name, monkeypatch,
        )  # fmt: skip
        twice = [2, 4, 5]
        every = [1, 2, 3, 4, 5]
        assert [line["step"] for line in found.lines] == (twice if name == "log_every" else every)
        assert sorted(found.states) == (twice if name == "checkpoint_every" else [5])
        shown = twice if name == "sample_every" else [5]
        assert found.pictures == [f"step_{step:07d}.png" for step in shown]


@shows("train.max_abs_energy")
def test_bound_on_energies(tmp_path, monkeypatch, capsys):
    """A mean energy of 4 goes on, one of 5 ends the run: main.py then leaves with 3."""
    white = images("train")._replace(images=np.full((120, *SHAPE), 255, np.uint8))
    config = changed(config_of(), "train.max_abs_energy")
    config.data.high = 4.0
    assert trained(config, tmp_path / "below", monkeypatch, white).error is None
    config.data.high = 5.0
    error = trained(config, tmp_path / "above", monkeypatch, white).error
    assert "diverged at step 1: energy_pos is 5, beyond 4.5" in str(error)
    with pytest.raises(SystemExit) as left, command_line.one_line_errors():
        raise error
    assert left.value.code == DIVERGED_EXIT_CODE == 3
    config.train.max_abs_energy = 1e8
    assert trained(config, tmp_path / "far", monkeypatch, white).error is None


@shows("train.max_retries")
def test_retries(tmp_path, monkeypatch, capsys):
    found = trained(config_of(not_finite_at=1), tmp_path / "none", monkeypatch)
    assert "diverged at step 2: the loss is nan" in str(found.error)
    config = changed(config_of(not_finite_at=1), "train.max_retries")
    config.train.log_every = 1
    found = trained(config, tmp_path / "two", monkeypatch)
    assert "after 2 of 2 retries" in str(found.error)
    assert capsys.readouterr().out.count("going back to step 1") == 2
    assert list(found.states) == [1]


@shows("training.init_from", "train.keep_checkpoints", "train.pin_every")
def test_checkpoints_that_are_left_and_started_from(tmp_path, monkeypatch):
    """With files. Steps 2 and 4 are pinned, 5 is the newest; of the other run nothing else."""
    monkeypatch.setattr(preview, "figure", lambda *_: np.zeros((8, 8, 3), np.uint8))
    config = changed(config_of(), "train.keep_checkpoints", "train.pin_every")
    config.training.num_steps = 5
    assert tasks.run("train", config, tmp_path / "first") == 0
    left = {int(p.name) for p in (tmp_path / "first/checkpoints").iterdir()}
    assert left == {2, 4, 5}
    monkeypatch.undo()
    newest = load_trained(config, tmp_path / "first")
    assert newest.step == 5
    assert newest.ema_decay == 0.9

    again = config_of()
    again.training.update(init_from=f"{tmp_path}/first@4", num_steps=1, ema_decay=0.5)
    found = trained(again, tmp_path / "second", monkeypatch)
    whole = trained(config, tmp_path / "third", monkeypatch)
    at_four, state = whole.states[4], found.states[1]
    assert state.step == 1
    updated = at_four.params["w"] - 0.01  # Adam's first step, with new moments
    np.testing.assert_allclose(state.params["w"], updated, rtol=1e-4)
    ema = 0.5 * at_four.ema_params["w"] + 0.5 * updated
    np.testing.assert_allclose(state.ema_params["w"], ema, rtol=1e-4)


@shows("distributed", "cpu_devices")
@pytest.mark.parametrize("field", [None, "distributed", "cpu_devices"])
def test_devices_and_processes(field, monkeypatch):
    """What main.py does with them before any mode."""
    from ebm_jax import main

    config, done = changed(config_of(), *([field] if field else [])), {"joined": 0}
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(main, "use_compilation_cache", lambda: done.update(cache="used"))
    monkeypatch.setattr(jax.config, "update", lambda name, value: done.update({name: value}))
    monkeypatch.setattr(
        jax.distributed, "initialize", lambda **_: done.update(joined=done["joined"] + 1)
    )
    monkeypatch.setattr(main, "_CONFIG", types.SimpleNamespace(value=config))
    monkeypatch.setattr(main, "_MODE", types.SimpleNamespace(value="train"))
    monkeypatch.setattr(main, "_WORKDIR", types.SimpleNamespace(value="nowhere"))
    monkeypatch.setattr(main, "collect_background_errors", lambda: done.update(errors="kept"))
    monkeypatch.setattr(tasks, "run", lambda *given: done.update(ran=given) or 130)
    started = []
    monkeypatch.setattr(main.app, "run", lambda *given, **how: started.append((given, how)))
    main.run()
    assert started == [((main.main,), {"flags_parser": main.parse_flags})]
    with pytest.raises(SystemExit) as left:
        main.main([])
    assert (left.value.code, done["ran"]) == (130, ("train", config, "nowhere"))
    assert (done["errors"], done["cache"], done["jax_enable_x64"]) == ("kept", "used", False)
    assert done["jax_num_cpu_devices"] == (3 if field == "cpu_devices" else 1)
    assert done["joined"] == (field == "distributed")


def test_a_gradient_that_is_not_finite_is_noticed(monkeypatch):
    """Whatever the loss is: |w| has a finite value and no finite gradient where w overflows."""
    import optax

    from ebm_jax.training.state import init_train_state
    from ebm_jax.training.train_step import make_train_step

    class Kink(Ramp):
        def init(self, rng_key, example_batch):
            return {"w": jnp.zeros(4)}, MethodState()

        def loss(self, params, method_state, batch, rng_key):
            return jnp.sum(jnp.sqrt(params["w"])), (method_state, {})

    method, batch = Kink(None), {"image": jnp.zeros((2, *SHAPE))}
    step = make_train_step(method, optax.sgd(0.0), rng_key=jax.random.key(0), ema_decay=0.9)
    state, metrics = step(init_train_state(jax.random.key(0), method, optax.sgd(0.0), batch), batch)
    assert np.isfinite(metrics["loss"])
    assert not np.isfinite(metrics["grad_norm"])
    assert not state.finite_so_far
    assert not metrics["finite_so_far"]
