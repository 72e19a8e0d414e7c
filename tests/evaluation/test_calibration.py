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
    with pytest.raises(ValueError, match="some logits are not finite"):
        calibration.log_probabilities(np.array([[0.0, 1], [2, np.inf]]))


@pytest.mark.filterwarnings("error")
def test_bins_of_confidence_at_their_edges():
    """Confidences 1/2, .8 and 1: an edge belongs to the bin above it, 1 to the last."""
    logits, labels = np.array([[0.0, 0], [np.log(4), 0], [800, 0]]), np.array([0, 1, 0])
    found = calibration.reliability(logits, labels, 4)
    np.testing.assert_array_equal(found.edges, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_array_equal(found.count, [0, 0, 1, 2])
    np.testing.assert_allclose(found.confidence, [np.nan, np.nan, 0.5, 0.9])
    np.testing.assert_array_equal(found.accuracy, [np.nan, np.nan, 1, 0.5])
    assert found.error == pytest.approx((0.5 + 2 * 0.4) / 3)
    one = calibration.reliability(logits, labels, 1)
    np.testing.assert_array_equal(one.edges, [0, 1])
    assert one.error == pytest.approx(2.3 / 3 - 2 / 3)
    middle = calibration.reliability(logits[:1], labels[:1], 3)
    np.testing.assert_array_equal(middle.count, [0, 1, 0])
    assert middle.error == pytest.approx(0.5)


def test_temperatures_in_closed_form_and_without_a_minimum():
    """Right in 3 of 4 by a margin of 2: T = 2 / log 3. Always right, and always wrong: the ends."""
    logits = np.tile([[2.0, 0]], (4, 1))
    found = calibration.fit_temperature(logits, np.array([0, 1, 0, 0]))
    assert found == pytest.approx(2 / np.log(3), rel=1e-4)
    right, labels = np.array([[2.0, 0], [0, 1.5], [3, 1]]), np.array([0, 1, 0])
    lowest = np.log(calibration.fit_temperature(right, labels))
    assert lowest == pytest.approx(-20, abs=0.251)  # a quarter is flat to the last bit
    small = calibration.fit_temperature(1e-9 * right, labels)
    assert np.log(small) == pytest.approx(-20, abs=1e-3)  # where it is not
    assert np.log(calibration.fit_temperature(-right, labels)) == pytest.approx(20, abs=1e-3)
