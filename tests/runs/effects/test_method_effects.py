"""What the fields of methods and their samplers do, against their formulas in NumPy.

The network is E(x, c) = theta (1 + c) |x|^2 / 2, so that chains without noise are products.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
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
from effects_table import CD, DSM, DUAL, ED, RECOVERY, changed, shows, value_of
from flax import linen as nn

from configs import default
from ebm_jax import samplers
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.contrastive_divergence import method as method_module
from ebm_jax.methods.denoising_score_matching.sampling import annealed_sample
from ebm_jax.methods.dual_score_matching import probability_flow
from ebm_jax.methods.energy_discrepancy import perturbed_points
from ebm_jax.methods.persistent_chains import moved
from ebm_jax.methods.recovery_likelihood import level_classifier, sampling
from ebm_jax.methods.recovery_likelihood.loss import sample_pairs
from ebm_jax.runs import build
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.samplers import random
from ebm_jax.tasks import export, interpolate

__all__ = ["full_bars", "stubs"]

THETA = 0.3
KNOWN = np.array([[True, False], [False, True]])[..., None]
LABEL = np.zeros(len(INDEX), np.int32)


def squares(x):
    return np.sum(np.square(x, dtype=np.float64), (1, 2, 3))


def as_images(values):
    return np.asarray(values, np.float64)[:, None, None, None]


# --------------------------------------------------------------------- recovery likelihood


class Levels:
    """Everything of the levels that the formulas need, from a config's settings alone."""

    def __init__(self, settings):
        fine = np.cumprod(np.sqrt(1 - np.linspace(1e-4, 0.02, 1_000)))
        T = settings.num_pairs
        places = np.append(np.arange(T) * (1_000 // (2 * (T - 1))), 999)
        a_bar = fine[places]
        if settings.noise_levels:
            a_bar = np.append(np.sqrt(1 - np.square(settings.noise_levels)), fine[999])
        a = a_bar / np.append(1, a_bar[:-1])
        self.a, self.sigma = a, np.sqrt(1 - a**2)
        self.a_bar, self.sigma_bar = a_bar, np.sqrt(1 - a_bar**2)
        self.multiplier = np.append(a[1:-1], 1.0)
        self.weight = np.append(np.ones(T - 1), 0.0)
        growth = (self.sigma_bar[:-1] / self.sigma_bar[0]) ** settings.step_growth
        self.square = settings.step_scale * growth * self.sigma[1:] ** 2  # s_t^2
        self.scale = 1 / self.square
        if settings.transition == "gaussian":
            self.scale = 1 / self.sigma_bar[:-1]
        if settings.energy_in_nats:
            self.scale = np.ones(T)

    def chain(self, y, x_noisy, level, num_steps):
        """Langevin steps without noise."""
        for _ in range(num_steps):
            grad = as_images(self.scale[level] * THETA * (1 + level)) * y
            grad = grad + as_images((self.weight / self.sigma[1:] ** 2)[level]) * (y - x_noisy)
            y = y - as_images(self.square[level] / 2) * grad
        return y

    def negatives(self, settings, pairs):
        """y_neg of pairs: a chain without noise, or T1k's Gaussian step with the pair's noise."""
        level, x_noisy = np.asarray(pairs.level), np.asarray(pairs.x_noisy, np.float64)
        if settings.transition == "langevin":
            return self.chain(x_noisy, x_noisy, level, settings.num_steps)
        variance = self.sigma[1:] ** 2
        if settings.transition_variance == "posterior":
            given = self.weight * (self.a / self.sigma)[1:] ** 2
            of_x = 1 / (1 / self.sigma_bar[:-1] ** 2 + given)
            variance = self.multiplier**2 * of_x
        within = as_images((self.a[1:] * self.sigma_bar[:-1])[level])
        sigma = as_images(self.sigma[1:][level])
        noise = sigma * np.asarray(pairs.noise) - within * np.asarray(pairs.next_noise)
        noise = noise / np.sqrt(within**2 + sigma**2)
        grad = as_images(self.scale[level] * THETA * (1 + level)) * x_noisy
        moved = x_noisy - sigma**2 * grad
        return moved + settings.noise_scale * as_images(np.sqrt(variance[level])) * noise


def recovery(*fields, **values):
    quiet = {"num_pairs": 2, "num_steps": 2, "noise_scale": 0.0, **values}
    return changed(config_of("recovery_likelihood", **quiet), *fields)


def check_recovery(config):
    """Loss and metrics of a batch are those of the formulas; returns whether they are."""
    method, params, state = built(config)
    levels = Levels(config.method)
    loss, metrics, _ = loss_of(method, params, state)
    pairs = sample_pairs(jax.random.split(KEY)[0], method.schedule, jnp.asarray(EXAMPLES), INDEX)
    level, y_neg = np.asarray(pairs.level), levels.negatives(config.method, pairs)
    multiplier = as_images(levels.multiplier[level])
    factor = THETA * (1 + level) / 2
    gap = factor * (squares(multiplier * np.asarray(pairs.x)) - squares(y_neg))
    by_hand = np.mean(levels.sigma[1] / levels.sigma[1:][level] * gap)
    assert loss == pytest.approx(by_hand, rel=2e-3, abs=2e-5)
    moved = np.sqrt(squares(y_neg / multiplier - np.asarray(pairs.x_noisy)))
    per_level = [np.mean(moved[level == t]) for t in range(config.method.num_pairs)]
    assert metrics["displacement"].shape == (config.method.num_pairs,)
    np.testing.assert_allclose(metrics["displacement"], per_level, rtol=2e-3)
    return method, params


CHANGES = {
    "none": (),
    "num_pairs": ("num_pairs",),
    "noise_levels": ("noise_levels",),
    "num_steps": ("num_steps",),
    "step_scale": ("step_scale",),
    "step_growth": ("step_growth",),
    "energy_in_nats": ("energy_in_nats", "step_scale"),
    "transition": ("transition",),
    "transition_variance": ("transition", "transition_variance"),
}


@shows(*(f"{RECOVERY}.{name}" for name in CHANGES if name != "none"), f"{RECOVERY}.noise_scale")
@pytest.mark.parametrize("fields", CHANGES.values(), ids=CHANGES)
def test_recovery_likelihood_in_closed_form(fields):
    noisy = {"noise_scale": 0.7} if "transition" in fields else {}
    config = recovery(*(f"{RECOVERY}.{name}" for name in fields), **noisy)
    method, params = check_recovery(config)
    levels, densities = Levels(config.method), method.densities(params)
    of = slice(1, None) if "transition" in fields else slice(None, -1)
    np.testing.assert_allclose(densities.sigma_bar, levels.sigma_bar[of], rtol=1e-4)
    assert densities.num_levels == config.method.num_pairs


@shows(f"{RECOVERY}.level_classifier")
def test_the_classifiers_terms_are_added_to_the_loss():
    """Of theta (1 + t) |y|^2 / 2 and a constant per level, the classifier's own functions."""
    config = recovery(energy_in_nats=True)
    without, *_ = loss_of(*built(config))
    method, params, state = built(changed(config, f"{RECOVERY}.level_classifier"))
    loss, metrics, _ = loss_of(method, params, state)
    np.testing.assert_allclose(params["per_value"], np.log(2 * np.pi) / 2, rtol=1e-6)
    levels = Levels(config.method)

    def energy(level):
        scale = THETA * (1 + level) * jnp.asarray(levels.multiplier)[level] ** 2
        return lambda x: scale * jnp.sum(x**2, (1, 2, 3)) / 2 + 4 * np.log(2 * np.pi) / 2

    by_hand = method.densities(params)._replace(energy=energy)
    terms = []
    for i, (name, term) in enumerate(
        {
            "neighbors": level_classifier.neighbor_losses,
            "levels": level_classifier.level_losses,
        }.items()
    ):
        losses = term(jax.random.fold_in(KEY, i), by_hand, jnp.asarray(EXAMPLES), INDEX)
        terms.append(float(losses.mean()))
        assert metrics[f"classifier_of_{name}"] == pytest.approx(terms[-1], rel=1e-4)
    assert loss == pytest.approx(without + 2.0 * sum(terms), rel=1e-4)


def test_noise_of_the_chain_in_training():
    with pytest.raises(AssertionError):
        check_recovery(recovery(noise_scale=1.0))


def descended(levels, x, first_level, num_steps):
    """Without noise from x_{first_level + 1} to x_0."""
    for level in range(first_level, -1, -1):
        at = np.full(len(x), level)
        x = levels.chain(x, x, at, num_steps) / levels.multiplier[level]
    return x


@shows(
    "sampler:recovery_likelihood.num_steps",
    "sampler:recovery_likelihood.noise_scale",
    "sampler:recovery_likelihood.restore_level",
)
def test_recovery_samples_in_closed_form():
    fields = ["sampler:recovery_likelihood.noise_scale"]
    start = np.asarray(random.normal(jax.random.split(KEY)[0], INDEX, jnp.asarray(EXAMPLES)))
    method, params, _ = built(recovery())
    noisy = np.asarray(jax.jit(method.sample)(params, KEY, INDEX))
    for name, num_steps in (("noise_scale", 2), ("num_steps", 3)):
        fields.append(f"sampler:recovery_likelihood.{name}")
        config = recovery(*fields)
        method, params, _ = built(config)
        levels = Levels(config.method)
        expected = descended(levels, start, 1, num_steps)
        found = jax.jit(method.sample)(params, KEY, INDEX)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)
        assert np.max(np.abs(noisy - expected)) > 1e-3
    for level in (1, value_of("sampler:recovery_likelihood.restore_level")):
        config.sampler.restore_level = level
        method, params, _ = built(config)
        noised = levels.a_bar[level] * EXAMPLES + levels.sigma_bar[level] * start
        expected = descended(levels, noised, level - 1, 3)
        found = jax.jit(method.restore)(params, KEY, jnp.asarray(EXAMPLES), INDEX, LABEL)
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-5)


@shows("sampler:recovery_likelihood.inpaint_rounds")
def test_inpaint_rounds():
    config = recovery("sampler:recovery_likelihood.inpaint_rounds")
    method, params, _ = built(config)
    x = jnp.asarray(EXAMPLES)
    found = np.asarray(jax.jit(method.inpaint)(params, KEY, x, KNOWN, INDEX, LABEL))
    for rounds in (1, 2, 5):
        by_hand = jax.jit(
            lambda x, rounds=rounds: sampling.inpaint_levels(
                KEY, method.level_energy(params), method.schedule, method.sampling_transition,
                x, KNOWN, INDEX, num_rounds=rounds,
            )
        )(x)  # fmt: skip
        assert np.allclose(found, by_hand, atol=1e-6) == (rounds == 2)
    np.testing.assert_array_equal(found[:, KNOWN], EXAMPLES[:, KNOWN])


# ------------------------------------------------------------------ contrastive divergence


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


# -------------------------------------------------------------- denoising score matching


def matching(*fields, **values):
    ladder = {"num_levels": 4, "min_noise": 0.1, "max_noise": 1.0, "target_sigma": 0.3, **values}
    config = config_of("denoising_score_matching", **ladder)
    config.sampler.update(num_hot=2, num_cooling=4, num_final=2, start_temperature=4.0)
    return changed(config, *fields)


OF_MATCHING = ("num_levels", "min_noise", "max_noise", "spacing", "target_sigma")


@shows(*(f"{DSM}.{name}" for name in OF_MATCHING))
@pytest.mark.parametrize("name", [None, *OF_MATCHING])
def test_score_matching_in_closed_form(name):
    config = matching(*([f"{DSM}.{name}"] if name else []))
    settings = config.method
    method, params, state = built(config)
    loss, metrics, _ = loss_of(method, params, state)
    space = np.geomspace if settings.spacing == "log" else np.linspace
    ladder = space(settings.min_noise, settings.max_noise, settings.num_levels)
    sigma = ladder[INDEX % settings.num_levels]
    noise = np.asarray(random.normal(KEY, INDEX, jnp.asarray(EXAMPLES)))
    x_noisy = EXAMPLES + as_images(sigma) * noise
    residual = THETA * x_noisy - (x_noisy - EXAMPLES) / settings.target_sigma**2
    losses = squares(residual) / sigma**2
    assert loss == pytest.approx(np.mean(losses), rel=1e-4)
    relative = settings.target_sigma**4 * np.mean(losses)
    assert metrics["normalized_loss"] == pytest.approx(relative, rel=1e-4)
    assert metrics["energy_noisy"] == pytest.approx(np.mean(THETA * squares(x_noisy) / 2), rel=1e-4)
    assert method.densities(params).sigma_bar == pytest.approx(settings.target_sigma)


OF_ANNEALING = (
    "step_size", "start_temperature", "num_hot", "num_cooling", "num_final", "cooling",
    "restore_temperature",
)  # fmt: skip


@shows(*(f"sampler:denoising_score_matching.{name}" for name in OF_ANNEALING))
@pytest.mark.parametrize("name", [None, *OF_ANNEALING])
def test_annealed_samples_by_hand(name):
    config = matching(*([f"sampler:denoising_score_matching.{name}"] if name else []))
    s = config.sampler
    hot = np.full(s.num_hot, s.start_temperature)
    falling = s.start_temperature ** (1 - np.arange(s.num_cooling) / s.num_cooling)
    if s.cooling == "linear":
        falling = np.linspace(s.start_temperature, 1, s.num_cooling)
    temperatures = np.concatenate([hot, falling, np.linspace(1, 0, s.num_final)])
    method, params, _ = built(config)
    np.testing.assert_allclose(method.sampler.temperatures, temperatures, rtol=1e-6)

    def by_hand(key, x, temperatures):
        return annealed_sample(
            key, lambda _: lambda x: THETA * jnp.sum(x**2, (1, 2, 3)) / 2, x, temperatures, INDEX,
            step_size=s.step_size, target_sigma=0.3,
        )  # fmt: skip

    start_key, chain_key = jax.random.split(KEY)
    x = jnp.asarray(EXAMPLES)
    start = random.normal(start_key, INDEX, x)
    expected = by_hand(chain_key, start, temperatures)
    np.testing.assert_allclose(
        jax.jit(method.sample)(params, KEY, INDEX), expected, rtol=1e-4, atol=1e-5
    )
    cool = temperatures[temperatures <= s.restore_temperature]
    restored = jax.jit(method.restore)(params, KEY, x, INDEX, LABEL)
    np.testing.assert_allclose(restored, by_hand(KEY, x, cool), rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------- energy discrepancy

OF_DISCREPANCY = ("noise_std", "num_points", "stabilization", "base_std")


@shows(*(f"{ED}.{name}" for name in OF_DISCREPANCY))
@pytest.mark.parametrize("name", [None, *OF_DISCREPANCY])
def test_energy_discrepancy_in_closed_form(name):
    config = config_of("energy_discrepancy", num_points=2, stabilization=0.5)
    config.data.high = 2.0  # so that the center, 1/2, shows
    config = changed(config, *([f"{ED}.{name}"] if name else []))
    s = config.method
    method, params, state = built(config)
    loss, _, _ = loss_of(method, params, state)

    def energy(x):
        return THETA * squares(x) / 2 + squares(x - 0.5) / (2 * s.base_std**2)

    x = jnp.asarray(EXAMPLES)
    points = np.asarray(perturbed_points(KEY, x, INDEX, s.num_points, s.noise_std))
    shared, own = points[:, 0] - points[:, 1], s.noise_std * np.sqrt(2)
    assert np.std(shared) == pytest.approx(own, rel=0.35)
    gaps = np.exp([energy(EXAMPLES) - energy(points[:, j]) for j in range(s.num_points)])
    expected = np.mean(np.log(s.stabilization / s.num_points + np.mean(gaps, 0)))
    assert loss == pytest.approx(expected, rel=1e-4)
    assert method.densities(params).base == (0.5, s.base_std, None)


@shows(
    "sampler:energy_discrepancy.num_steps",
    "sampler:energy_discrepancy.step_size",
    "sampler:energy_discrepancy.kernel",
)
@pytest.mark.parametrize("name", [None, "num_steps", "step_size", "kernel"])
def test_annealed_chains_by_hand(name):
    config = config_of("energy_discrepancy", base_std=2.0)
    config.sampler.update(num_steps=4, step_size=0.1)
    config = changed(config, *([f"sampler:energy_discrepancy.{name}"] if name else []))
    s, (method, params, _) = config.sampler, built(config)
    make = {"langevin": samplers.langevin, "mala": samplers.mala}[s.kernel]

    def kernel(beta):
        curvature = beta * THETA + 1 / 4
        return make(lambda x: curvature * jnp.sum(x**2, (1, 2, 3)) / 2, s.step_size)

    start_key, chain_key = jax.random.split(KEY)
    start = 2 * random.normal(start_key, INDEX, jnp.asarray(EXAMPLES))
    betas = np.minimum(np.arange(s.num_steps) / (s.num_steps // 2), 1).astype(np.float32)
    state, _ = samplers.run_schedule(chain_key, kernel, betas, start, 1)
    found = jax.jit(method.sample)(params, KEY, INDEX)
    np.testing.assert_allclose(found, state.x, rtol=1e-4, atol=1e-5)
    native = method.densities(params).native_kernel(lambda x: jnp.sum(x**2, (1, 2, 3)), 0)
    moved = native.step(KEY, native.init(start))[0].x
    by_hand = make(lambda x: jnp.sum(x**2, (1, 2, 3)), s.step_size)
    np.testing.assert_allclose(moved, by_hand.step(KEY, by_hand.init(start))[0].x, rtol=1e-5)


# ----------------------------------------------------------------------- dual score matching


def dual(*fields, **values):
    return changed(
        config_of("dual_score_matching", min_noise=0.1, max_noise=20.0, num_levels=4, **values),
        *fields,
    )


def dual_energy(method):
    """(y [n, ..], log t [n]) -> U, float64, in NumPy, of theta (1 + log t) |y'|^2 / 2."""
    moments, largest = method.data_moments, method.max_noise**2
    spread = np.linalg.eigvalsh(moments.covariance)

    def energy(y, log_t):
        t, flat = np.exp(log_t), np.asarray(y, np.float64).reshape(len(y), -1)
        gaussian = []
        for row, variance in zip(flat - moments.mean, t, strict=True):
            covariance = moments.covariance + variance * np.eye(4)
            log_det = np.linalg.slogdet(2 * np.pi * covariance)[1]
            gaussian.append((row @ np.linalg.inv(covariance) @ row + log_det) / 2)
        at = lambda t: 1 / (1 + t / spread.max())  # noqa: E731
        faded = (at(t) - at(largest)) / (1 - at(largest))
        factor = np.sqrt(spread.mean() / (spread.mean() + t))[:, None]
        drawn_in = moments.mean + factor * (flat - moments.mean)
        return np.array(gaussian) + faded * THETA * (1 + log_t) * np.sum(drawn_in**2, 1) / 2

    return energy


def central(energy, y, log_t):
    """(grad_y U, dU / d log t) by central differences."""
    grad = np.zeros(y.shape)
    for place in np.ndindex(y.shape[1:]):
        step = np.zeros(y.shape)
        step[(slice(None), *place)] = 1e-5
        slope = (energy(y + step, log_t) - energy(y - step, log_t)) / 2e-5
        grad[(slice(None), *place)] = slope
    return grad, (energy(y, log_t + 1e-5) - energy(y, log_t - 1e-5)) / 2e-5


@shows(*(f"{DUAL}.{name}" for name in ("min_noise", "max_noise", "num_levels")))
@pytest.mark.parametrize("name", [None, "min_noise", "max_noise", "num_levels"])
def test_dual_score_matching_in_closed_form(name):
    config = dual(*([f"{DUAL}.{name}"] if name else []))
    s, (method, params, state) = config.method, built(config)
    loss, metrics, _ = loss_of(method, params, state)
    keys = jax.random.split(KEY)
    place = np.asarray(random.uniform(keys[0], INDEX, ()), np.float64)
    log_t = 2 * (np.log(s.min_noise) + place * np.log(s.max_noise / s.min_noise))
    noise = np.asarray(random.normal(keys[1], INDEX, jnp.asarray(EXAMPLES)), np.float64)
    y = EXAMPLES + as_images(np.exp(log_t / 2)) * noise
    grad, slope = central(dual_energy(method), y, log_t)
    of_y = squares(as_images(np.exp(log_t / 2)) * grad - noise) / 4
    of_t = (slope - (4 - squares(noise)) / 2) ** 2 / 16
    assert loss == pytest.approx(np.mean(of_y + of_t), rel=2e-3)
    assert metrics["score_loss"].shape == (s.num_levels,)
    levels = np.geomspace(s.min_noise, s.max_noise, s.num_levels)
    densities = method.densities(params)
    np.testing.assert_allclose(densities.sigma_bar, levels, rtol=1e-5)
    x = jnp.asarray(EXAMPLES)
    found = densities.energy(jnp.asarray(1))(x)
    expected = dual_energy(method)(EXAMPLES, np.full(len(x), 2 * np.log(levels[1])))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@shows(*(f"{DUAL}.{name}" for name in ("chain_weight", "chain_moves", "chain_after")))
def test_chains_of_dual_score_matching():
    """The weight times the energies' difference per value, from a step on, and moves of HMC."""

    def found(*fields, step=0, **values):
        method, params, state = built(dual(*(f"{DUAL}.{name}" for name in fields), **values))
        batch = {"image": jnp.asarray(EXAMPLES), "index": INDEX, "step": jnp.asarray(step)}
        loss, (new_state, metrics) = jax.jit(method.loss)(params, state, batch, KEY)
        ends = jax.tree.leaves(new_state.sharded)
        means = {name: metrics[name].value() for name in metrics}
        return float(loss), means, [state.sharded, *ends], method, params

    usual, _, (_, *chains), _, _ = found()
    assert not chains
    weighted, means, (start, ends), method, params = found("chain_weight", chain_moves=1)
    gap = float(means["energy_pos"] - means["energy_neg"]) / 4
    assert weighted - usual == pytest.approx(2.0 * gap, rel=1e-3)
    energy_fn = method.densities(params).energy(jnp.asarray(0))
    key = jax.random.split(jax.random.fold_in(KEY, 1))[1]
    for fields, number, ended in (
        ((), 1, ends),
        (("chain_moves",), 3, found("chain_weight", "chain_moves")[2][1]),
    ):
        by_hand = moved(
            key, energy_fn, start, num_moves=number, least_std=0.1, first_chain=jnp.asarray(0)
        )
        np.testing.assert_allclose(ended, by_hand.x, rtol=1e-3, atol=1e-4, err_msg=str(fields))
    for step, waits in ((6, True), (7, False)):
        loss, _, (start, ends), _, _ = found("chain_weight", "chain_after", step=step)
        assert (loss == pytest.approx(usual, rel=1e-5)) is waits
        assert np.array_equal(start, ends) is waits


@shows(f"{DUAL}.num_components")
def test_components_of_the_base():
    """Where the network is nothing, the density is the mixture's, at the lowest noise and above."""
    config = dual(f"{DUAL}.num_components")
    method, params, _ = built(config)
    energies = method.densities(jax.tree.map(jnp.zeros_like, params)).energy
    sigma = method.sigma.astype(np.float64)
    x = np.asarray(method.data_mixture.means, np.float32).reshape(-1, 2, 2, 1)
    for level in (0, 1):
        extra = (sigma[level] ** 2 - config.method.min_noise**2) * np.eye(4)
        wider = method.data_mixture._replace(covariances=method.data_mixture.covariances + extra)
        found = energies(jnp.asarray(level))(jnp.asarray(x))
        np.testing.assert_allclose(found, -wider.log_density(x), rtol=1e-3, atol=1e-3)
    assert method.data_mixture.num_components == 3


@shows(*(f"sampler:dual_score_matching.{name}" for name in ("kind", "num_steps", "step_scale")))
@pytest.mark.parametrize(
    "names", [(), ("num_steps",), ("kind",), ("kind", "num_steps", "step_scale")]
)
def test_dual_samples_by_hand(names):
    config = dual(*(f"sampler:dual_score_matching.{name}" for name in names))
    s, (method, params, _) = config.sampler, built(config)
    keys, sigma = jax.random.split(KEY), jnp.asarray(method.sigma[::-1])
    start = method.base_law.sample(keys[0], INDEX, jnp.asarray(EXAMPLES), method.max_noise**2)
    energy_at = lambda log_t: method.energy(params, log_t)  # noqa: E731
    if s.kind == "ode":
        times = jnp.linspace(2 * jnp.log(sigma[0]), 2 * jnp.log(sigma[-1]), 3 * s.num_steps + 1)
        expected = probability_flow(energy_at, start, times)
    else:
        expected, _ = samplers.run_schedule(
            keys[1],
            lambda sigma: samplers.langevin(energy_at(2 * jnp.log(sigma)), s.step_scale * sigma**2),
            sigma, start, s.num_steps,
        )  # fmt: skip
        expected = expected.x
    found = jax.jit(method.sample)(params, KEY, INDEX)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    kernel = method.densities(params).native_kernel(lambda x: 0 * jnp.sum(x, (1, 2, 3)), 1)
    x = jnp.zeros((2_000, 2, 2, 1))
    moved = kernel.step(KEY, kernel.init(x))[0].x
    assert moved.std() == pytest.approx(np.sqrt(2 * s.step_scale) * method.sigma[1], rel=0.05)
