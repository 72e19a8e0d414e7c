"""Restoring on a bowl: no further than asked, by every method."""

import dataclasses

import jax
import numpy as np
import pytest
from toy_networks import Bowl

from ebm_jax.methods import (
    ContrastiveDivergence,
    DenoisingScoreMatching,
    LevelSampler,
    RecoveryLikelihood,
)
from ebm_jax.methods.contrastive_divergence import ContrastiveDivergenceSampler
from ebm_jax.methods.denoising_score_matching import AnnealedLangevinSampler
from ebm_jax.methods.recovery_likelihood import RecoverySampler

KEY = jax.random.key(3)
PARAMS = {"scale": np.float32(2.0)}
X = np.clip(np.random.default_rng(0).normal(size=(3, 2, 2, 1)), 0, 1).astype(np.float32)
CHAIN = {"num_steps": 4, "step_size": 0.1, "noise_std": 0.05, "max_grad": 0.5}
ANNEALING = {"step_size": 0.1, "start_temperature": 4.0, "num_hot": 0}


def restored(method):
    return np.asarray(
        jax.jit(lambda x: method.restore(PARAMS, KEY, x, np.arange(3), np.zeros(3, np.int32)))(X)
    )


@pytest.mark.parametrize(
    "method",
    [
        RecoveryLikelihood(Bowl(), num_pairs=3, num_steps=3, step_scale=1e-2),
        ContrastiveDivergence(
            Bowl(), **CHAIN, sampler=ContrastiveDivergenceSampler(restore_num_steps=1)
        ),
        DenoisingScoreMatching(
            Bowl(),
            target_sigma=0.2,
            sampler=AnnealedLangevinSampler(**ANNEALING, num_cooling=2, num_final=2),
        ),
    ],
    ids=lambda method: type(method).__name__,
)
def test_restoring_goes_no_further_than_asked(method):
    assert 0 < np.abs(restored(method) - X).mean() < 0.6


def test_the_higher_the_level_the_less_is_left_of_an_example():
    """The same noise for two starts: in a bowl their difference shrinks by a factor alone."""
    method = RecoveryLikelihood(Bowl(), num_pairs=3, num_steps=3, step_scale=1e-2)
    assert isinstance(method, LevelSampler)
    shallow, left = {"scale": np.float32(0.02)}, []
    for level in (1, 2, 3):
        from_x, from_other = (
            method.sample_from_level(shallow, KEY, x, np.arange(3), level=level) for x in (X, X + 1)
        )
        left.append(np.asarray(from_other - from_x))
        np.testing.assert_allclose(left[-1], left[-1].mean(), rtol=1e-3, atol=1e-5)
    sizes = [float(one.mean()) for one in left]
    assert 1 > sizes[0] > sizes[1] > sizes[2] > 0
    assert sizes[2] < 0.03  # abar_3 is .006: noise
    restoring = dataclasses.replace(method, sampler=RecoverySampler(restore_level=2))
    np.testing.assert_allclose(
        restored(restoring),
        method.sample_from_level(PARAMS, KEY, X, np.arange(3), level=2),
        rtol=1e-5, atol=1e-6,
    )  # fmt: skip


def test_chains_have_the_steps_that_restoring_asks_for():
    """One step of fixed noise and clipped gradients against four, and 0 for as many as sampling."""
    few, many, default = (
        restored(ContrastiveDivergence(Bowl(), **CHAIN, sampler=sampler))
        for sampler in (
            ContrastiveDivergenceSampler(restore_num_steps=1),
            ContrastiveDivergenceSampler(restore_num_steps=4),
            ContrastiveDivergenceSampler(),
        )
    )
    np.testing.assert_array_equal(many, default)
    assert np.abs(few - X).max() <= 0.05 + 5 * 0.05  # lambda times the clipped gradient, and noise
    assert np.abs(many - X).mean() > np.abs(few - X).mean()


def test_levels_and_temperatures_that_are_none_are_refused():
    with pytest.raises(ValueError, match="restore_level: expected one of the levels 1 to 3, got 4"):
        RecoveryLikelihood(Bowl(), num_pairs=3, sampler=RecoverySampler(restore_level=4))
    RecoveryLikelihood(Bowl(), num_pairs=3, sampler=RecoverySampler(restore_level=3))
    with pytest.raises(ValueError, match=r"restore_temperature: expected a number >= 0, got -1"):
        AnnealedLangevinSampler(restore_temperature=-1.0)
    hot = AnnealedLangevinSampler(num_hot=3, num_cooling=0, num_final=0, restore_temperature=2.0)
    with pytest.raises(ValueError, match=r"at least the coolest step's, 100, got 2"):
        _ = hot.restoring_temperatures


@pytest.mark.parametrize("bound", ["max_grad", "max_total_grad_norm"])
def test_a_step_of_restoring_by_hand(bound):
    """x - lambda clip(T dE/dx), each value by itself or the whole batch; no noise, no walls."""
    settings = {"max_grad": 0.0, bound: 0.7}
    method = ContrastiveDivergence(
        Bowl(), low=-9.0, high=9.0, num_steps=1, step_size=0.1, noise_std=0.0, temperature=1.5,
        **settings,
    )  # fmt: skip
    grad = 1.5 * 2.0 * (X - 0.25)
    if bound == "max_grad":
        clipped = np.clip(grad, -0.7, 0.7)
    else:
        clipped = 0.7 * grad / np.linalg.norm(grad)
    np.testing.assert_allclose(restored(method), X - 0.1 * clipped, rtol=1e-5, atol=1e-6)
