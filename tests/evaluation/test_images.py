"""Image quality: real images get the floor; what pixels cannot see, the classifier's logits do."""

import numpy as np
import pytest

from ebm_jax import data
from ebm_jax.evaluation.fidelity import classifier
from ebm_jax.evaluation.fidelity.frechet import fit_gaussian, frechet_distance
from ebm_jax.evaluation.images.quality import RealImages
from ebm_jax.tasks import _image_quality as report


@pytest.fixture(scope="module")
def halves():
    return tuple(data.load_dataset("digits", split) for split in ("train", "test"))


def in_model_units(images, low, high):
    return low + (high - low) * images.astype(np.float64) / 255


@pytest.fixture(scope="module")
def real_quality(halves):
    """The held-out digits evaluated as if they were samples, in units from 0 to 1."""
    samples = in_model_units(halves[1].images, 0, 1)
    return RealImages(*halves, low=0, high=1).quality(samples)


def test_real_held_out_digits_get_the_floor(real_quality):
    """.3253: in [-1, 1] whatever the model's units are."""
    for distance in (real_quality.pixel, real_quality.logits):
        assert distance.samples == pytest.approx(distance.floor, rel=1e-9)
        assert distance.samples_as_held_out == pytest.approx(distance.floor, rel=1e-9)
        assert distance[3:] == (896, 896, 901)
    assert real_quality.pixel.floor == pytest.approx(0.3253, abs=1e-4)
    assert real_quality.share_outside == 0
    np.testing.assert_array_equal(
        real_quality.samples.class_share, real_quality.held_out.class_share
    )
    assert real_quality.samples.median_confidence == real_quality.held_out.median_confidence
    assert (real_quality.samples.accuracy, real_quality.num_training) == (None, 901)
    assert real_quality.held_out.accuracy > 0.97


def test_a_gaussian_of_the_right_moments_fools_pixels_and_not_logits(halves):
    rows = in_model_units(halves[0].images, -1, 1).reshape(-1, 64)
    rng = np.random.default_rng(0)
    samples = rng.multivariate_normal(rows.mean(0), np.cov(rows, rowvar=False), 1_000)
    found = RealImages(*halves, low=-1, high=1).quality(samples.reshape(-1, 8, 8, 1))
    assert found.pixel.samples < found.pixel.floor
    assert found.pixel.samples < found.pixel.samples_as_held_out  # the bias of fewer samples
    assert found.logits.samples > 10 * found.logits.floor
    assert found.samples.median_confidence < 0.65
    assert 0.2 < found.share_outside < 0.5


def test_a_class_that_is_never_generated_is_noticed(halves):
    _training, held_out = halves
    samples = in_model_units(held_out.images[held_out.labels != 6], -1, 1)
    found = RealImages(*halves, low=-1, high=1).quality(samples)
    assert found.samples.class_share.argmin() == 6
    assert found.samples.class_share[6] < 0.01
    assert found.pixel.samples_as_held_out is None  # there are fewer
    assert "(class 6)" in "\n".join(report.lines(found, "digits"))


def test_too_few_samples_get_the_reason_for_no_distance(halves):
    samples = in_model_units(halves[1].images[:50], -1, 1)
    found = RealImages(*halves, low=-1, high=1).quality(samples)
    assert found.pixel is None
    assert "50 examples leave the covariance of 64 features singular" in found.why_undefined
    assert found.logits is not None
    lines = report.lines(found, "digits")
    assert lines[0].startswith("Frechet distance over pixels: not measured, as 50 examples")
    metrics = report.metrics(found, *halves)
    assert metrics["frechet_distance_to_training"]["over_pixels"] is None
    assert metrics["frechet_distance_not_measured"] == found.why_undefined


def test_data_without_classes_get_the_pixel_distance_alone(halves):
    training, held_out = (half._replace(num_classes=1, labels=0 * half.labels) for half in halves)
    samples = in_model_units(held_out.images, -1, 1)
    found = RealImages(training, held_out, low=-1, high=1).quality(samples)
    assert found.pixel.samples == pytest.approx(0.3253, abs=1e-4)
    assert found[3:] == (None,) * 4
    assert "classifier" not in report.metrics(found, training, held_out)
    assert len(report.lines(found, "digits")) == 3
    assert report.figure(found, held_out.images, held_out).dtype == np.uint8


def test_the_classifier_is_trained_once_for_all_samples(halves, monkeypatch):
    trained, usual = [], classifier.train_classifier

    def train_classifier(*args, **kwargs):
        trained.append(args)
        return usual(*args, **kwargs)

    monkeypatch.setattr(classifier, "train_classifier", train_classifier)
    real, samples = RealImages(*halves, low=-1, high=1), in_model_units(halves[1].images, -1, 1)
    first, last = real.quality(samples[:100]), real.quality(samples)
    assert len(trained) == 1
    assert first.logits.floor == last.logits.floor == pytest.approx(last.logits.samples)


def test_the_table_says_what_was_measured_on_what(real_quality):
    assert report.lines(real_quality, "digits")[:3] == [
        "Frechet distance over pixels, to the 901 training images of digits",
        "  896 samples                      0.325",
        "  896 real held-out images         0.325",
    ]


def test_dequantized_samples_are_compared_with_the_middles_of_cells(halves):
    """Real images, dequantized, add 1/12 of a cell to every variance and nothing to the means."""
    rng = np.random.default_rng(0)
    samples = (halves[1].images + rng.uniform(size=halves[1].images.shape)) / 256
    found = RealImages(*halves, low=0, high=1, dequantized=True).quality(samples)
    assert found.share_outside == 0
    # By hand: the same images in the middles of their cells.
    rows = [(half.images.reshape(-1, 64) + 0.5) / 128 - 1 for half in halves]
    floor = frechet_distance(*(fit_gaussian(row) for row in rows))
    assert found.pixel.floor == pytest.approx(floor, rel=1e-9)
    assert found.pixel.floor == pytest.approx(0.3253 * (255 / 256) ** 2, abs=2e-4)
    # Pixels that never vary have the variance 1/12 (1/128)^2 in the samples alone.
    assert found.pixel.samples == pytest.approx(floor, abs=64 / 12 / 128**2)
    assert found.samples.median_confidence == pytest.approx(
        found.held_out.median_confidence, abs=1e-3
    )


def test_refusals(halves):
    samples = in_model_units(halves[1].images, -1, 1)
    with pytest.raises(ValueError, match="differ in shape"):
        RealImages(*halves, low=-1, high=1).quality(samples[:, :, :7])
    with pytest.raises(ValueError, match="training and held-out images differ in shape"):
        RealImages(halves[0], halves[1]._replace(images=halves[1].images[:, 1:]), low=-1, high=1)
    samples[3, 2, 1, 0] = samples[3, 2, 5, 0] = samples[3, 0, 1, 0] = samples[5, 7, 7, 0] = np.nan
    with pytest.raises(ValueError, match=r"^2 of 896 samples have non-finite values"):
        RealImages(*halves, low=-1, high=1).quality(samples)
