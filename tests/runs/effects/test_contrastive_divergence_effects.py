"""What the fields of contrastive divergence and its sampler do, against their formulas in NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from by_hand import KNOWN, LABEL, THETA, squares
from effects_stubs import (
    BATCH,
    EXAMPLES,
    INDEX,
    KEY,
    SHAPE,
    built,
    config_of,
    full_bars,
    loss_of,
    stubs,
)
from effects_table import CD, changed, shows, value_of
from flax import linen as nn

from configs import default
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.contrastive_divergence import method as method_module
from ebm_jax.runs import build
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks import export, interpolate

__all__ = ["full_bars", "stubs"]


def contrastive(*fields, **values):
    quiet = {
        "num_steps": 2, "step_size": 0.2, "noise_std": 0.0, "max_grad": 0.0, "chain_init": "data",
        "buffer_size": 128, "buffer_shards": 8, **values,
    }  # fmt: skip
    return changed(config_of("contrastive_divergence", **quiet), *fields)


def igebm_chain(settings, x, num_steps):
    x = np.asarray(x, np.float64)
    for _ in range(num_steps):
        grad = settings.temperature * THETA * x
        if settings.max_grad:
            grad = np.clip(grad, -settings.max_grad, settings.max_grad)
        if settings.max_total_grad_norm:
            grad = grad * min(1, settings.max_total_grad_norm / np.sqrt(np.sum(grad**2)))
        x = np.clip(x - settings.step_size * grad, -1, 1)
    return x


def likelihood_term(form, pos, neg):
    if form == "softplus":
        return np.mean(np.log1p(np.exp(pos - neg)))
    if form == "logsumexp":
        weights = np.exp(np.min(neg) - neg)
        return np.mean(pos) - np.sum(weights * neg) / (np.sum(weights) + 1e-4)
    return np.mean(pos) - np.mean(neg)


OF_LOSS = (
    "num_steps", "step_size", "max_grad", "max_total_grad_norm", "form", "likelihood_weight",
    "energy_l2", "temperature",
)  # fmt: skip


@shows(*(f"{CD}.{name}" for name in OF_LOSS))
@pytest.mark.parametrize("name", ["none", *OF_LOSS, "logsumexp", "cd_with_kl"])
def test_contrastive_divergence_in_closed_form(name):
    if name in OF_LOSS:
        config = contrastive(f"{CD}.{name}")
    else:
        config = contrastive(form="cd" if name == "none" else name)
    settings = config.method
    loss, metrics, _ = loss_of(*built(config))
    x_neg = igebm_chain(settings, EXAMPLES, settings.num_steps)
    pos, neg = THETA * squares(EXAMPLES) / 2, THETA * squares(x_neg) / 2
    temperature = settings.temperature
    likelihood = likelihood_term(settings.form, temperature * pos, temperature * neg)
    penalty = np.mean(pos**2) + np.mean(neg**2)
    expected = settings.likelihood_weight * likelihood + settings.energy_l2 * penalty
    expected += np.mean(neg) if settings.form == "cd_with_kl" else 0
    assert loss == pytest.approx(expected, rel=1e-4)
    assert metrics["energy_pos"] == pytest.approx(np.mean(pos), rel=1e-5)
    assert metrics["energy_neg_from_data"] == pytest.approx(np.mean(neg), rel=1e-5)
    assert metrics["l2_penalty"] == pytest.approx(penalty, rel=1e-5)


@shows(f"{CD}.noise_std")
def test_noise_of_a_chain_without_gradient():
    """In a box of width 10: the noise is in units of the range."""
    config = contrastive(f"{CD}.noise_std", step_size=1e-6, num_steps=1)
    config.data.update(low=-5.0, high=5.0)
    _, metrics, _ = loss_of(*built(config), x=np.zeros_like(EXAMPLES))
    # the displacement is the norm of 4 normals of deviation .05 * 10: mean .5 * 1.88, over 16
    assert metrics["displacement_from_data"] == pytest.approx(0.94, abs=4 * 0.5 * 0.7 / 4)


@shows(f"{CD}.chain_init", f"{CD}.init_noise")
def test_where_chains_start():
    starts = {}
    for init in ("data", "noise", "persistent", "replay_buffer"):
        method, params, state = built(contrastive(chain_init=init))
        starts[init] = {name for name in loss_of(method, params, state)[1] if "from" in name}
    for init, place in (("data", "data"), ("noise", "noise")):
        assert {name.partition("_from_")[2] for name in starts[init]} == {place}
    assert "energy_neg_from_buffer" in starts["replay_buffer"]
    assert "energy_neg_from_chain" in starts["persistent"]
    config = contrastive(f"{CD}.init_noise", step_size=1e-6, num_steps=1)
    config.data.update(low=-20.0, high=22.0)
    method, params, _ = built(config)
    index = np.arange(256, dtype=np.int32)
    normal = np.asarray(jax.jit(method.sample)(params, KEY, index))
    key = jax.random.split(KEY)[0]
    uniform = built(contrastive(step_size=1e-6, num_steps=1))[0].sample(params, KEY, index)
    assert -1 <= np.min(uniform) < -0.98 < 0.98 < np.max(uniform) <= 1
    assert np.std(uniform) == pytest.approx(1 / np.sqrt(3), rel=0.1)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    by_hand = 1 + 21 * jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys)
    np.testing.assert_allclose(normal, np.clip(by_hand, -20, 22), rtol=1e-4, atol=1e-3)


class Flat(nn.Module):
    """No energy at all of images given two of them."""

    label_size: int = 8
    input_shape = SHAPE
    num_classes = None

    @nn.compact
    def __call__(self, x, condition=None):
        return 0 * jnp.sum(x, (1, 2, 3))


@shows(f"{CD}.context_noise")
def test_starts_near_the_last_frame():
    """Of two frames of 4 values, by the default and by the other width."""
    label = jnp.arange(256 * 8.0).reshape(256, 8) / 2048
    for fields, width in (((), 0.3), ((f"{CD}.context_noise",), 0.7)):
        method = dataclasses.replace(
            built(contrastive(*fields, num_steps=1))[0], network=Flat(), chain_init="context",
            low=-2.0, high=2.0,
        )  # fmt: skip
        starts = method.sample({}, KEY, np.arange(256, dtype=np.int32), label=label)
        noise = np.asarray(starts - label[:, 4:].reshape(-1, *SHAPE))
        assert 0.98 * width < np.max(np.abs(noise)) <= width
        assert np.std(noise) == pytest.approx(width / np.sqrt(3), rel=0.1)


@shows(
    f"{CD}.buffer_size",
    f"{CD}.buffer_shards",
    f"{CD}.buffer_storage",
    f"{CD}.replay_probability",
)
def test_replay_buffer():
    usual = {"chain_init": "replay_buffer", "buffer_size": 128}
    for name, shape, dtype in (
        (None, (8, 16), np.uint8),
        ("buffer_size", (8, 8), np.uint8),
        ("buffer_shards", (2, 64), np.uint8),
        ("buffer_storage", (8, 16), np.float32),
    ):
        fields = [f"{CD}.{name}"] if name else []
        _, _, state = built(contrastive(*fields, **usual))
        assert state.sharded.storage.shape == (*shape, *SHAPE)
        assert state.sharded.storage.dtype == dtype
    for fields, options, share in (
        ([f"{CD}.replay_probability"], {}, 0),
        ([], {"replay_probability": 1.0}, 1),
    ):
        method, params, state = built(contrastive(*fields, **usual, **options))
        batch = {"image": jnp.asarray(EXAMPLES)}
        step = jax.jit(method.loss)
        for _ in range(3):
            _, (state, metrics) = step(params, state, batch, KEY)
        assert metrics["energy_neg_from_buffer"].count == share * len(EXAMPLES)
        assert metrics["energy_neg_from_noise"].count == (1 - share) * len(EXAMPLES)


@shows(f"{CD}.buffer_has_labels")
def test_labels_in_the_buffer():
    config = contrastive(f"{CD}.buffer_has_labels", chain_init="replay_buffer", buffer_size=128)
    config.network = default.network("igebm_mlp", width=4, depth=1, num_classes=2)
    config.training.batch_size = BATCH
    method = build.build(config).method
    batch = {"image": jnp.asarray(EXAMPLES), "label": jnp.arange(BATCH) % 2}
    params, state = method.init(KEY, batch)
    labels = state.sharded.label.storage
    assert (labels.shape, labels.dtype) == ((8, 16), np.int32)
    _, (state, _) = jax.jit(method.loss)(params, state, batch, KEY)
    written = np.asarray(state.sharded.label.storage)[:, : BATCH // 8].reshape(-1)
    np.testing.assert_array_equal(written, batch["label"])


@shows(f"{CD}.dropout")
def test_dropout_masks_half_of_the_energy():
    x = np.full_like(EXAMPLES, 0.5)
    whole = THETA * 4 * 0.25 / 2
    for fields, share in (((), 1.0), ((f"{CD}.dropout",), 0.5)):
        _, metrics, _ = loss_of(*built(contrastive(*fields)), x=x)
        tolerance = 0 if share == 1 else 3 * 0.5 / np.sqrt(x.size)  # of 64 bits
        assert metrics["energy_pos"] / whole == pytest.approx(share, abs=tolerance + 1e-5)


@shows(
    "sampler:contrastive_divergence.num_steps",
    "sampler:contrastive_divergence.inpaint_num_steps",
    "sampler:contrastive_divergence.restore_num_steps",
)
def test_contrastive_chains_in_closed_form():
    fields, steps = [], {"num_steps": 2, "inpaint_num_steps": 2, "restore_num_steps": 2}
    start = np.asarray(built(contrastive())[0]._starts(jax.random.split(KEY)[0], INDEX))
    x = jnp.asarray(EXAMPLES)
    for name in (None, *steps):
        if name:
            fields.append(f"sampler:contrastive_divergence.{name}")
            steps[name] = value_of(fields[-1])
            if name == "num_steps":  # what the others are where they are 0
                steps = dict.fromkeys(steps, steps[name])
        config = contrastive(*fields)
        method, params, _ = built(config)

        def chain(x, name, config=config, steps=steps):
            return igebm_chain(config.method, x, steps[name])

        np.testing.assert_allclose(
            jax.jit(method.sample)(params, KEY, INDEX),
            chain(start, "num_steps"),
            rtol=1e-4,
            atol=1e-6,
        )
        np.testing.assert_allclose(
            jax.jit(method.restore)(params, KEY, x, INDEX, LABEL),
            chain(x, "restore_num_steps"),
            rtol=1e-4,
        )
        inpainted = np.where(KNOWN, EXAMPLES, chain(start, "inpaint_num_steps"))
        found = jax.jit(method.inpaint)(params, KEY, x, KNOWN, INDEX, LABEL)
        np.testing.assert_allclose(found, inpainted, rtol=1e-4, atol=1e-6)


BUFFER = {
    "buffer_size": 10, "buffer_rounds": 2, "buffer_drawn": 6, "buffer_noise": 0.0,
    "buffer_labels": 0.0, "buffer_last_rounds": 0,
}  # fmt: skip


@shows(*(f"sampler:contrastive_divergence.{name}" for name in BUFFER))
@shows("sampler:contrastive_divergence.chains", "sampler:contrastive_divergence.buffer_num_steps")
def test_refreshed_buffers(tmp_path, monkeypatch):
    """What is refreshed how is tested in tests/methods; here that it is asked for, and moves."""
    asked, usual = [], method_module.refreshed_buffer

    def recorded(*given):
        asked.append(given[5])
        return usual(*given)

    monkeypatch.setattr(method_module, "refreshed_buffer", recorded)
    fields = [f"sampler:contrastive_divergence.{name}" for name in BUFFER]
    chains, steps = (
        f"sampler:contrastive_divergence.{name}" for name in ("chains", "buffer_num_steps")
    )
    for change in ([], [chains], [chains, steps], [chains, *fields]):
        config = contrastive(*change)
        config.sampler.update({k: v for k, v in BUFFER.items() if chains in change})
        config = changed(config, *change)
        run = build.build(config)
        params = run.method.init(KEY, {"image": jnp.asarray(EXAMPLES)})[0]
        trained = TrainedRun(run, 1, params, 0.9)
        x = trained.sampler()(0, 13)
        if not change:
            assert not asked
            assert trained.block_size == 0
            continue
        own = config.sampler
        assert trained.block_size == own.buffer_size
        assert asked.pop(0) == (
            own.buffer_size, own.buffer_rounds, own.buffer_drawn, own.buffer_noise,
            own.buffer_labels, own.buffer_last_rounds,
        )  # fmt: skip
        if own.buffer_noise == 0:  # each is its start, drawn so many times
            draws_key = jax.random.split(run.key("sample"))[0]
            start_key = jax.random.split(jax.random.fold_in(draws_key, 0))[0]
            start = run.method._noise()(start_key, jnp.arange(own.buffer_size))
            factor = (1 - 0.2 * THETA) ** (own.buffer_num_steps or 2)
            powers = np.log(np.asarray(x[:10] / start)[:, 0, 0, 0]) / np.log(factor)
            np.testing.assert_allclose(powers, np.round(powers), atol=1e-2)
            assert set(np.round(powers)) == {0, 1, 2}
        np.testing.assert_array_equal(trained.sampler()(11, 13), x[11:])  # whatever is asked before
        with ResumableWork(tmp_path, {}) as work:
            work.begin("sampling", 12)
            np.testing.assert_array_equal(trained.samples(work, 12, first=1), x[1:])
        for refuses in (
            lambda trained=trained: interpolate.run(trained, interpolate.Settings(), work),
            lambda trained=trained: export._functions(trained),
        ):
            with pytest.raises(ValueError, match=r"sampler\.chains: expected 'fresh', as "):
                refuses()
        asked.clear()


@shows("ensemble.combine")
def test_checkpoints_in_turn():
    """Half of the steps are of each; what wants a density refuses, as do other methods."""
    config = contrastive()
    config.ensemble.combine, config.sampler.num_steps = "cycle", 4
    run = build.make_ensemble(build.build(config), 2)
    thetas = (THETA, 3 * THETA)
    params = {f"member_{i}": {"theta": jnp.asarray(theta)} for i, theta in enumerate(thetas)}
    start = np.asarray(run.method._starts(jax.random.split(KEY)[0], INDEX))
    wanted = start * np.prod([(1 - 0.2 * theta) ** 2 for theta in thetas])
    found = jax.jit(run.method.sample)(params, KEY, INDEX)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="'mean', 'sum' or 'mixture' for what asks for a density"):
        run.method.densities(params)
    other = config_of("recovery_likelihood")
    other.ensemble.combine = "cycle"
    with pytest.raises(ConfigError, match="contrastive_divergence on images; this is recovery"):
        build.make_ensemble(build.build(other), 2)
