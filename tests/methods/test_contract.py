"""What every method promises, whatever it is: one table of methods, one set of laws.

A new method adds a line or two to CASES: a tiny network on images, and one on vectors.
"""

import dataclasses
import functools
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilation import jit_alike
from flax.traverse_util import flatten_dict

from ebm_jax import methods, samplers, settings
from ebm_jax.data import Mixture, Moments
from ebm_jax.methods import (
    ContrastiveDivergence,
    DenoisingScoreMatching,
    Densities,
    Inpainter,
    Mean,
    Method,
    MethodState,
    RecoveryLikelihood,
    Restorer,
)
from ebm_jax.methods.base import settings_of
from ebm_jax.methods.denoising_score_matching import AnnealedLangevinSampler
from ebm_jax.methods.dual_score_matching import DualScoreMatching, DualScoreSampler
from ebm_jax.methods.energy_discrepancy import EnergyDiscrepancy, EnergyDiscrepancySampler
from ebm_jax.methods.recovery_likelihood import RecoverySampler
from ebm_jax.methods.registry import METHODS
from ebm_jax.networks import EnergyMLP, FlatImages, IgebmResNet, MdsmResNet, RecoveryResNet
from ebm_jax.samplers.random import Blend

KEY = jax.random.key(0)
BATCH = 8

IMAGES = {"image_size": 8, "channels": 1, "width": 4}
MLP = EnergyMLP(width=8, depth=2)
IGEBM = functools.partial(IgebmResNet, **IMAGES, multipliers=(1,), num_blocks=(1,))

recovery = functools.partial(
    RecoveryLikelihood, num_pairs=3, num_steps=2, sampler=RecoverySampler(inpaint_rounds=2)
)
divergence = functools.partial(
    ContrastiveDivergence, num_steps=2, step_size=0.1, buffer_size=16, buffer_shards=4
)
score_matching = functools.partial(
    DenoisingScoreMatching,
    num_levels=4,
    sampler=AnnealedLangevinSampler(start_temperature=10.0, num_hot=1, num_cooling=2, num_final=3),
)
discrepancy = functools.partial(
    EnergyDiscrepancy, num_points=3, sampler=EnergyDiscrepancySampler(num_steps=4)
)


TWO = Mixture(
    np.full(2, 0.5), np.array([[0.3, 0.3], [0.7, 0.7]]), np.tile(np.eye(2) / 20, (2, 1, 1))
)


def dual(network, **settings):
    """Dual score matching of data of a given size."""
    size = int(np.prod(network.input_shape))
    settings = {"sampler": DualScoreSampler(num_steps=2), **settings}
    return DualScoreMatching(
        network, Moments(np.full(size, 0.5), np.eye(size) / 12), min_noise=0.1, max_noise=100.0,
        num_levels=3, **settings,
    )  # fmt: skip


# 'name in METHODS/what' -> method
CASES: dict[str, Method] = {
    "recovery_likelihood/images": recovery(
        RecoveryResNet(**IMAGES, multipliers=(1,), num_blocks=1)
    ),
    "recovery_likelihood/vectors": recovery(MLP),
    "recovery_likelihood/gaussian transitions": recovery(MLP, transition="gaussian"),
    "recovery_likelihood/level classifier": recovery(
        RecoveryResNet(**IMAGES, multipliers=(1,), num_blocks=1),
        energy_in_nats=True,
        level_classifier=1.0,
    ),
    "contrastive_divergence/images": divergence(IGEBM()),
    "contrastive_divergence/classes": divergence(IGEBM(num_classes=3)),
    "contrastive_divergence/persistent": divergence(MLP, chain_init="persistent"),
    "contrastive_divergence/vectors": divergence(MLP),
    "denoising_score_matching/images": score_matching(
        MdsmResNet(**IMAGES, multipliers=(1,), num_blocks=1)
    ),
    "denoising_score_matching/vectors": score_matching(MLP),
    "energy_discrepancy/images": discrepancy(MdsmResNet(**IMAGES, multipliers=(1,), num_blocks=1)),
    "energy_discrepancy/vectors": discrepancy(MLP),
    "dual_score_matching/images": dual(FlatImages(EnergyMLP(64, width=8, depth=1), (8, 8, 1))),
    "dual_score_matching/vectors": dual(
        MLP, sampler=DualScoreSampler(kind="langevin", num_steps=2)
    ),
    "dual_score_matching/chains": dual(MLP, chain_weight=1.0, chain_moves=1),
    "dual_score_matching/mixture": dual(
        MLP, chain_weight=1.0, chain_moves=1, num_components=2, data_mixture=TWO
    ),
}

# Additive constants: energies differ by them, losses of differences and of gradients do not.
CONSTANTS = {"energy/bias", "quadratic/bias"}


class Trained(NamedTuple):
    """A method with its parameters, away from where they start, and a batch."""

    method: Method
    params: dict
    state: MethodState
    batch: dict


@functools.cache
def trained(name):
    method = CASES[name]
    rng = np.random.default_rng(0)
    batch = {
        "image": jnp.asarray(rng.uniform(size=(BATCH, *method.network.input_shape)), jnp.float32),
        "label": jnp.asarray(rng.integers(0, 3, BATCH), jnp.int32),
        "index": jnp.arange(BATCH, dtype=jnp.int32),
        "step": jnp.int32(5),
    }
    params, state = jax.jit(method.init)(KEY, batch)
    moved = jax.tree.map(  # in NumPy: a program less for each shape
        lambda leaf: np.asarray(leaf + 0.1 * rng.normal(size=leaf.shape), leaf.dtype),
        jax.device_get(params),
    )
    return Trained(method, jax.device_put(moved), state, batch)


@pytest.fixture(params=CASES)
def case(request):
    """Each of CASES in turn."""
    return trained(request.param)


@functools.cache
def sampler(method):
    return jit_alike(method.sample)  # samples are compared exactly


@functools.cache
def trainer(method):
    return jax.jit(jax.value_and_grad(method.loss, has_aux=True))


def test_every_method_is_in_the_table():
    assert {name.split("/")[0] for name in CASES} == set(METHODS)
    for name, method in CASES.items():
        assert type(method) is METHODS[name.split("/")[0]]
        assert isinstance(method, Method)
        assert method != dataclasses.replace(method)  # arrays among its fields have no one answer
        assert not re.search("schedule=|base_law=", repr(method))  # which follow from the others
        for part in (method, method.sampler):  # in one room for who makes them by hand
            assert getattr(methods, type(part).__name__) is type(part)
            with pytest.raises(dataclasses.FrozenInstanceError):  # programs are kept by method
                setattr(part, dataclasses.fields(part)[0].name, None)


def test_every_setting_is_checked_and_data_are_between_0_and_1():
    for method in {type(method): method for method in CASES.values()}.values():
        usual = {field.name: field.default for field in dataclasses.fields(method)}
        assert (usual.get("low", 0.0), usual.get("high", 1.0)) == (0.0, 1.0)
        for part, place in ((method, "method"), (method.sampler, "sampler")):
            for field in settings.fields(part):
                wrong = "neither" if isinstance(field.default, str) else math.nan
                with pytest.raises(ValueError, match=rf"^{place}\.{field.name}: expected "):
                    dataclasses.replace(part, **{field.name: wrong})


def test_settings_by_name_are_those_of_the_method_alone():
    method = EnergyDiscrepancy(MLP, low=-1.0, num_points=3)
    usual = {"noise_std": 1.0, "stabilization": 1.0, "base_std": 4.0}
    assert settings_of(method) == usual | {"num_points": 3}


def test_init_gives_parameters_and_a_state_that_splits(case):
    """The leaves of what is sharded have a leading axis that devices can share."""
    assert jax.tree.leaves(case.params)
    assert isinstance(case.state, MethodState)
    for leaf in jax.tree.leaves(case.state.sharded):
        assert leaf.ndim >= 1
        assert leaf.shape[0] % 4 == 0


def test_loss_is_a_number_with_a_gradient_for_every_parameter(case):
    (loss, (state, metrics)), grads = trainer(case.method)(case.params, case.state, case.batch, KEY)
    assert loss.shape == ()
    assert np.isfinite(loss)
    assert jax.tree.structure(state) == jax.tree.structure(case.state)
    assert jax.tree.map(jnp.shape, state) == jax.tree.map(jnp.shape, case.state)
    assert metrics
    for name, metric in metrics.items():
        assert isinstance(metric, Mean | jax.Array), name
    flat = flatten_dict(grads, sep="/")
    assert all(np.isfinite(grad).all() for grad in flat.values())
    without = {name for name, grad in flat.items() if not np.any(grad)}
    assert without <= CONSTANTS


def test_the_batch_and_the_state_may_be_halved(case):
    """Two devices with a half each of the batch and of what is sharded: the same mean loss."""
    halve = lambda tree, i: jax.tree.map(lambda leaf: jnp.split(leaf, 2)[i], tree)  # noqa: E731
    arrays = {name: case.batch[name] for name in ("image", "label", "index")}
    whole, state = [], case.state
    halves, parts = [], [case.state._replace(sharded=halve(case.state.sharded, i)) for i in (0, 1)]
    for step in range(3):  # the third replays
        key = jax.random.fold_in(KEY, step)
        (loss, (state, _)), _ = trainer(case.method)(case.params, state, case.batch, key)
        whole.append(float(loss))
        found = [
            trainer(case.method)(case.params, part, case.batch | halve(arrays, i), key)[0]
            for i, part in enumerate(parts)
        ]
        halves.append(np.mean([float(loss) for loss, _ in found]))
        parts = [new_state for _, (new_state, _) in found]
    np.testing.assert_allclose(halves, whole, rtol=1e-4, atol=1e-5)


def test_samples_are_functions_of_key_and_index(case):
    sample = sampler(case.method)
    index = jnp.array([5, 0, 3, 9])
    x = sample(case.params, KEY, index)
    assert x.shape == (4, *case.method.network.input_shape)
    assert np.isfinite(x).all()
    order = np.array([2, 0, 3, 1])
    permuted = sample(case.params, KEY, index[order])
    np.testing.assert_allclose(permuted, x[order], rtol=1e-5, atol=1e-6)
    among_others = sample(case.params, KEY, jnp.array([5, 0, 7, 8]))
    np.testing.assert_allclose(among_others[:2], x[:2], rtol=1e-5, atol=1e-6)
    other = np.asarray(sample(case.params, jax.random.key(1), index))
    assert np.abs(other - np.asarray(x)).max() > 1e-3
    assert len(np.unique(np.asarray(x), axis=0)) == 4


def test_a_blend_of_weight_one_is_that_sample(case):
    sample = sampler(case.method)
    x = sample(case.params, KEY, jnp.array([5, 0, 3, 9]))
    first, second = jnp.array([5, 0, 3, 4]), jnp.array([1, 2, 9, 9])
    ends = jnp.array([1.0, 1.0, 0.0, 0.0])
    found = sample(case.params, KEY, Blend(first, second, ends, 1 - ends))
    np.testing.assert_array_equal(found, np.stack([x[0], x[1], x[3], x[3]]))
    half = jnp.full(4, np.sqrt(0.5), jnp.float32)
    between = np.asarray(sample(case.params, KEY, Blend(first, second, half, half)))
    distance = np.abs(between[:2] - np.asarray(x)[:2])
    assert distance.max(axis=tuple(range(1, x.ndim))).min() > 1e-4


def test_densities_have_energies_and_gradients_at_every_level(case):
    method, x, index = case.method, case.batch["image"][:3], jnp.array([4, 0, 7])

    def at_level(params, level):
        densities = method.densities(params)
        found = {
            "noised": densities.noised(KEY, level, x, index),
            "energy": densities.energy(level)(x),
            "log_z": densities.log_z,
            "start": densities.base.sample(KEY, index, x.shape[1:]),
            **{f"data {k}": v for k, v in
               densities.energy_and_grad_norm(KEY, level, x, index).items()},
        }  # fmt: skip
        if densities.native_kernel is not None:
            kernel = densities.native_kernel(densities.energy(level), level)
            found["chain"] = samplers.run_chain(KEY, kernel, x, 2)[0].x
        if densities.conditional is not None:
            found["conditional"] = densities.conditional(level, x)(x)
            found["conditional_start"] = densities.conditional_start(KEY, level, x)
        return found

    at_level = jax.jit(at_level)
    densities = method.densities(case.params)
    assert isinstance(densities, Densities)
    assert densities.a_bar.shape == densities.sigma_bar.shape == (densities.num_levels,)
    assert densities.log_z is None or densities.log_z.shape == (densities.num_levels,)
    assert all(isinstance(sentence, str) for sentence in densities.caveats)
    for level in range(densities.num_levels):
        found = at_level(case.params, jnp.asarray(level))
        for name in ("energy", "data energy", "data grad_norm"):
            assert found[name].shape == (3,), name
        assert found["noised"].shape == x.shape
        for name, values in found.items():
            assert values is None or np.isfinite(values).all(), name
    start = found["start"]
    assert start.shape == densities.base.reflect(3 * start).shape == x.shape
    assert densities.base.energy(start).shape == (3,)
    assert np.isfinite(densities.base.log_z(x[0].size))


def test_inpainting_keeps_what_is_known_and_does_not_see_the_rest(case):
    if not isinstance(case.method, Inpainter):
        pytest.skip("the method does not inpaint")
    index = jnp.arange(3)
    x, label = case.batch["image"][:3], case.batch["label"][:3]
    is_known = np.arange(x[0].size).reshape(x.shape[1:]) % 2 == 0
    inpaint = jax.jit(lambda x: case.method.inpaint(case.params, KEY, x, is_known, index, label))
    filled, known = np.asarray(inpaint(x)), np.broadcast_to(is_known, x.shape)
    np.testing.assert_array_equal(filled[known], x[known])
    other = jnp.where(is_known, x, 0.7)
    np.testing.assert_allclose(inpaint(other), filled, rtol=1e-6, atol=1e-6)
    assert np.isfinite(filled).all()
    assert np.all(filled[~known] != x[~known])


def test_restoring_gives_examples(case):
    if not isinstance(case.method, Restorer):
        pytest.skip("the method does not restore")
    x, label = case.batch["image"][:3], case.batch["label"][:3]
    restore = jax.jit(case.method.restore)
    restored = restore(case.params, KEY, x, jnp.arange(3), label)
    assert restored.shape == x.shape
    assert np.isfinite(restored).all()
    part = restore(case.params, KEY, x[1:], jnp.arange(1, 3), label[1:])
    np.testing.assert_allclose(part, restored[1:], rtol=1e-5, atol=1e-6)
