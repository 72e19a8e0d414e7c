"""Figures by hand: errors of factors, a softmax network's loss, baselines, reliable small cases."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ebm_jax.data import Dataset
from ebm_jax.evaluation.classification import calibration, continual
from ebm_jax.evaluation.classification.attacks import project, scores_of_logits
from ebm_jax.evaluation.classification.softmax import SoftmaxClassifier, softmax_classifier
from ebm_jax.evaluation.density import baselines, grid2d, log_likelihood, long_run
from ebm_jax.evaluation.fidelity import frechet
from ebm_jax.evaluation.fidelity.classifier import (
    summarize_logits,
    supports,
    train_classifier,
)
from ebm_jax.evaluation.fidelity.inception_scores import inception_score, kernel_inception_distance
from ebm_jax.evaluation.fidelity.memorization import ks_test, nearness
from ebm_jax.evaluation.images import factor_regressor, quality
from ebm_jax.evaluation.images.errors import image_error
from ebm_jax.evaluation.images.factor_regressor import FactorRegressor
from ebm_jax.evaluation.level_energies import evenly_spaced_levels, ood_scores
from ebm_jax.evaluation.ood import auroc
from ebm_jax.evaluation.trajectories.errors import squared_error
from ebm_jax.evaluation.trajectories.next_state import NextStatePredictor
from ebm_jax.networks.ensemble import Ensemble

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 1)).astype(np.uint8)


def test_errors_of_factors(monkeypatch):
    """Classes: the share read wrongly. Values: mean absolute differences. Errors of the means."""
    classes, values = np.array([0, 1, 2, 2]), np.array([[0.0, 1], [2, 1], [4, 1], [6, 1]])
    of_class = FactorRegressor(IMAGES[:4], classes, num_classes=3, num_steps=1)
    monkeypatch.setattr(of_class, "read", lambda images: np.array([0, 1, 1, 0]))
    found = of_class.errors(IMAGES[:4], classes)
    assert found == pytest.approx((0.5, np.std([0, 0, 1, 1], ddof=1) / 2))
    assert [type(figure) for figure in found] == [float, float]
    of_values = FactorRegressor(IMAGES[:4], values, num_classes=1, num_steps=1)
    assert of_values.read(IMAGES).shape == (6, 2)
    read = values + np.array([[1, 0], [0, 2], [0, 0], [3, 3]])
    monkeypatch.setattr(of_values, "read", lambda images: read)
    found = of_values.errors(IMAGES[:4], values)
    assert found == pytest.approx((9 / 8, np.std([0.5, 1, 0, 3], ddof=1) / 2))


def test_readings_are_in_the_units_of_the_labels(monkeypatch):
    """0 of the network is the labels' mean, 1 a standard deviation more; a constant stays so."""
    values = np.array([[0.0, 7], [2, 7], [4, 7], [6, 7]])
    regressor = FactorRegressor(IMAGES[:4], values, num_classes=1, num_steps=1)
    for given, expected in ((0.0, [3, 7]), (1.0, [3 + np.sqrt(5), 8])):
        monkeypatch.setattr(
            regressor, "_apply", lambda params, x, given=given: jnp.full((len(x), 2), given)
        )
        np.testing.assert_allclose(regressor.read(IMAGES), [expected] * 6, rtol=1e-6)
    classes = FactorRegressor(IMAGES[:4], np.arange(4), num_classes=4, num_steps=1)
    assert classes.read(IMAGES).shape == (6,)


def test_labels_that_vary_little_are_read_in_their_units(monkeypatch):
    """Also images of more than one block."""
    values = np.array([[0.1], [0.3], [0.1], [0.3]])  # 0.2 +- 0.1
    regressor = FactorRegressor(IMAGES[:4], values, num_classes=1, num_steps=1)
    monkeypatch.setattr(factor_regressor, "_BATCH", 2)
    monkeypatch.setattr(factor_regressor, "_BATCHES", 2)
    monkeypatch.setattr(regressor, "_apply", lambda params, x: x[:, 0, 0])
    places = 2 * IMAGES[:, 0, 0].astype(float) / 255 - 1  # of six images, four at once
    np.testing.assert_allclose(regressor.read(IMAGES), 0.2 + 0.1 * places, rtol=1e-5)


def test_layers_of_the_regressor():
    """Of 40 pixels 20, 10, 5 and 3 are left, of at most 64 channels; then a layer of 64."""
    network = factor_regressor._Network(5)
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 40, 40, 2)))["params"]
    assert {name: layer["kernel"].shape for name, layer in shapes.items()} == {
        "Conv_0": (3, 3, 2, 16), "Conv_1": (3, 3, 16, 32), "Conv_2": (3, 3, 32, 64),
        "Conv_3": (3, 3, 64, 64), "Dense_0": (3 * 3 * 64, 64), "Dense_1": (64, 5),
    }  # fmt: skip
    few = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 4, 4, 2)))["params"]
    assert {name: layer["kernel"].shape for name, layer in few.items()} == {
        "Dense_0": (32, 64), "Dense_1": (64, 5),
    }  # fmt: skip


class Linear(nn.Module):
    """Logits 0, x and 2 x of vectors of one value."""

    num_classes: int | None = None
    num_outputs: int = 3

    @nn.compact
    def __call__(self, x):
        weight = self.param("weight", nn.initializers.ones, ())
        return weight * x * jnp.arange(3.0)


def test_the_loss_of_a_softmax_network():
    """x = log 2: probabilities 1, 2, 4 of seven; among the first two alone 1 and 2 of three."""
    classifier = SoftmaxClassifier(Linear(), has_norm=False)
    x = jnp.full((4, 1), jnp.log(2.0))
    batch = {"image": x, "label": jnp.array([2, 2, 0, 1])}
    params = {"weight": jnp.ones(())}
    loss, (_, metrics) = classifier.loss(params, (), batch, jax.random.key(0))
    assert float(loss) == pytest.approx(-np.mean(np.log([4 / 7, 4 / 7, 1 / 7, 2 / 7])))
    assert float(metrics["accuracy"].value()) == 0.5
    some = batch | {
        "label": jnp.array([1, 1, 0, 1]),
        "is_candidate": jnp.tile(jnp.array([True, True, False]), (4, 1)),
    }
    loss, (_, metrics) = classifier.loss(params, (), some, jax.random.key(0))
    assert float(loss) == pytest.approx(-np.mean(np.log([2 / 3, 2 / 3, 1 / 3, 2 / 3])))
    assert float(metrics["accuracy"].value()) == 0.75
    np.testing.assert_allclose(
        classifier.logits(params, x[:1]), [[0, np.log(2), np.log(4)]], rtol=1e-6
    )


def test_the_softmax_network_beside_one_with_classes():
    found = softmax_classifier(Linear(num_classes=5), has_norm=False).network
    assert (found.num_classes, found.num_outputs) == (None, 5)
    together = Ensemble(base=Linear(num_classes=4), num_members=2, combine="mean")
    assert softmax_classifier(together, has_norm=True).network.num_outputs == 4
    with pytest.raises(ValueError, match="baseline: expected 'none', as Dense has no head"):
        softmax_classifier(nn.Dense(3), has_norm=True)


@pytest.mark.parametrize(
    "made",
    [
        SoftmaxClassifier(nn.Dense(3)), NextStatePredictor(nn.Dense(3)),
        quality.RealImages(*[Dataset("a", "train", IMAGES, np.arange(6), 6, (0, 255))] * 2, -1, 1),
        quality._RealFeatures(IMAGES, IMAGES, {}),
    ],
    ids=lambda made: type(made).__name__,
)  # fmt: skip
def test_what_programs_and_fits_are_kept_by_stays_as_it_is(made):
    for field in dataclasses.fields(made):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(made, field.name, None)
    if isinstance(made, SoftmaxClassifier | NextStatePredictor):
        assert made != dataclasses.replace(made)  # each has programs of its own


def test_scores_of_logits():
    """Cross-entropy, and the true logit less the largest other."""
    logits = jnp.log(jnp.array([[1.0, 2, 5], [1, 2, 5]]))
    loss, margin = scores_of_logits(logits, jnp.array([2, 1]))
    np.testing.assert_allclose(loss, -np.log([5 / 8, 2 / 8]), rtol=1e-6)
    np.testing.assert_allclose(margin, np.log([5 / 2, 2 / 5]), rtol=1e-6)


def test_projections():
    change = jnp.array([[3.0, -4.0], [0.3, 0.4], [0.0, 0.0]])
    radius = jnp.array([1.0, 1.0, 0.0])
    np.testing.assert_allclose(
        project(change, radius, "l2"), [[0.6, -0.8], [0.3, 0.4], [0, 0]], rtol=1e-6
    )
    np.testing.assert_allclose(
        project(change, radius, "linf"), [[1, -1], [0.3, 0.4], [0, 0]], rtol=1e-6
    )


def test_small_images_with_classes_have_a_classifier():
    assert supports(2, (32, 32, 1))
    assert not supports(2, (32, 33, 1))
    assert not supports(1, (8, 8, 1))


def test_what_a_classifier_says_of_images():
    """Softmax of 0 and log 3: 1/4 and 3/4."""
    logits = np.log(np.array([[1.0, 3, 1e-30], [3, 1, 1e-30], [1, 9, 1e-30]]))
    found = summarize_logits(logits, np.array([1, 1, 1]))
    assert found.num_images == 3
    np.testing.assert_allclose(found.class_share, [1 / 3, 2 / 3, 0])
    assert found.median_confidence == pytest.approx(0.75)
    assert found.accuracy == pytest.approx(2 / 3)
    assert summarize_logits(logits).accuracy is None


def test_a_classifier_of_two_classes_has_two_logits():
    """They add up to 0, and scale and offset are those of what it was trained on."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 2
    x = labels[:, None] * 2.0 + 0.1 * rng.normal(size=(60, 3))
    classifier = train_classifier(x, labels, 2)
    logits = classifier.logits(x)
    np.testing.assert_allclose(logits.sum(1), 0, atol=1e-12)
    np.testing.assert_array_equal(logits.argmax(1), labels)
    np.testing.assert_allclose(classifier.logits(x / 2 - 1, scale=2.0, offset=2.0), logits)
    scaled = train_classifier(x / 2 - 1, labels, 2, scale=2.0, offset=2.0)
    np.testing.assert_allclose(scaled.logits(x), logits, rtol=1e-6)
    assert (classifier.num_classes, classifier.num_training) == (2, 60)
    for wrong in (1, 3):
        with pytest.raises(ValueError, match="needs two or more, each with an image"):
            train_classifier(x, labels if wrong == 3 else 0 * labels, wrong)


def test_errors_of_images():
    """Squares .01 and .09 of a range of 2: their mean .05."""
    true = np.zeros((2, 2, 2, 1))
    images = np.stack([np.full((2, 2, 1), 0.2), np.full((2, 2, 1), -0.6)])
    found = image_error(images, true, value_range=2.0)
    assert found.rmse == pytest.approx(np.sqrt(0.05))
    assert found.standard_error == pytest.approx(0.04 / (2 * np.sqrt(0.05)))
    assert found.psnr == pytest.approx(-10 * np.log10(0.05))
    counted = np.zeros((2, 2, 1), bool)
    counted[0] = True
    images[:, 1] = 9
    again = image_error(images, true, value_range=2.0, counted=counted)
    assert again == pytest.approx(found)
    assert image_error(true, true, value_range=2.0) == (0.0, 0.0, np.inf)
    assert np.isnan(image_error(images[:1], true[:1], value_range=2.0).standard_error)


def dataset(images, split):
    return Dataset("x", split, images, np.zeros(len(images), np.int32), 1, (0.0, 255.0))


def test_share_of_values_outside_and_equal_numbers():
    """At the ends is inside; distances of the first as many as are held out."""
    rng = np.random.default_rng(0)
    train, held_out = (rng.integers(0, 256, (n, 2, 1, 1)).astype(np.uint8) for n in (40, 10))
    x = rng.uniform(0, 1, (20, 2, 1, 1))
    x[:4] = np.array([0.0, 1.0, -0.01, 1.01])[:, None, None, None]
    real = quality.RealImages(dataset(train, "train"), dataset(held_out, "test"), low=0.0, high=1.0)
    found, alone = real.quality(x), real.quality(x[:10])
    assert found.share_outside == pytest.approx(4 / 40)
    assert found.pixel.samples_as_held_out == pytest.approx(alone.pixel.samples)
    assert found.pixel.samples != pytest.approx(alone.pixel.samples)
    assert (found.pixel.num_samples, found.pixel.num_held_out, found.pixel.num_training) == (
        20, 10, 40,
    )  # fmt: skip


def test_likelihoods_of_baselines():
    values = np.array([1.0, 2.0, 6.0])
    found = baselines.Likelihood.of(values)
    assert found == pytest.approx((3.0, np.std(values, ddof=1) / np.sqrt(3)))
    assert np.isnan(baselines.Likelihood.of(values[:1]).standard_error)
    assert baselines.Likelihood.of(values[1:]) == pytest.approx((4.0, 2.0))
    held = baselines.Baseline(1, {"held out": values})
    assert held.margin("held out", [-4, -3, -2]) == pytest.approx(  # 3, 1 and -4 more
        (0.0, np.std([3, 1, -4], ddof=1) / np.sqrt(3))
    )
    assert baselines.Baseline(1, {}).name == "one Gaussian"
    assert baselines.Baseline(2, {}).name == "a mixture of 2 Gaussians"


def test_a_gaussian_and_its_noise():
    """Variances 1 and 0, plus sigma^2; without noise a millionth of their mean."""
    x = np.array([[1.0, 5.0], [-1.0, 5.0]])
    found = baselines.fit_gaussian(x, 0.5)
    np.testing.assert_allclose(found.covariances[0], [[1.25, 0], [0, 0.25]])
    np.testing.assert_allclose(found.means, [[0, 5]])
    assert found.num_components == 1
    without = baselines.fit_gaussian(x, 0.0)
    np.testing.assert_allclose(without.covariances[0], [[1 + 5e-7, 0], [0, 5e-7]])
    expected = -0.5 * (1 / 1.25 + np.log(1.25) + np.log(0.25)) - np.log(2 * np.pi)
    np.testing.assert_allclose(found.log_density(x), expected)
    line = baselines.fit_gaussian(np.array([[1.0], [3.0]]), 1.0)
    np.testing.assert_allclose(line.covariances, [[[2.0]]])


@pytest.mark.filterwarnings("error")
def test_bits_and_joined_errors():
    """Four values of width 1/2: -log p = 4 log 2 nats is one bit each and one for the width."""
    units = log_likelihood.Units(4, 0.5)
    assert units.bits_per_dim(-4 * np.log(2)) == pytest.approx(2.0)
    energy = log_likelihood.split_energy(np.array([1.0, 3.0, 5.0]))
    assert energy == pytest.approx((3.0, 2 / np.sqrt(3), 3))
    assert np.isnan(log_likelihood.split_energy(np.ones(1)).standard_error)
    assert log_likelihood.split_energy([1, 4]) == pytest.approx((2.5, 1.5, 2))
    weights = np.log([1.0, 3.0])
    for reverse, wanted in ((False, 5 + np.log(2)), (True, 5 - np.log(2))):
        found = log_likelihood.estimate(weights, 5.0, reverse=reverse)
        assert found == pytest.approx((wanted, 0.5, 1.6), rel=1e-5)
    bracket = log_likelihood.Bracket(
        9,
        log_likelihood.Estimate(1.0, 3.0, 2.0),
        log_likelihood.Estimate(2.5, 4.0, 2.0),
    )
    assert bracket.width == 1.5
    found = log_likelihood.log_likelihoods(energy._replace(standard_error=4.0), bracket)
    assert found == pytest.approx(
        {"lower": -5.5, "upper": -4.0, "standard_error_lower": np.sqrt(32),
         "standard_error_upper": 5.0}
    )  # fmt: skip


def test_levels_and_scores_of_them():
    assert evenly_spaced_levels(6, 10).tolist() == [0, 1, 2, 3, 4, 5]
    assert evenly_spaced_levels(10, 4).tolist() == [0, 3, 6, 9]
    assert evenly_spaced_levels(5, 1).tolist() == [0]
    with pytest.raises(ValueError, match="max_levels: expected at least 1, got 0"):
        evenly_spaced_levels(5, 0)
    found = {"energy": np.array([[1.0, 2.0], [3.0, 5.0]]), "grad_norm": np.array([[7, 8], [9, 6]])}
    training = {"energy": np.array([[2.0, 2.0], [4.0, 4.0]])}  # sums 4 and 8
    scores = ood_scores(found, training, np.array([0, 3]))
    assert {name: values.tolist() for name, values in scores.items()} == {
        "energy 0": [1, 3], "energy 3": [2, 5], "energy, sum": [3, 8], "typicality": [3, 2],
        "gradient norm 0": [7, 9], "gradient norm 3": [8, 6],
    }  # fmt: skip
    one = ood_scores({k: v[:, :1] for k, v in found.items()}, training, np.array([0]))
    assert list(one) == ["energy", "typicality", "gradient norm"]


def test_memorization():
    """Means 1 and 4, variances 1 and 4: the gap is 3 over the root of 2.5."""
    training, held_out = np.array([0.0, 2.0]), np.array([2.0, 6.0])
    found = ks_test(training, held_out)
    assert found.gap == pytest.approx(3 / np.sqrt(2.5))
    assert found.statistic == 0.5
    assert ks_test(np.ones(3), np.ones(3)).gap == 0
    with pytest.raises(ValueError, match="not finite"):
        ks_test(np.array([np.inf, 1.0]), held_out)
    others = np.zeros((1, 2))
    near, x, y = nearness(
        np.array([[1.0, 0], [0, 2], [3, 0]]), np.array([[2.0, 0], [4, 0]]), others
    )
    assert near == pytest.approx((2.0, 3.0, 2 / 3))  # 1 % of the way from 2 to 4: 2.02
    assert (x.tolist(), y.tolist()) == ([1, 2, 3], [2, 4])


def test_squared_errors_of_one_trajectory():
    found = squared_error(np.array([[1.0, 3.0]]), np.zeros((1, 2)))
    assert found.mean == 5
    assert np.isnan(found.standard_error)


def test_figures_are_pythons_own_numbers():
    """Whatever they are computed with: float and int, as the annotations say."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(12, 3)), np.arange(12) % 3
    x, y = rng.normal(size=(2, 12, 2)).astype(np.float32)
    fits = frechet.fit_gaussian(x), frechet.fit_gaussian(y)
    grid = grid2d.Grid(2.0, 4)
    learned = grid2d.learned_density(lambda y: jnp.sum(y**2, -1), grid)
    compared = grid2d.compare(learned.log_density, learned.log_density, grid)
    energy = log_likelihood.split_energy(x[:, 0])
    estimates = [log_likelihood.estimate(x[:, 0], 1.0, reverse=way) for way in (False, True)]
    bracket = log_likelihood.Bracket(9, *estimates)
    images = x.reshape(12, 2, 1, 1)
    real, _ = long_run.reference(images, x[:, 0], 4, low=-1, high=1)
    record = long_run.record(
        0, 0, images, images, y[:, 0], images, 1.0, real, low=-1, high=1
    )  # fmt: skip
    draws = rng.normal(size=(8, 4, 3)).astype(np.float32)
    summary = summarize_logits(logits, labels)
    scores = continual.scores(logits[None], labels, ((0, 1), (2,)))
    quality_of = quality.RealImages(
        dataset(IMAGES[:, :1, :2], "train"), dataset(IMAGES[:5, :1, :2], "test"), low=0, high=1
    ).quality(np.zeros((6, 1, 2, 1), np.float32))
    figures = [
        calibration.accuracy(logits, labels), calibration.negative_log_likelihood(logits, labels),
        calibration.reliability(logits, labels, 2).error,
        *calibration.cross_fitted(logits, labels)[1],
        *auroc(x[:, 0], y[:, 0], num_bootstrap=2, seed=0), *image_error(x, y, value_range=1.0),
        *squared_error(x, y), *ks_test(x[:, 0], y[:, 0]), *nearness(x, y, y)[0],
        *baselines.Likelihood.of(x[:, 0]), baselines._added_variance(x, 0.0),
        energy.mean, energy.standard_error, *estimates[0], *estimates[1],
        *log_likelihood.log_likelihoods(energy, bracket).values(),
        log_likelihood.Units(3, 0.5).bits_per_dim(np.float64(3.0)),
        learned.log_z, *compared, grid2d.sample_distance(x, np.ones((2, 2)), grid),
        *inception_score(logits, num_splits=2), frechet.frechet_distance(*fits),
        *kernel_inception_distance(x, y, num_subsets=3, subset_size=4)[:3],
        summary.median_confidence, summary.accuracy,
        real.energy, real.energy_std, real.contrast, real.frechet_floor, real.frechet_floor_std,
        *record[2:], *long_run.r_hat(draws, draws[..., 0]).values(),
        *long_run.r_hat(draws[:3], draws[:3, :, 0]).values(),
        scores.final, scores.mean_of_tasks, scores.final_within, scores.centered,
        quality_of.share_outside, quality_of.pixel.samples, quality_of.pixel.floor,
    ]  # fmt: skip
    assert [type(figure) for figure in figures] == [float] * len(figures)
