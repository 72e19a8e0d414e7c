"""The classifier: accurate, sure of real digits, unsure of what is none; its summary by hand."""

from contextlib import nullcontext

import numpy as np
import pytest
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression

from ebm_jax import data
from ebm_jax.evaluation.fidelity import classifier as fidelity_classifier
from ebm_jax.evaluation.fidelity.classifier import summarize_logits, train_classifier


@pytest.fixture(scope="module")
def digits():
    halves = [data.load_dataset("digits", split) for split in ("train", "test")]
    (x, labels), (unseen, classes) = ((h.images / 127.5 - 1, h.labels) for h in halves)
    return train_classifier(x, labels, 10), x, labels, unseen, classes


def test_real_digits(digits):
    classifier, _, _, unseen, classes = digits
    summary = summarize_logits(classifier.logits(unseen), classes)
    assert (summary.num_images, classifier.num_training) == (896, 901)
    assert summary.accuracy > 0.97
    assert 0.93 < summary.median_confidence < 0.97
    own = np.bincount(classes, minlength=10) / len(classes)
    np.testing.assert_allclose(summary.class_share, own, atol=0.01)


def test_it_is_not_sure_of_what_is_no_digit(digits):
    classifier, x, labels, _, _ = digits
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(500, 8, 8, 1))
    pairs = rng.permutation(len(x)).reshape(-1)[:800].reshape(2, 400)
    pairs = pairs[:, labels[pairs[0]] != labels[pairs[1]]]
    blends = (x[pairs[0]] + x[pairs[1]]) / 2
    gaussian = rng.multivariate_normal(
        x.mean(0).ravel(), np.cov(x.reshape(-1, 64), rowvar=False), 500
    )
    for images, bound in ((noise, 0.45), (blends, 0.6), (gaussian, 0.65)):
        assert summarize_logits(classifier.logits(images)).median_confidence < bound


def test_training_again_gives_the_same(digits):
    classifier, x, labels, unseen, _ = digits
    again = train_classifier(x, labels, 10)
    np.testing.assert_allclose(again.logits(unseen), classifier.logits(unseen), atol=1e-6)


def test_scale_and_offset_are_applied_in_training_and_after(digits):
    classifier, x, labels, unseen, _ = digits
    again = train_classifier(2 * x + 1, labels, 10, scale=0.5, offset=-0.5)
    expected = classifier.logits(unseen)
    np.testing.assert_allclose(again.logits(unseen), expected, atol=1e-6)
    found = classifier.logits(4 * unseen - 1, scale=0.25, offset=0.25)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_logits_are_log_probabilities_without_their_mean(digits):
    logits = digits[0].logits(digits[3][:50])
    assert logits.shape == (50, 10)
    np.testing.assert_allclose(logits.sum(1), 0, atol=1e-9)


def test_summary_by_hand():
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.0, 0.1, 0.9], [0.8, 0.1, 0.1]])
    with np.errstate(divide="ignore"):
        logits = np.maximum(np.log(probabilities), -800)  # underflows beside the others
    summary = summarize_logits(logits, np.array([0, 1, 1, 0]))
    assert summary.num_images == 4
    np.testing.assert_allclose(summary.class_share, [0.5, 0.25, 0.25])
    assert summary.median_confidence == pytest.approx(0.75)
    assert summary.accuracy == 0.75
    assert summarize_logits(logits[:2]).accuracy is None


@pytest.mark.parametrize("classes", [2, 3])
def test_overlapping_gaussians_get_their_posterior(classes):
    """Well inside the data, confidence is the Bayes posterior's, as regression is calibrated."""
    rng = np.random.default_rng(1)
    means = 2.0 * np.arange(classes)[:, None]
    labels = rng.integers(0, classes, 6_000)
    x = means[labels] + rng.normal(size=(6_000, 1))
    classifier = train_classifier(x, labels, classes)
    points = np.linspace(-1, 2 * classes - 1, 9)[:, None]
    logits = classifier.logits(points)
    got = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    posterior = np.exp(-((points - means.T) ** 2) / 2)
    posterior /= posterior.sum(1, keepdims=True)
    np.testing.assert_allclose(got, posterior, atol=0.06)


def test_refusals():
    with pytest.raises(ValueError, match=r"there is none of \[1\]"):
        train_classifier(np.zeros((4, 2)), np.array([0, 0, 2, 2]), 3)
    with pytest.raises(ValueError, match="a classifier of 1 classes needs two or more"):
        train_classifier(np.zeros((4, 2)), np.zeros(4, int), 1)


def test_of_a_large_set_a_fixed_choice_is_trained_on(digits, monkeypatch):
    """So many, in the order of the set, with their own labels."""
    _, x, labels, unseen, classes = digits
    monkeypatch.setattr(fidelity_classifier, "_MAX_TRAINING", 400)
    chosen = np.sort(np.random.default_rng(0).permutation(len(x))[:400])
    found = train_classifier(x, labels, 10)
    assert found.num_training == 400
    expected = train_classifier(x[chosen], labels[chosen], 10).logits(unseen)
    np.testing.assert_allclose(found.logits(unseen), expected, atol=1e-9)
    assert np.mean(expected.argmax(1) == classes) > 0.93


def test_it_is_scikit_learns_of_these_features(digits):
    """The kernel's width is that of all values together; logits as of its log probabilities."""
    classifier, x, labels, unseen, _ = digits
    flat = x.reshape(len(x), -1)
    basis = Nystroem(gamma=1 / (64 * flat.var()), n_components=len(x), random_state=0)
    model = LogisticRegression(C=fidelity_classifier._INVERSE_PENALTY, max_iter=1_000)
    model.fit(basis.fit_transform(flat), labels)
    expected = model.predict_log_proba(basis.transform(unseen.reshape(len(unseen), -1)))
    expected -= expected.mean(1, keepdims=True)
    np.testing.assert_allclose(classifier.logits(unseen), expected, atol=0.02)


def test_about_a_fixed_choice_of_many_images(monkeypatch):
    """So many centers, scikit-learn's choice of seed 0; images come in blocks of any size."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(40, 3)), np.arange(40) % 3
    monkeypatch.setattr(fidelity_classifier, "_MAX_CENTERS", 7)
    asked, limits = [], []
    with monkeypatch.context() as patch:
        patch.setattr(
            "threadpoolctl.threadpool_limits", lambda n: limits.append(n) or nullcontext()
        )
        patch.setattr(
            "sklearn.linear_model.LogisticRegression",
            lambda **how: asked.append(how) or LogisticRegression(**how),
        )
        classifier = train_classifier(x, labels, 3)
    assert asked == [{"C": 10.0, "max_iter": 1_000}]  # steps, of which few sets need a hundred
    assert limits == [1]  # the order of sums is that of one thread
    basis = Nystroem(gamma=1 / (3 * x.var()), n_components=7, random_state=0)
    model = LogisticRegression(C=10.0, max_iter=1_000).fit(basis.fit_transform(x), labels)
    expected = model.decision_function(basis.transform(x))
    logits = classifier.logits(x)
    np.testing.assert_allclose(logits, expected - expected.mean(1, keepdims=True), atol=1e-6)
    monkeypatch.setattr(fidelity_classifier, "_BLOCK", 9)
    np.testing.assert_allclose(classifier.logits(x), logits, rtol=1e-12)
    assert classifier.num_training == 40
