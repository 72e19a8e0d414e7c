"""Calibration of predictors that are made so that the answers are known."""

import numpy as np
import pytest

from ebm_jax.evaluation.classification import calibration


def made(rng, number, confidence, accuracy, num_classes=4):
    """(logits, labels): one class at a confidence, right with a probability."""
    labels = rng.integers(0, num_classes, number)
    given = np.where(rng.uniform(size=number) < accuracy, labels, (labels + 1) % num_classes)
    p = np.full((number, num_classes), (1 - confidence) / (num_classes - 1))
    p[np.arange(number), given] = confidence
    return np.log(p), labels


def test_error_of_a_predictor_that_is_too_sure():
    """Two groups: .55 sure and right as often, .95 sure and right in .7 of the cases."""
    rng = np.random.default_rng(0)
    groups = [made(rng, 20_000, 0.55, 0.55), made(rng, 20_000, 0.95, 0.7)]
    logits, labels = (np.concatenate(parts) for parts in zip(*groups, strict=True))
    found = calibration.reliability(logits, labels, 10)
    assert found.error == pytest.approx(0.5 * 0.25, abs=0.01)
    assert found.count[5] == found.count[9] == 20_000
    assert found.confidence[[5, 9]] == pytest.approx([0.55, 0.95])
    assert found.accuracy[[5, 9]] == pytest.approx([0.55, 0.7], abs=0.02)
    assert np.isnan(found.accuracy[0])
    assert calibration.accuracy(logits, labels) == pytest.approx(0.625, abs=0.01)


def test_log_likelihood_and_temperature():
    """Labels drawn from softmax(logits): 1 is the best temperature, that of logits / s is 1 / s."""
    rng = np.random.default_rng(1)
    logits = 3 * rng.normal(size=(20_000, 5))
    p = np.exp(calibration.log_probabilities(logits))
    labels = np.array([rng.choice(5, p=row) for row in p])
    entropy = -np.mean(np.sum(p * np.log(p), 1))
    nll = calibration.negative_log_likelihood(logits, labels)
    assert nll == pytest.approx(entropy, abs=0.03)
    for factor in (1.0, 400.0, 1e-3):
        fitted = calibration.fit_temperature(factor * logits, labels)
        assert fitted == pytest.approx(factor, rel=0.05)
    scaled, both = calibration.cross_fitted(400 * logits, labels)
    assert both == pytest.approx((400, 400), rel=0.05)
    np.testing.assert_allclose(scaled[::2], 400 * logits[::2] / both[0])
    np.testing.assert_allclose(scaled[1::2], 400 * logits[1::2] / both[1])
    other, _ = calibration.cross_fitted(logits, np.where(np.arange(20_000) % 2, labels, 0))
    honest, _ = calibration.cross_fitted(logits, labels)
    np.testing.assert_allclose(other[::2], honest[::2])  # a half does not see its own labels


def test_what_is_refused():
    with pytest.raises(ValueError, match="num_bins: expected at least 1, got 0"):
        calibration.reliability(np.zeros((2, 2)), np.zeros(2, int), 0)
    with pytest.raises(ValueError, match="not finite"):
        calibration.negative_log_likelihood(np.full((2, 2), np.nan), np.zeros(2, int))
