"""The FID Inception-v3: its size, its resize and its refusals; scores and distances in closed form.

Its values are compared with torch-fidelity's in test_fidelity.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.evaluation.fidelity import features, inception_scores
from ebm_jax.evaluation.fidelity.features import summarize_features
from ebm_jax.evaluation.fidelity.frechet import GaussianFit, fit_gaussian
from ebm_jax.evaluation.fidelity.inception_scores import (
    inception_score,
    kept_for_subsets,
    kernel_inception_distance,
)
from ebm_jax.evaluation.fidelity.inception_weights import WeightsFile
from ebm_jax.evaluation.fidelity.reference_statistics import (
    Statistics,
    read_statistics,
    write_statistics,
)
from ebm_jax.evaluation.fidelity.settings import check_fid_settings, subset_size
from ebm_jax.networks import inception

RNG = np.random.default_rng(0)


def test_number_of_parameters():
    """21,785,568 in convolutions and batch norms: torchvision's 23,834,568 without its logits."""
    shapes = inception.weight_shapes()
    assert shapes.pop("fc") == (1008, 2048)
    assert len(shapes) == 94
    assert sum(np.prod(shape) + 2 * shape[0] for shape in shapes.values()) == 21_785_568
    assert shapes["Mixed_6c.branch7x7_3"] == (192, 160, 7, 1)


def test_resize_hangs_to_the_upper_left():
    """Twice the size: places 0, .5, 1, 1.5 of [0, 10], the last beyond the last pixel."""
    x = jnp.array([0.0, 10.0]).reshape(1, 1, 2, 1)
    tall = inception.resize_like_tensorflow1(x, 4)
    np.testing.assert_allclose(tall[0, :, :, 0], np.tile([0, 5, 10, 10], (4, 1)))
    ramp = jnp.arange(6.0).reshape(1, 6, 1, 1)
    half = inception.resize_like_tensorflow1(ramp, 3)
    np.testing.assert_allclose(half[0, :, 0, 0], [0, 2, 4])  # nothing is smoothed
    same = RNG.normal(size=(2, 5, 5, 3)).astype(np.float32)
    np.testing.assert_array_equal(inception.resize_like_tensorflow1(same, 5), same)


def test_weights_of_another_network_are_refused():
    with pytest.raises(
        ValueError, match=r"the FID Inception-v3: Conv2d_1a_3x3.conv.weight is absent"
    ):
        inception.params_from_arrays({})
    imagenet = {"fc.weight": np.zeros((1000, 2048), np.float32)}
    with pytest.raises(ValueError, match=r"fc.weight is of shape \(1000, 2048\) and should be"):
        inception.params_from_arrays(imagenet)


def test_tensorflows_names_are_the_same_layers():
    """Arrays under both kinds of names make the same parameters; without `fc` there is no logit."""
    rng = np.random.default_rng(0)
    shapes, names = inception.weight_shapes(), inception.tensorflow_names()
    assert list(names) == [name for name in shapes if name != "fc"]
    assert len(set(names.values())) == 94
    assert names["Mixed_5b.branch_pool"] == "mixed.tower_2.conv"
    assert names["Mixed_6b.branch7x7dbl_5"] == "mixed_4.tower_1.conv_4"
    assert names["Mixed_7a.branch7x7x3_4"] == "mixed_8.tower_1.conv_3"
    assert names["Mixed_7c.branch3x3dbl_3b"] == "mixed_10.tower_1_mixed_conv_1"
    ours, theirs = {}, {}
    for layer, name in names.items():
        kernel = np.broadcast_to(rng.normal(), shapes[layer])
        parts = rng.uniform(0.5, 1, (3, shapes[layer][0]))
        ours[f"{layer}.conv.weight"] = theirs[f"net.layers.{name}.weight"] = kernel
        ours[f"{layer}.bn.weight"] = np.ones(shapes[layer][0])
        for mine, other, part in zip(
            ("bias", "running_mean", "running_var"), ("beta", "mean", "var"), parts, strict=True
        ):
            ours[f"{layer}.bn.{mine}"] = theirs[f"net.layers.{name}.{other}"] = part
    found = [inception.params_from_arrays(arrays) for arrays in (ours, theirs)]
    assert set(found[0]) == set(found[1]) == set(names)
    for layer in names:
        for a, b in zip(found[0][layer], found[1][layer], strict=True):
            np.testing.assert_array_equal(a, b)
    last = np.broadcast_to(np.float32(3), (1008, 2048))
    assert inception.params_from_arrays(theirs | {"net.output.weight": last})["logits"].min() == 3
    del theirs["net.layers.mixed_3.tower.conv_1.mean"]
    with pytest.raises(ValueError, match=r"lack Mixed_6a.branch3x3dbl_2.bn.running_mean"):
        inception.params_from_arrays(theirs)


def test_score_of_certain_and_of_ignorant_classifiers():
    certain = np.tile(np.where(np.eye(5) > 0, 0.0, -1e6), (20, 1))
    assert inception_score(certain, num_splits=4).mean == pytest.approx(5)
    assert inception_score(np.zeros((20, 7)), num_splits=4) == pytest.approx((1, 0))
    one_class = np.tile(certain[:1], (20, 1))
    assert inception_score(one_class, num_splits=2).mean == pytest.approx(1)
    logits = RNG.normal(size=(11, 3)) * 2
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    by_hand = [
        np.exp(np.mean([np.sum(row * np.log(row / part.mean(0))) for row in part]))
        for part in (p[:5], p[5:])
    ]
    found = inception_score(logits, num_splits=2)
    assert found == pytest.approx((np.mean(by_hand), np.std(by_hand)))
    with pytest.raises(ValueError, match="expected 1 <= num_splits <= 11 images, got 12"):
        inception_score(logits, num_splits=12)


def test_kernel_distance_of_all_images_by_hand_and_in_expectation():
    x, y = RNG.normal(size=(2, 7, 3))
    y = y + 1

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = [kernel(s[i], s[j]) for s in (x, y) for i, j in pairs if i != j]
    by_hand = sum(within) / 42 - 2 * np.mean([kernel(x[i], y[j]) for i, j in pairs])
    found = kernel_inception_distance(x, y, num_subsets=3, subset_size=7)
    assert (found.mean, found.subset_deviation) == pytest.approx((by_hand, 0), abs=1e-12)
    assert (found.standard_error, found.num_disjoint) == (None, 1)  # no two without common images

    same = [
        kernel_inception_distance(*RNG.normal(size=(2, 30, 2)), num_subsets=1, subset_size=30).mean
        for _ in range(400)
    ]
    assert np.mean(same) == pytest.approx(0, abs=4 * np.std(same) / 20)
    # d = 1, N(0, 1) against N(m, 1): E (xy + 1)^3 = 1 + 3 E xy + 3 E x^2 y^2 + E x^3 y^3, so that
    # MMD^2 = 3 m^2 + 3 m^4 + (3 m + m^3)^2.
    m = 0.5
    apart = [
        kernel_inception_distance(
            RNG.normal(size=(60, 1)), m + RNG.normal(size=(60, 1)), num_subsets=1, subset_size=60
        ).mean
        for _ in range(400)
    ]
    exact = 3 * m**2 + 3 * m**4 + (3 * m + m**3) ** 2
    assert np.mean(apart) == pytest.approx(exact, abs=4 * np.std(apart) / 20)
    for size in (1, 8):
        with pytest.raises(ValueError, match=f"2 <= subset_size <= 7 images, got {size}"):
            kernel_inception_distance(x, y, subset_size=size)
    with pytest.raises(ValueError, match="expected num_subsets >= 1, got 0"):
        kernel_inception_distance(x, y, num_subsets=0, subset_size=5)


@pytest.mark.parametrize("num_subsets", [5, 6, 24])
def test_standard_error_of_the_kernel_distance(num_subsets):
    """Over many pairs of sets, their estimates spread as the standard error says.

    At 24 subsets of 10 of 60, four orders, the mean is a little better than the six of one order
    that the standard error is from.
    """
    rng = np.random.default_rng(1)
    found = [
        kernel_inception_distance(
            rng.normal(size=(60, 2)), 1 + rng.normal(size=(70, 2)),
            num_subsets=num_subsets, subset_size=10,
        )
        for _ in range(400)
    ]  # fmt: skip
    assert {f.num_disjoint for f in found} == {min(num_subsets, 6)}
    spread = np.std([f.mean for f in found])
    stated = np.sqrt(np.mean([f.standard_error**2 for f in found]))
    # Relative error of a deviation from 400 values of a skewed distribution.
    assert 0.85 < stated / spread < 1.25
    deviation = np.mean([f.subset_deviation for f in found])
    assert deviation > 1.5 * stated  # what a plus-minus of subsets would claim


def test_examples_kept_for_subsets_are_a_fixed_random_choice():
    kept = kept_for_subsets(1_000, 200, seed=3)
    np.testing.assert_array_equal(kept, kept_for_subsets(1_000, 200, seed=3))
    assert len(np.unique(kept)) == 200
    assert np.all(np.diff(kept) > 0)
    assert kept.mean() == pytest.approx(499.5, abs=4 * 1_000 / np.sqrt(12 * 200))
    assert np.any(kept != kept_for_subsets(1_000, 200, seed=4))
    np.testing.assert_array_equal(kept_for_subsets(9, 200), np.arange(9))


def test_summary_of_features_in_blocks():
    features = RNG.normal(size=(90, 4)).astype(np.float32)
    kept = kept_for_subsets(90, 30)
    for cuts in ([20, 21, 70], [], [0, 90]):
        summary = summarize_features(np.split(features, cuts), 4, kept)
        np.testing.assert_array_equal(summary.kept, features[kept])
        for a, b in zip(summary.moments.fit(), fit_gaussian(features), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_settings_that_would_fail_after_sampling():
    good = {
        "num_samples": 200, "num_features": 10, "num_splits": 10, "num_reference": 900,
        "kid_subsets": 100, "kid_subset_size": 1_000,
    }  # fmt: skip
    check_fid_settings(**good)
    check_fid_settings(**good | {"num_reference": None})
    for changed, said in (
        ({"num_samples": 10}, "num_samples is too small: 10 examples leave"),
        ({"num_reference": 10}, "num_reference is too small: 10 examples leave"),
        ({"num_splits": 300}, "expected 1 <= num_splits <= 200 images, got 300"),
        ({"num_splits": 0}, "expected 1 <= num_splits <= 200 images, got 0"),
        ({"kid_subset_size": 1}, "kid: expected 2 <= subset_size <= 200 images, got 1"),
        ({"kid_subsets": 0}, "kid: expected num_subsets >= 1, got 0"),
        ({"kid_subsets": 0, "num_reference": None}, "kid: expected num_subsets >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=said):
            check_fid_settings(**good | changed)
    assert subset_size(1_000, 200, 900) == 200


def test_statistics_on_file(tmp_path):
    path = str(tmp_path / "stats.npz")
    fit = GaussianFit(RNG.normal(size=3), np.eye(3), 50)
    described = {"data": "digits", "split": "train", "resize": "none"}
    write_statistics(path, Statistics(fit, described))
    found = read_statistics(path, described, 3)
    np.testing.assert_array_equal(found.fit.mean, fit.mean)
    assert found.fit.num_examples == 50
    with pytest.raises(ValueError, match="are of data 'digits', and this run asks for 'mnist'"):
        read_statistics(path, described | {"data": "mnist"}, 3)
    weights = {"weights_sha256": "ab" * 32}
    write_statistics(path, Statistics(fit, described | weights))
    with pytest.raises(ValueError, match=r"of weights_sha256 '(ab)+', and this run asks for 'cd"):
        read_statistics(path, described | {"weights_sha256": "cd" * 32}, 3)
    with pytest.raises(ValueError, match=r"are of \(3,\) features and the network has 2048"):
        read_statistics(path, described, 2048)
    np.savez(path, mu=fit.mean, sigma=fit.covariance)  # another program's
    assert read_statistics(path, described, 3).fit.num_examples == 0
    np.savez(path, mean=fit.mean)
    with pytest.raises(ValueError, match=r"give a \.npz with mu and sigma"):
        read_statistics(path, described, 3)


def test_damaged_statistics(tmp_path):
    """Cut, flipped, another format under the name, a description that is none: one line each."""
    good = tmp_path / "good.npz"
    np.savez(good, mu=np.zeros(400), sigma=np.eye(400))
    content = bytearray(good.read_bytes())

    def path(name, **arrays):
        np.savez(tmp_path / f"{name}.npz", **{"mu": np.zeros(400), "sigma": np.eye(400)} | arrays)
        return tmp_path / f"{name}.npz"

    paths = [
        tmp_path / "absent.npz",
        path("list", described=np.array("[1, 2]")),
        path("text", described=np.array("no JSON")),
        path("number", described=np.array('{"num_images": "many"}')),
        path("nan", mu=np.full(400, np.nan)),
        path("words", mu=np.array(["a"] * 400)),
        path("object", mu=np.array([None] * 400)),
    ]
    for place in (10, 40, 5_000, len(content) - 30, len(content) - 5):
        flipped = content.copy()
        flipped[place] ^= 1
        paths.append(tmp_path / f"flipped_{place}.npz")
        paths[-1].write_bytes(flipped)
    for size in (0, 3, 1_000, len(content) // 2, len(content) - 1):
        paths.append(tmp_path / f"cut_{size}.npz")
        paths[-1].write_bytes(content[:size])
    np.save(tmp_path / "x.npy", np.zeros(400))
    paths.append((tmp_path / "x.npy").rename(tmp_path / "npy.npz"))
    for damaged in paths:
        try:
            found = read_statistics(str(damaged), {"data": "digits"}, 400)
        except ValueError as error:
            assert str(error).startswith(f"the statistics {damaged} cannot be read (")  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        else:  # a bit that no reader looks at, such as a time in the zip file's index
            assert damaged.stem.startswith("flipped_")
            np.testing.assert_array_equal(found.fit.covariance, np.eye(400))


@pytest.mark.parametrize(("backend", "at_once"), [("cpu", 1), ("gpu", 2), ("tpu", 2)])
def test_gray_images_are_the_color_ones_of_three_equal_channels(backend, at_once, monkeypatch):
    """What the first layer sees, every image in its own place: on a CPU they come one by one."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)

    def features(x, convolve):
        del convolve
        assert x.shape == (at_once, 299, 299, 3)
        return x.reshape(len(x), -1)[:, -2048:]

    monkeypatch.setattr(inception, "_features", features)
    gray = RNG.integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    params = {"logits": jnp.zeros((2048, 1008))}
    found, colored = (
        inception.inception(params, jnp.asarray(images))
        for images in (gray, np.repeat(gray, 3, axis=3))
    )
    assert found["logits"].shape == (2, 1008)
    np.testing.assert_array_equal(found["features"], colored["features"])
    # TensorFlow 1's enlargement hangs to the upper left: the last pixel is the last one's.
    np.testing.assert_allclose(
        found["features"][:, -1], (gray[:, -1, -1, 0] - 128.0) / 128, atol=1e-6
    )


def score_of_a_split(logits):
    """The definition: exp of the mean divergence from the mean of the class probabilities."""
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return np.exp(np.mean(np.sum(p * (np.log(p) - np.log(p.mean(0))), 1)))


def test_running_score_is_the_score_of_all():
    """Blocks that end within splits; sharp logits, where p log p is mostly rounding."""
    logits = np.random.default_rng(0).normal(0, 5, (103, 10))
    running = inception_scores.RunningScore.empty(103, 10, 4)
    for first in range(0, 103, 17):
        assert running.num_seen == first
        running = running.update(logits[first : first + 17])
    expected = [score_of_a_split(part) for part in np.split(logits, [25, 51, 77])]
    found = running.score()
    assert found.mean == pytest.approx(np.mean(expected), rel=1e-10)
    assert found.deviation == pytest.approx(np.std(expected), rel=1e-9)
    assert inception_scores.inception_score(logits, num_splits=4) == pytest.approx(found, rel=1e-12)
    with pytest.raises(ValueError, match="expected 103 images, got 17"):
        inception_scores.RunningScore.empty(103, 10, 4).update(logits[:17]).score()


def test_an_extractor_measures_in_batches_and_says_what_it_is(monkeypatch):
    """20 images in batches of 8, the last one short; a network without logits has no classes."""
    weights = WeightsFile({"a": np.ones(1)}, "0" * 64, "weights.npz")
    monkeypatch.setattr(features, "read_weights", {"weights.npz": weights}.get)
    for names in (("features",), ("features", "logits")):
        params = dict.fromkeys(names, np.ones(1, np.float32))
        monkeypatch.setattr(inception, "params_from_arrays", lambda _, params=params: params)
        monkeypatch.setattr(
            inception,
            "inception",
            lambda params, x: {name: scale * jnp.mean(x, (1, 2)) for name, scale in params.items()},
        )
        found = features.inception_extractor("weights.npz", 5)  # eight devices
        images = RNG.integers(0, 256, (20, 2, 2, 3)).astype(np.uint8)
        measured = found.extract(images)
        assert set(measured) == set(names)
        np.testing.assert_allclose(measured["features"], images.mean((1, 2)), rtol=1e-6)
        assert (found.num_features, found.num_classes) == (2048, 1008 if len(names) == 2 else 0)
        assert found.title == features.INCEPTION_FEATURES
        assert found.score_title == "Inception score"
        assert found.details["weights_sha256"] == "0" * 64
        assert found.details["weights_origin"] == "unknown"
