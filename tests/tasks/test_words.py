"""What the modes say of results that are given: tables and sentences word by word, JSON by hand."""

import types

import numpy as np
import pytest

from ebm_jax.data import Dataset
from ebm_jax.evaluation.classification import calibration
from ebm_jax.evaluation.classification.continual import scores
from ebm_jax.evaluation.density import long_run, plane
from ebm_jax.evaluation.density.baselines import Baseline, Likelihood
from ebm_jax.evaluation.density.grid2d import Comparison, Grid
from ebm_jax.evaluation.density.log_likelihood import Bracket, Estimate, SplitEnergy, Units
from ebm_jax.evaluation.fidelity.classifier import ClassifierSummary
from ebm_jax.evaluation.fidelity.features import INCEPTION_FEATURES
from ebm_jax.evaluation.fidelity.memorization import KSTest, Nearness
from ebm_jax.evaluation.images.errors import ImageError
from ebm_jax.evaluation.images.factor_regressor import FactorErrors
from ebm_jax.evaluation.images.quality import FrechetDistances, ImageQuality
from ebm_jax.evaluation.ood import Auroc
from ebm_jax.evaluation.trajectories.errors import SquaredError
from ebm_jax.samplers import MOST_ROUGHNESS
from ebm_jax.tasks import (
    _density_fit,
    _image_quality,
    _long_run,
    _movement,
    classify,
    compose,
    continual,
    crossclass,
    fid,
    neighbours,
    ood,
    robustness,
    rollout,
)
from ebm_jax.tasks.likelihood import ends as annealed_ends
from ebm_jax.tasks.likelihood import reporting, reverse_starts


def approx(values):
    return pytest.approx(values, rel=1e-9)


def test_movement():
    assert _movement.warning(MOST_ROUGHNESS, [], "levels") == []
    (line,) = _movement.warning(2 * MOST_ROUGHNESS, list("abcdef"), "levels")
    assert line == (
        f"warning: the energy jumps by {2 * MOST_ROUGHNESS:.2g} nats between neighboring floats, "
        "which decides acceptance by noise; warm-up left chains that hardly move at 6 levels "
        "(a, b, c, d, e, ...)"
    )
    (line,) = _movement.warning(0.0, [4, 3, 2, 1, 0], "levels")
    assert line.endswith("hardly move at 5 levels (4, 3, 2, 1, 0)")
    found = _movement.metrics(0.25, "ends", (3,))
    assert found["roughness"] == {"nats": 0.25, "at": "ends", "too_large_from": MOST_ROUGHNESS}
    assert found["warm_up_left_stuck"] == [3]


def test_ends_of_annealing_are_weighed():
    """Weights 1 : 2 : 4 : 3 of ten. Data's energies 0 .. 100: quantiles 1 and 99."""
    ends = annealed_ends.Ends(
        np.zeros((4, 2)), np.array([0.5, 1.0, 99.5, 99.0]), 5 + np.log([1.0, 2.0, 4.0, 3.0])
    )
    assert ends.weights == approx([0.1, 0.2, 0.4, 0.3])
    data = np.arange(101.0)
    found = annealed_ends.compare(
        ends, data, np.array([4.0, 1.0, 2.0, 3.0]), np.array([5.0, 2.0, 4.0])
    )
    assert found.mean_energy == approx(0.05 + 0.2 + 39.8 + 29.7)
    assert (found.data_energy, found.below, found.above) == approx((50.0, 0.1, 0.4))
    assert found.heaviest == approx(0.4)
    assert found.distance_over_data == 0.5  # by weight the median distance is 2; of data it is 4
    assert annealed_ends.compare(ends, data, None, None).distance_over_data is None
    assert annealed_ends.compare(ends, data, np.ones(4), None).distance_over_data is None
    one = annealed_ends.Ends(np.zeros((1, 2)), np.zeros(1), np.zeros(1))
    assert (
        annealed_ends.compare(one, data, np.array([3.0]), np.array([2.0])).distance_over_data == 1.5
    )


def test_what_is_said_of_the_ends():
    found = annealed_ends.Found(12.34, 50.0, 0.5, 0.25, 0.4, 1.234)
    assert annealed_ends.lines(found) == [
        "forward annealing ends at a mean energy of 12.3 nats, where held-out data have 50.0; 50% "
        "of the weight is at energies below those of 99 % of the data, 25% above; the heaviest "
        "chain has 40% of it; the nearest training image is 1.23 times as far as from held-out "
        "images (annealed.png)"
    ]
    assert annealed_ends.metrics(found)["is_spurious"] is False
    spurious = found._replace(below=0.51, distance_over_data=None)
    (said,) = annealed_ends.lines(spurious)
    assert said.endswith(
        "chain has 40% of it: the model's mass is in modes that are no data, and its likelihoods "
        "are of these as much as of the data"
    )
    assert annealed_ends.metrics(spurious)["is_spurious"] is True
    assert annealed_ends.metrics(spurious)["below"] == 0.51


def test_the_fit_of_a_density_on_the_plane():
    fit = plane.DensityFit(
        grid=Grid(4.0, 9), comparison=Comparison(0.5, 0.25, 1.5, -2.0, 0.99), mass_outside=0.125,
        log_z=3.0, sample_distance=0.3, exact_distance=0.1, num_samples=10_000, noise_std=0.0123,
    )  # fmt: skip
    assert _density_fit.lines(fit, "moons") == [
        "learned density of moons plus noise of 0.0123, against the true one",
        "  KL(true || learned)      0.5000 nats",
        "  total variation          0.2500",
        "  E_true[log learned]      -2.0000 nats",
        "  E_true[log true]         -1.5000 nats",
        "  learned mass outside     0.1250",
        f"samples, total variation over boxes of {8 / plane.NUM_BOXES:.3g}",
        "  10,000 samples           0.3000",
        "  as many exact samples    0.1000",
    ]
    found = _density_fit.metrics(fit, "moons")
    of = found["learned"].pop("of")
    assert "lowest noise level" in of
    assert found["learned"] == {
        "noise_std": 0.0123, "kl_true_to_learned": 0.5, "total_variation": 0.25,
        "expected_log_likelihood": -2.0, "entropy_of_true": 1.5, "mass_outside_data_square": 0.125,
        "log_z": 3.0,
    }  # fmt: skip
    assert found["grid"] == {"half_width": 4.0, "num_cells": [9, 9], "true_mass": 0.99}
    assert found["samples"] == {
        "total_variation": 0.3, "of_as_many_exact_samples": 0.1, "num_boxes": [plane.NUM_BOXES] * 2,
    }  # fmt: skip


def test_long_chains():
    of = long_run.Diagnosis("stable", ["first", "last"])
    r_hat = {"energy": 1.0, "median_of_values": 1.5, "largest": 2.25}
    assert _long_run.lines("chains", {0: of}, r_hat) == [
        "chains: stable", "  first", "  last",
        "  split R-hat of the second half: energy 1.000, values 1.500 in the median, 2.250 at most",
    ]  # fmt: skip
    assert _long_run.lines("chains", {0: of}, {"energy": np.nan})[-1] == "  last"
    assert _long_run.lines("chains", {3: of, 1: of}, r_hat) == [
        "chains:", "  level 3: stable; last", "  level 1: stable; last",
    ]  # fmt: skip
    real = long_run.Reference(1, 2, 3, 4, None, 5, 6)
    found = _long_run.of_real(real._replace(fit="large"), "too few")
    assert found["fit"] is None
    assert found["frechet_not_measured"] == "too few"
    assert found["frechet_floor"] == 5


def test_calibration_as_a_table():
    """Of four examples three are right; each is sure by .8, so that the error is .05."""
    logits = np.log(np.array([[4.0, 1], [4, 1], [1, 4], [1, 4]]) / 5)
    row = classify._row(logits, np.array([0, 0, 1, 0]), 4)
    assert row["accuracy"] == 0.75
    assert row["accuracy_standard_error"] == approx(np.sqrt(3 / 64))
    assert row["negative_log_likelihood"] == approx(-(3 * np.log(0.8) + np.log(0.2)) / 4)
    assert row["expected_calibration_error"] == approx(0.05)
    assert row["reliability"]["count"].tolist() == [0, 0, 0, 4]
    table = {"energies": row, "energies, temperature fitted": row}
    assert classify._lines(table, {"energies": (0.5, 1234.5)}, "digits", "test", 2) == [
        "2 classes of digits, test                         accuracy      NLL      ECE",
        "  energies                                 0.7500 ± 0.2165   0.5697   0.0500",
        "  energies, temperature fitted             0.7500 ± 0.2165   0.5697   0.0500",
        "  temperatures, each fitted on the other half: energies 0.5 and 1.23e+03",
    ]


def test_the_bins_of_confidence():
    """Confidence 1 falls into the last bin; bins above the highest confidence are there, empty."""
    sure = np.array([[0.0, -1e9], [0.0, -1e9]])
    found = calibration.reliability(sure, np.array([0, 1]), 5)
    assert list(found.count) == [0, 0, 0, 0, 2]
    assert found.error == 0.5
    assert found.edges == approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    unsure = np.zeros((3, 4))
    found = calibration.reliability(unsure, np.array([0, 1, 2]), 8)
    assert list(found.count) == [0, 0, 3, 0, 0, 0, 0, 0]
    assert found.error == approx(1 / 3 - 1 / 4)
    one = calibration.reliability(unsure, np.array([0, 1, 2]), 1)
    assert list(one.count) == [3]


def test_temperatures_of_those_who_know_all_or_nothing():
    """At the ends of what is looked for: exp(-20), exp(20)."""
    labels = np.arange(10) % 2
    right = np.eye(2)[labels]
    assert np.log(calibration.fit_temperature(right, labels)) < -2
    assert np.log(calibration.fit_temperature(-right, labels)) > 19


SEEDS = [
    scores(np.log(np.array(p)), np.array([0, 1, 2, 3]), ((0, 1), (2, 3)))
    for p in (
        [[[8.0, 1, 1, 1], [1, 8, 1, 1], [1, 2, 1, 1], [1, 2, 1, 1]],
         [[1, 1, 9, 1], [1, 9, 1, 1], [1, 1, 9, 1], [1, 1, 1, 9]]],
        [[[8.0, 1, 1, 1], [1, 8, 1, 1], [1, 2, 1, 1], [1, 2, 1, 1]],
         [[1, 1, 9, 1], [1, 1, 9, 1], [1, 1, 9, 1], [1, 1, 1, 9]]],
    )
]  # fmt: skip


def test_continual_learning_over_seeds():
    """Accuracies .75 and .5 after the last task; forgetting .5 and 1."""
    assert [s.final for s in SEEDS] == [0.75, 0.5]
    found = continual._over_seeds(SEEDS)
    assert found["final"]["mean"] == 0.625
    assert found["final"]["std"] == approx(np.sqrt(2) / 8)
    assert found["final"]["by_seed"] == [0.75, 0.5]
    assert found["forgetting"]["mean"] == 0.75
    np.testing.assert_array_equal(found["confusion"], SEEDS[0].confusion + SEEDS[1].confusion)
    alone = continual._over_seeds(SEEDS[:1])
    assert alone["final"] == {"mean": 0.75, "std": None, "by_seed": [0.75]}
    joint = continual._over_seeds([SEEDS[0]._replace(forgetting=None)])
    assert "forgetting" not in joint


@pytest.mark.parametrize(
    ("passes", "seeds", "said"), [(1, 1, "1 pass, 1 seed"), (2, 2, "2 passes, 2 seeds")]
)
def test_continual_learning_as_a_table(passes, seeds, said):
    plan = types.SimpleNamespace(
        models=types.SimpleNamespace(
            run=types.SimpleNamespace(dataset=types.SimpleNamespace(name="digits"))
        ),
        settings=types.SimpleNamespace(num_passes=passes, num_seeds=seeds),
        tasks=((0, 1), (2, 3)),
    )
    joint = [s._replace(forgetting=None) for s in SEEDS]
    found = {"energies": SEEDS[:seeds], "energies_joint": joint[:seeds]}
    head, first, second, note = continual._lines(found, plan)
    assert head == f"{f'2 tasks of digits, {said}':<44}" + "".join(
        f"{name:>14}"
        for name in ("accuracy", "tasks' mean", "forgetting", "within task", "centered")
    )
    assert first[:44] == f"  {'energies':<42}"
    assert second[:44] == f"  {'energies, all tasks at once':<42}"
    cells = [first[44 + 14 * i : 58 + 14 * i].strip() for i in range(5)]
    if seeds == 1:
        assert cells[:3] == ["0.750", "0.750", "0.500"]
    else:
        assert cells[:3] == ["0.625 ± 0.177", "0.625 ± 0.177", "0.750 ± 0.354"]
    assert second[72:86].strip() == ""
    assert note.startswith("  accuracy: one decision")


def test_from_one_class_to_another():
    rows = [
        {"step": 0, "lowest_energy_is_target": 0.25, "classifier_says_target": None,
         "distance_to_start": 0.0},
        {"step": 40, "lowest_energy_is_target": 1.0, "classifier_says_target": 0.5,
         "distance_to_start": 1.25},
    ]  # fmt: skip
    references = {"fresh_sample": rows[1], "training_image": {"distance_to_start": 2.0}}
    assert crossclass._lines(rows, references, 0.125, 8) == [
        "8 images, of another class         lowest energy    classifier      distance",
        "  after 0 steps                            0.250             -         0.000",
        "  after 40 steps                           1.000         0.500         1.250",
        "  fresh sample                             1.000         0.500         1.250",
        "  training image                               -             -         2.000",
        "  nearer to the start than the fresh sample is: 12.5%",
    ]


def test_distances_of_images():
    """Root mean squares over pixels; in units of the range."""
    x, y = np.zeros((2, 2, 2, 1)), np.stack([np.full((2, 2, 1), 1.0), np.full((2, 2, 1), -3.0)])
    assert crossclass._distances(x, y) == approx([1.0, 3.0])
    run = types.SimpleNamespace(data=types.SimpleNamespace(low=-1.0, high=3.0))
    assert crossclass._rms(x, y, run) == 0.5


def test_images_of_a_class_in_turn():
    dataset = types.SimpleNamespace(images=np.arange(5)[:, None], labels=np.array([0, 1, 0, 1, 1]))
    run = types.SimpleNamespace(dataset=dataset)
    found = crossclass._of_class(run, np.array([1, 0, 1, 1, 1, 0]))
    assert found[:, 0].tolist() == [1, 2, 4, 1, 3, 2]


def test_robustness_as_a_table():
    rows = {"l2": [{"radius": r, "energies": {"accuracy": {"strict": r, "a_b": 1 - r}}}
                   for r in (0.0, 0.5)]}  # fmt: skip
    lines = robustness._lines(rows, 10, 3)
    assert lines == [
        "accuracy, 10 images, L2                   epsilon       0     0.5",
        f"  {'energies: strict':<48}   0.000   0.500",
        f"  {'energies: a b':<48}   1.000   0.500",
    ]
    (*same, warning) = robustness._lines(rows, 10, 0)
    assert same == lines
    assert "no attack went through the chains" in warning
    refined = {"energies, refined": {"accuracy": {"a_b": 0.75}}, "radius": 0.5}
    assert robustness._flat(refined | {"energies": {"accuracy": {"published": 0.25}}}) == {
        "energies: published": 0.25, "energies, refined: a_b": 0.75,
    }  # fmt: skip


def test_accuracies_of_margins():
    assert robustness._accuracy(np.array([-1.0, 0.0, 1e-9, 2.0])) == 0.5
    with pytest.raises(ValueError, match="not finite"):
        robustness._accuracy(np.array([1.0, np.nan]))
    assert robustness._error(0.2, 4) == approx(0.2)
    assert [
        robustness._is_drawn(f"x: {attack}")
        for attack in ("published", "strict", "either, first 2", "strict, first 2", "adaptive")
    ] == [True, True, True, True, False]


def test_examples_of_two_radii():
    """The middle one, the lower of two, and the largest; one where there is one."""

    def chosen(values):
        examples = {f"{n}, L2 {r:g}": (n, r) for n in "ab" for r in values}
        return list(robustness._some(examples, {"l2": list(values)}, "ab"))

    assert chosen((0.0, 1.0, 2.0)) == ["a, L2 1", "b, L2 1", "a, L2 2", "b, L2 2"]
    assert chosen((0.0, 1.0, 2.0, 3.0)) == ["a, L2 1", "b, L2 1", "a, L2 3", "b, L2 3"]
    assert chosen((0.0,)) == ["a, L2 0", "b, L2 0"]


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


def test_errors_of_images_as_a_table():
    assert _image_quality.error_lines({"model": ImageError(0.125, 0.01, 18.0618)}, "restored") == [
        f"{'restored':<34}            RMSE      PSNR",
        f"  {'model':<32}  0.1250 ± 0.0100  18.06 dB",
    ]


UNITS = Units(4, 0.5)
BITS = 4 * np.log(2)  # nats of one bit per value
BRACKETS = [
    Bracket(10, Estimate(1.0, 0.1, 5.0), Estimate(2.5, 0.2, 6.0)),
    Bracket(1_000, Estimate(BITS, 0.3, 5.0), Estimate(2 * BITS, 0.4, 6.0)),
]
ENERGIES = {"training": SplitEnergy(BITS, 0.4, 1_500), "held out": SplitEnergy(2 * BITS, 0.3, 9)}


def test_likelihoods_as_a_table():
    """log p = -E - log Z in bits per value: 2 and 3 of training, 3 and 4 held out, and 1 more."""
    plain = reporting.lines(BRACKETS, ENERGIES, UNITS._replace(bin_width=0.0))
    assert plain == [
        "log Z in nats   temperatures        forward            reverse      width",
        "                          10       1.00 +- 0.10        2.50 +- 0.20       1.50",
        "                       1,000       2.77 +- 0.30        5.55 +- 0.40       2.77",
        "training, 1,500 images: log-likelihood -8.32 +- 0.57 to -5.55 +- 0.50 nats",
        "held out, 9 images: log-likelihood -11.09 +- 0.50 to -8.32 +- 0.42 nats",
    ]
    in_bits = reporting.lines(BRACKETS, ENERGIES, UNITS)
    assert in_bits[3] == plain[3] + ", 3.000 to 4.000 bits/dim"
    assert in_bits[4] == plain[4] + ", 4.000 to 5.000 bits/dim"


def test_likelihoods_for_the_json():
    found = reporting.metrics(BRACKETS, ENERGIES, UNITS)
    assert found["log_z"][0] == {
        "num_temperatures": 10, "width": 1.5,
        "forward": {"log_z": 1.0, "standard_error": 0.1, "ess": 5.0},
        "reverse": {"log_z": 2.5, "standard_error": 0.2, "ess": 6.0},
    }  # fmt: skip
    training = found["splits"]["training"]
    assert training["bits_per_dim"] == approx({"lower": 3.0, "upper": 4.0})
    assert training["log_likelihood_nats"]["lower"] == approx(-3 * BITS)
    assert training["energy"]["num_images"] == 1_500
    assert found["units"]["num_values"] == 4
    assert found["units"]["bin_width"] == 0.5
    points = reporting.metrics(BRACKETS, ENERGIES, UNITS._replace(bin_width=0.0))
    assert "bits_per_dim" not in points["splits"]["training"]


def test_what_bounds_what():
    said = reporting.statement(starts="Its starts are Y.", measured="X", units=UNITS)
    assert said[0] == "Measured is X."
    assert said[1].endswith("upper bounds, and bits/dim lower bounds.")
    assert "then log-likelihoods by it are lower bounds, and bits/dim upper bounds." in said[2]
    assert said[2].endswith(". Its starts are Y.")
    points = reporting.statement(starts="", measured="X", units=UNITS._replace(bin_width=0.0))
    assert points[1].endswith("upper bounds.")


@pytest.mark.parametrize(
    ("energy", "values", "says"),
    [
        (0, 0, "are training examples: as far as these are not the model's own, it bounds nothing"),
        (
            1.1,
            1.1,
            "after 1,000 steps of HMC, by which the chains agree (split R-hat of the energy",
        ),
        (
            1.0,
            1.11,
            "which have not forgotten where they began (split R-hat of the energy 1.00, of",
        ),
        (
            1.11,
            1.0,
            "not forgotten where they began (split R-hat of the energy 1.11, of the values",
        ),
        (1.0, float("nan"), "which have not forgotten where they began"),
        (float("nan"), 1.0, "which have not forgotten where they began"),
    ],
)
def test_what_starts_reverse_annealing(energy, values, says):
    found = {"energy": energy, "median_of_values": values, "largest": 3.0} if energy else None
    starts = reverse_starts.Starts(np.zeros((2, 1)), found)
    assert says in reverse_starts.words(starts, 1_000)
    in_json = reverse_starts.metrics(starts, 1_000)
    assert in_json == {"num_steps": 1_000, "split_r_hat": found, "enough_at_most": 1.1}


def test_directions_that_are_inverted():
    """By more than three standard errors of both: 3 and 4 give 5."""

    def bracket(reverse):
        return Bracket(10, Estimate(0.0, 3.0, 1.0), Estimate(reverse, 4.0, 1.0))

    assert reporting.crossing(bracket(-14.9)) == []
    assert reporting.crossing(bracket(15.1)) == []
    (said,) = reporting.crossing(bracket(-15.1))
    assert said.startswith("Reverse lies 15.1 nats below forward: ")


def test_bounds_through_the_conditionals():
    bound = reporting.ThroughConditionals(
        Likelihood(-3 * BITS, 0.1), Likelihood(-2 * BITS, 0.2), [0.5], 1_200
    )
    (line,) = reporting.conditional_lines({"held out": bound}, UNITS)
    assert line == (
        "through the conditionals, held out, 1,200 images: -8.32 +- 0.10 to -5.55 +- 0.20 nats, "
        "3.000 to 4.000 bits/dim"
    )
    (line,) = reporting.conditional_lines({"a": bound}, UNITS._replace(bin_width=0.0))
    assert line.endswith(" nats")
    found = reporting.conditional_metrics({"a": bound}, UNITS)["a"]
    assert found["num_images"] == 1_200
    assert found["log_likelihood_nats"] == approx(
        {"lower": -3 * BITS, "upper": -2 * BITS, "standard_error_lower": 0.1,
         "standard_error_upper": 0.2}
    )  # fmt: skip
    assert found["bits_per_dim"] == approx({"lower": 3.0, "upper": 4.0})


def test_fitted_densities():
    fitted = [Baseline(2, {"held out": -BITS + np.array([-0.25, 0.25])})]
    margins = [{"lower": 0.5}]
    assert reporting.baseline_lines(fitted, UNITS) == [
        "a mixture of 2 Gaussians, exact: held out -2.77 +- 0.25 nats, 2.000 bits/dim"
    ]
    points = UNITS._replace(bin_width=0.0)
    assert reporting.baseline_lines(fitted, points)[0].endswith(" nats")
    (found,) = reporting.baseline_metrics(fitted, margins, UNITS)
    assert found["num_components"] == 2
    assert found["model_has_more_nats_held_out"] == {"lower": 0.5}
    assert found["splits"]["held out"] == approx(
        {"log_likelihood_nats": -BITS, "standard_error": 0.25, "bits_per_dim": 2.0}
    )
    (found,) = reporting.baseline_metrics(fitted, margins, points)
    assert "bits_per_dim" not in found["splits"]["held out"]
