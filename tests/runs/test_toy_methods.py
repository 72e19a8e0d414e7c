"""What a method may ask for, each by a toy that is registered and trained as a new one would be."""

import jax
import numpy as np
import pytest
from toy_methods import adversarial, config_of, logged, saved, toys, train

from ebm_jax import tasks
from ebm_jax.methods import Method
from ebm_jax.runs import build
from ebm_jax.runs.settings import ConfigError
from ebm_jax.training.checkpoints import Checkpoints
from ebm_jax.training.divergence import DivergenceError
from ebm_jax.training.train_step import make_train_step

pytestmark = pytest.mark.usefixtures("toys")
__all__ = ["toys"]  # the fixture

EMA_DECAY = 0.9


def steps_of(config, number):
    """(run, [state before, after one step, ..])."""
    run = build.build(config)
    step = jax.jit(
        make_train_step(
            run.method, build.make_optimizer(config),
            rng_key=run.key("train"), ema_decay=EMA_DECAY, preprocess=run.preprocess(),
        )
    )  # fmt: skip
    states = [build.init_state(run)]
    for n in range(number):
        batch = {"image": run.dataset.images[16 * n : 16 * (n + 1)]}
        states.append(jax.device_get(step(states[-1], batch)[0]))
    return run, states


def moved(states, name, i=-1):
    """Largest change of one group's parameters from the first state to another."""
    before, after = states[0].params[name], states[i].params[name]
    changes = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), before, after)
    return max(jax.tree.leaves(changes))


# ---- two networks, two optimizers ----


def test_each_group_follows_its_own_learning_rate():
    """The first step of Adam changes each value by its learning rate, whatever the gradient.

    The generator's weight is 0 at first. Its second step has moments of one gradient g among two:
    m = g / (1 + b1), v = g^2 / (1 + b2).
    """
    run, states = steps_of(adversarial(energy_rate=1e-2, generator_rate=1e-4, ramp_steps=1), 30)
    assert isinstance(run.method, Method)
    assert sorted(states[0].params) == ["energy", "generator"]
    assert moved(states, "energy", 1) == pytest.approx(1e-2, rel=1e-3)
    assert moved(states, "generator", 1) == 0
    second = 1e-4 * np.sqrt(1.999) / 1.9
    assert moved(states, "generator", 2) == pytest.approx(second, rel=1e-3)
    assert 0.1 < moved(states, "energy") <= 30 * 1e-2 * 1.5
    assert 1e-3 < moved(states, "generator") <= 30 * 1e-4 * 1.5


def test_a_group_may_stand_still_while_the_other_moves():
    _, states = steps_of(adversarial(generator_rate=1e-12), 24)
    assert moved(states, "generator") < 1e-9
    assert moved(states, "energy") > 0.05


def test_the_average_covers_both_groups():
    _, states = steps_of(adversarial(), 24)
    for name in ("energy", "generator"):
        wanted = states[0].params[name]
        for state in states[1:]:
            wanted = jax.tree.map(
                lambda ema, now: EMA_DECAY * ema + (1 - EMA_DECAY) * now, wanted, state.params[name]
            )
        jax.tree.map(
            lambda found, ema: np.testing.assert_allclose(found, ema, rtol=1e-4, atol=1e-6),
            states[-1].ema_params[name],
            wanted,
        )


def test_a_checkpoint_holds_both_groups_and_their_moments(tmp_path):
    run, states = steps_of(adversarial(), 3)
    with Checkpoints(tmp_path / "checkpoints", keep_latest=1) as checkpoints:
        checkpoints.save(3, states[-1])
        found = checkpoints.restore(3, build.init_state(run))
    assert jax.tree.structure(found) == jax.tree.structure(states[-1])
    jax.tree.map(np.testing.assert_array_equal, found, states[-1])
    moments = [leaf for leaf in jax.tree.leaves(found.opt_state) if leaf.ndim]
    params = [leaf for leaf in jax.tree.leaves(found.params) if leaf.ndim]
    assert sum(leaf.size for leaf in moments) == 2 * sum(leaf.size for leaf in params)


def test_a_section_of_the_optimizer_for_each_group_and_no_other():
    config = adversarial()
    config.optimizer["sampler"] = config.optimizer.energy
    with pytest.raises(
        ConfigError, match=r"^optimizer: expected a section for each of energy, generator, got en"
    ):
        build.build(config)
    config = adversarial()
    config.optimizer.generator.name = "adan"
    with pytest.raises(ConfigError, match=r"^optimizer\.generator\.name: .* did you mean 'adam'"):
        build.build(config)
    config = adversarial()
    config.optimizer.generator.b1 = 1.0
    with pytest.raises(ConfigError, match=r"^optimizer\.generator\.b1: expected .*, got 1"):
        build.build(config)


# ---- a weight that ramps; a whole run of two networks ----


def test_a_ramp_over_the_steps_goes_on_over_a_resume_bit_for_bit(tmp_path):
    """Eight devices; the weight is the same on all, and is logged once."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    config = adversarial(ramp_steps=5)
    config.training.num_steps = 9
    assert train(config, whole) == 0
    weights = [line["weight"] for line in logged(whole)]
    np.testing.assert_allclose(weights, [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1], rtol=1e-6)
    for num_steps in (3, 9):
        config.training.num_steps = num_steps
        assert train(config, resumed) == 0
    assert logged(resumed) == logged(whole)
    assert saved(resumed, 9) == saved(whole, 9)

    assert tasks.run("sample", config, whole) == 0
    assert np.load(whole / "sample" / "samples.npz")["x"].shape == (8, 2)


# ---- what is not finite ----


def test_an_overflow_between_two_logged_steps_goes_back_and_on(tmp_path, capfd):
    """Step 5 of 8 overflows; every later metric is finite, and only step 8 is looked at."""
    config = config_of("overflowing", at_step=4)
    config.training.num_steps = 8
    config.train.update(log_every=8, checkpoint_every=4, max_retries=4)
    config.seed = 1  # with which the first try overflows
    assert train(config, tmp_path) == 0
    assert "diverged at step 8: going back to step 4" in capfd.readouterr().out
    assert [line["step"] for line in logged(tmp_path)] == [8]
    assert "8" in {path.name for path in (tmp_path / "checkpoints").iterdir()}


def test_an_overflow_without_a_retry_left_says_that_it_was_earlier(tmp_path):
    config = config_of("overflowing", at_step=4, always=True)
    config.training.num_steps = 8
    config.train.update(log_every=8, checkpoint_every=4, max_retries=1)
    with pytest.raises(
        DivergenceError,
        match="at step 8 after 1 of 1 retries: the loss, the gradient or the update of an earlier "
        r"step is not finite; the last good checkpoint is .*/checkpoints/4;",
    ):
        train(config, tmp_path)
    assert not (tmp_path / "samples").exists()


def test_moments_alone_that_are_not_finite_are_divergence_too(tmp_path, monkeypatch):
    """The state of step 3 cannot be saved though its metrics are finite."""
    from ebm_jax.training import device_state

    to_host = device_state.to_host

    def with_infinite_moments(state):
        state = to_host(state)
        if state.step < 6:
            return state
        infinite = jax.tree.map(lambda leaf: leaf + np.inf if leaf.ndim else leaf, state.opt_state)
        return state._replace(opt_state=infinite)

    monkeypatch.setattr(device_state, "to_host", with_infinite_moments)
    config = config_of("overflowing")
    config.train.max_retries = 2
    with pytest.raises(
        DivergenceError,
        match=r"at step 6 after 2 of 2 retries: a value of opt_state/.* is not finite; the last "
        "good checkpoint is .*/checkpoints/3;",
    ):
        train(config, tmp_path)
