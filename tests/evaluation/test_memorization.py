"""Signs of memorization: absent between two halves of a sample, present where images are copied."""

import numpy as np
import pytest

from ebm_jax.evaluation.fidelity.memorization import ks_test, nearness

RNG = np.random.default_rng(0)


def test_equal_and_shifted_distributions():
    """Shift .5 of unit normals: sup |F_1 - F_2| = 2 Phi(.25) - 1 = .1974."""
    x, y = RNG.normal(size=(2, 4_000))
    same = ks_test(x, y)
    assert same.p_value > 0.01
    assert abs(same.gap) < 4 * np.sqrt(2 / 4_000)
    apart = ks_test(x, y + 0.5)
    assert apart.statistic == pytest.approx(0.1974, abs=0.03)
    assert apart.p_value < 1e-6
    assert apart.gap == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ValueError, match="not finite"):
        ks_test(x, np.array([np.nan]))


def test_copies_of_training_images_are_seen():
    training, held_out, new = RNG.normal(size=(3, 400, 5))
    honest, _, of_held_out = nearness(new, held_out, training)
    assert honest.closer < 0.04
    assert honest.median_sample == pytest.approx(honest.median_held_out, rel=0.1)
    expected = np.linalg.norm(held_out[:, None] - training, axis=2).min(1)
    np.testing.assert_allclose(of_held_out, expected, rtol=1e-9)
    scaled = nearness(new, held_out, (training - 3) / 2, scale=2, offset=3)[0]
    np.testing.assert_allclose(scaled, honest, rtol=1e-9)
    copied = np.where(np.arange(400)[:, None] < 100, training + 1e-3, new)
    assert nearness(copied, held_out, training)[0].closer == pytest.approx(0.25, abs=0.04)
