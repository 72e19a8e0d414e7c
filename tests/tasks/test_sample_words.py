"""What the modes say of samples and predictions that are given, word by word; JSON by hand."""

import types

import numpy as np
import pytest

from ebm_jax.data import Dataset
from ebm_jax.evaluation.fidelity.classifier import ClassifierSummary
from ebm_jax.evaluation.fidelity.features import INCEPTION_FEATURES
from ebm_jax.evaluation.fidelity.memorization import KSTest, Nearness
from ebm_jax.evaluation.images.errors import ImageError
from ebm_jax.evaluation.images.factor_regressor import FactorErrors
from ebm_jax.evaluation.images.quality import FrechetDistances, ImageQuality
from ebm_jax.evaluation.ood import Auroc
from ebm_jax.evaluation.trajectories.errors import SquaredError
from ebm_jax.runs.settings import ConfigError
from ebm_jax.tasks import (
    _image_quality,
    compose,
    fid,
    neighbours,
    ood,
    rollout,
)


def approx(values):
    return pytest.approx(values, rel=1e-9)


def test_trajectories_as_a_table():
    """Means over times of each draw: 2 and 4; their mean 3 and deviation sqrt 2."""
    frechet = np.array([[0.0, 2.0, 4.0], [0.0, 4.0, 8.0]])
    errors = {1: SquaredError(0.5, 0.125), 2: SquaredError(1.5, 0.25)}
    found = {
        "energies": rollout.Competitor(frechet, errors),
        "floor": rollout.Competitor(frechet[:1], None),
    }
    trained = types.SimpleNamespace(
        run=types.SimpleNamespace(dataset=types.SimpleNamespace(name="pendulum"))
    )
    assert rollout._lines(found, trained, 7, 2, (1, 2)) == [
        f"{'7 trajectories of pendulum, context 2':<44}    mean Frechet          MSE at 1"
        "          MSE at 2",
        f"  {'energies':<42}   3.000 ± 1.414     0.500 ± 0.125     1.500 ± 0.250",
        f"  {'floor':<42}           2.000",
    ]
    row = rollout._row(found["energies"])
    assert row["frechet"] == approx([0, 3, 6])
    assert row["mean_frechet"] == 3
    assert row["mean_frechet_of_each_draw"] == approx([2, 4])
    assert row["squared_errors"] == {
        "1": {"mean": 0.5, "standard_error": 0.125}, "2": {"mean": 1.5, "standard_error": 0.25},
    }  # fmt: skip
    assert "squared_errors" not in rollout._row(found["floor"])


@pytest.mark.parametrize("has_norm", [False, True])
def test_what_a_feed_forward_network_is_trained_with(monkeypatch, has_norm):
    """And what is kept of it depends on."""
    monkeypatch.setattr(rollout._updates, "train_beside", lambda *given, **named: (given, named))
    chosen = rollout.Settings(feed_forward_steps=30, spectral_norm=has_norm)
    given, named = rollout._trained("trained", chosen, "work", "predictor")
    assert given == ("trained", "work", "predictor")
    assert named["depends_on"] == {"spectral_norm": has_norm}
    assert (named["num_steps"], named["optimizer"]) == (30, {"b1": 0.9})


def test_errors_at_horizons_are_of_trajectories_and_not_of_draws():
    """At horizon h: the (context + h - 1)-th state. Draws off by 1 and 3: an error of 5."""
    rng = np.random.default_rng(0)
    true = rng.normal(size=(6, 4, 2))
    offset = np.zeros((6, 4, 2))
    offset[:, 2] = 1.0
    found = rollout._competitor([true + offset, true + 3 * offset], true, (1, 2), 2)
    assert found.errors[1] == approx((5.0, 0.0))
    assert found.errors[2] == approx((0.0, 0.0))
    assert found.frechet.shape == (2, 4)
    assert found.frechet[:, 2] == approx([2.0, 18.0])


def test_out_of_distribution_as_a_table():
    """The first level and the sums; the widest interval."""
    names = ["energy 0", "energy 9", "energy, sum"]
    table = {
        "noise": dict.fromkeys(names, Auroc(0.75, 0.7, 0.8)),
        "flipped_one": dict.fromkeys(names, Auroc(0.5, 0.25, 0.5)),
    }
    mean = dict.fromkeys(names, 0.625)
    assert ood._lines(table, mean, "digits, test", np.array([0, 9])) == [
        "AUROC, digits, test against",
        "                 energy 0  energy, sum",
        "  noise             0.750        0.750",
        "  flipped_one       0.500        0.500",
        "  mean              0.625        0.625",
        "  95 % intervals are at most 0.250 wide",
    ]


def test_memorization_as_a_table():
    found = neighbours._lines(
        {"energy": KSTest(0.1234, 0.000123, -0.5)}, {"pixels": Nearness(1.0, 2.0, 0.0125)}
    )
    assert found == [
        "energies of training and held-out images",
        "  energy          KS 0.123  p 0.000123  gap -0.50 standard deviations",
        "median distance to the nearest training image",
        "  pixels: samples 1.000, held out 2.000; 1.2% of the samples nearer than the nearest 1 % "
        "of held-out images",
    ]


SPLIT = Dataset("digits", "train", np.zeros((2, 8, 8, 1), np.uint8), np.zeros(2), 10, (0, 255))


def test_frechet_distances_as_a_table():
    metrics = {
        "name": "FID", "frechet_distance": 12.34567, "frechet_distance_over_pixels": 1.5,
        "kernel_distance": {"mean": 0.0123456, "standard_error": 0.001},
        "score": {"name": "Inception score", "mean": 9.5, "deviation": 0.25},
        "baselines": {
            "real images": {"split": "test", "num_images": 10_000, "frechet_distance": 1.25},
            "a Gaussian's samples": {"split": "train", "num_images": 50_000, "undefined": "so"},
        },
    }  # fmt: skip
    assert fid._lines(metrics, 50_000, SPLIT) == [
        "50,000 samples against digits, train",
        f"  {'FID':<58}    12.346",
        f"  {'the same of real images, test (10,000)':<58}     1.250",
        "  the same of a Gaussian's samples: none, as so",
        f"  {'Frechet distance over pixels in [-1, 1]':<58}     1.500",
        f"  {'KID over the same features':<58}   0.01235 ± 0.00100 (standard error)",
        f"  {'Inception score':<58}     9.500 ± 0.250 (over splits)",
    ]
    bare = {"name": "FID", "frechet_distance": 1.0, "score": {"name": "IS", "undefined": "so"}}
    bare |= {"baselines": {}}
    assert fid._lines(bare, 5, SPLIT)[1:] == [f"  {'FID':<58}     1.000", "  IS: none, as so"]
    alone = metrics | {"kernel_distance": {"mean": 0.5, "standard_error": None}}
    assert fid._lines(alone, 5, SPLIT)[5] == f"  {'KID over the same features':<58}   0.50000"


def test_names_of_frechet_distances():
    inception = types.SimpleNamespace(
        title=INCEPTION_FEATURES, details={"weights_origin": "someone's"}
    )
    other = types.SimpleNamespace(title="a classifier", details={})
    test = SPLIT._replace(split="test")
    assert fid._name(inception, 50_000, SPLIT) == "FID50k (weights: someone's)"
    assert fid._name(inception, 50_000, test) == "FID (weights: someone's)"
    assert fid._name(inception, 49_999, SPLIT) == "FID (weights: someone's)"
    assert fid._name(other, 50_000, SPLIT) == "Frechet distance over a classifier"


def test_words_of_composition():
    settings = types.SimpleNamespace(logic="and_not")
    assert [compose._word(settings, n, 3) for n in (2, 3)] == ["and", "and not"]
    assert compose._word(types.SimpleNamespace(logic="or"), 3, 3) == "or"
    assert compose._cell(FactorErrors(0.12345, 0.01)) == "0.123 +- 0.010"


def labeled(label_size, num_classes, label=""):
    dataset = types.SimpleNamespace(label_size=label_size, num_classes=num_classes, name="made")
    return types.SimpleNamespace(
        run=types.SimpleNamespace(dataset=dataset, data=types.SimpleNamespace(label=label))
    )


def test_labels_that_are_written():
    """A value, two values, and a class, for each of three images."""
    models = [labeled(1, 1), labeled(2, 1, "position"), labeled(0, 4)]

    def written(text):
        return compose._written_labels(models, compose.Settings(labels=text, num_images=3))

    one, two, classes = written("1; 0.25,-2 ;3")
    np.testing.assert_array_equal(one, [[1.0]] * 3)
    np.testing.assert_array_equal(two, [[0.25, -2.0]] * 3)
    np.testing.assert_array_equal(classes, [3, 3, 3])
    assert (one.dtype, two.dtype, classes.dtype) == (np.float32, np.float32, np.int32)
    assert written("1;0,0;0")[2].tolist() == [0, 0, 0]
    for text, said in (
        ("1;0,0", r"expected 3 labels, one per model, parted by ';', got 2: '1;0,0'"),
        ("1;0,0;4", "expected a class 0 to 3, got 4"),
        ("1;0,0;-1", "expected a class 0 to 3, got -1"),
        ("1;0,0;1.5", "expected a class 0 to 3, got 1.5"),
        ("1;0,0;1,2", "expected 1 values for made, got 2"),
        ("1;0;1", "expected 2 values for position, got 1"),
        ("1;red;1", "expected numbers, got 'red'"),
    ):
        with pytest.raises(ConfigError) as error:
            written(text)
        assert str(error.value) == f"compose.labels: {said}"


def test_models_that_cannot_be_composed():
    """Chains run on any energy in one method alone."""
    model = labeled(1, 1)
    model.run.dataset.example_shape = (2, 2, 1)
    model.run.data = types.SimpleNamespace(name="made", low=-1.0, high=1.0)
    model.run.method = object()
    model.run.config = types.SimpleNamespace(method=types.SimpleNamespace(name="some_method"))
    with pytest.raises(ConfigError) as error:
        compose._check([model], compose.Settings())
    assert str(error.value) == (
        "--mode=compose wants contrastive_divergence, whose chains run on any energy; got "
        "some_method in this workdir"
    )


def quality(**changes):
    pixel = FrechetDistances(
        num_samples=200, num_training=1_000, num_held_out=100, samples=3.0, floor=1.0,
        samples_as_held_out=2.0,
    )  # fmt: skip
    samples = ClassifierSummary(200, np.array([0.7, 0.1, 0.2]), 0.9, None)
    held_out = ClassifierSummary(100, np.array([0.25, 0.5, 0.25]), 0.95, 0.875)
    found = {
        "share_outside": 0.125, "pixel": pixel, "why_undefined": None, "samples": samples,
        "held_out": held_out, "num_training": 1_000, "logits": pixel._replace(samples=7.0),
    }  # fmt: skip
    return ImageQuality(**{k: v for k, v in (found | changes).items() if k in ImageQuality._fields})


def test_image_quality_as_a_table():
    assert _image_quality.lines(quality(), "digits") == [
        "Frechet distance over pixels, to the 1,000 training images of digits",
        "  200 samples                      3.000",
        "  first 100 of them                2.000",
        "  100 real held-out images         1.000",
        "classifier trained on 1,000 of these images",
        "                                 samples          held out",
        "  median confidence                0.900             0.950",
        "  rarest class           10.0% (class 1)   25.0% (class 0)",
        "  accuracy                             -             0.875",
        "Frechet distance over the classifier's logits",
        "  200 samples                      7.000",
        "  first 100 of them                2.000",
        "  100 real held-out images         1.000",
    ]
    few = quality(pixel=None, why_undefined="too few", samples=None, logits=None)
    assert _image_quality.lines(few, "digits") == [
        "Frechet distance over pixels: not measured, as too few"
    ]
    same = quality(logits=None, samples=None)
    as_many = same._replace(pixel=same.pixel._replace(num_samples=100))
    assert "first" not in "".join(_image_quality.lines(as_many, "digits"))
    unknown = quality(logits=None)
    unknown = unknown._replace(held_out=unknown.held_out._replace(accuracy=None))
    assert "  accuracy" not in "".join(_image_quality.lines(unknown, "digits"))


def test_image_quality_for_the_json():
    found = _image_quality.metrics(quality(), SPLIT, SPLIT._replace(split="test"))
    assert found["share_of_sample_values_outside"] == 0.125
    assert found["real"] == {"name": "digits", "training": "train", "held_out": "test"}
    assert found["frechet_distance_to_training"]["over_pixels"]["samples"] == 3.0
    assert found["frechet_distance_to_training"]["over_class_scores"]["samples"] == 7.0
    assert found["classifier"]["num_training"] == 1_000
    assert found["classifier"]["samples"]["median_confidence"] == 0.9
    assert found["classifier"]["held_out"]["accuracy"] == 0.875
    assert "frechet_distance_not_measured" not in found
    few = quality(pixel=None, why_undefined="too few", samples=None, logits=None)
    found = _image_quality.metrics(few, SPLIT, SPLIT)
    assert found["frechet_distance_not_measured"] == "too few"
    assert found["frechet_distance_to_training"] == {"over_pixels": None, "over_class_scores": None}
    assert "classifier" not in found


def test_images_from_levels():
    """What was not measured is a dash; without levels nothing is said."""
    assert _image_quality.level_lines({}, 2_000) == []
    bare = quality(pixel=None, samples=None, logits=None)
    found = {1: quality(), 12: bare}
    assert _image_quality.level_lines(found, 2_000) == [
        "2,000 held-out images, sampled down from a level",
        "                 over pixels       over logits        confidence",
        "  level 1              3.000             7.000             0.900",
        "  level 12                 -                 -                 -",
    ]
    one = quality()
    assert _image_quality.level_metrics(one) == {
        "over_pixels": 3.0, "over_class_scores": 7.0, "classifier": one.samples._asdict(),
    }  # fmt: skip
    assert _image_quality.level_metrics(bare) == {"over_pixels": None, "over_class_scores": None}


def test_errors_of_images_as_a_table():
    assert _image_quality.error_lines({"model": ImageError(0.125, 0.01, 18.0618)}, "restored") == [
        f"{'restored':<34}            RMSE      PSNR",
        f"  {'model':<32}  0.1250 ± 0.0100  18.06 dB",
    ]
