"""The FID Inception-v3: its size, its resize and its refusals; scores and distances in closed form.

Its values are compared with torch-fidelity's in test_fidelity.py.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.evaluation.fidelity.frechet import GaussianFit
from ebm_jax.evaluation.fidelity.inception_scores import inception_score, kernel_distance
from ebm_jax.evaluation.fidelity.reference_statistics import (
    Statistics,
    read_statistics,
    write_statistics,
)
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
    with pytest.raises(ValueError, match=r"not the weights of the FID Inception-v3: fc.weight is"):
        inception.params_from_arrays({})
    imagenet = {"fc.weight": np.zeros((1000, 2048), np.float32)}
    with pytest.raises(ValueError, match=r"fc.weight is of shape \(1000, 2048\) and should be"):
        inception.params_from_arrays(imagenet)


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
    with pytest.raises(ValueError, match="11 images do not make 12 splits"):
        inception_score(logits, num_splits=12)


def test_kernel_distance_of_all_images_by_hand_and_in_expectation():
    x, y = RNG.normal(size=(2, 7, 3))
    y = y + 1

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = [kernel(s[i], s[j]) for s in (x, y) for i, j in pairs if i != j]
    by_hand = sum(within) / 42 - 2 * np.mean([kernel(x[i], y[j]) for i, j in pairs])
    found = kernel_distance(x, y, num_subsets=3, subset_size=7)
    assert found == pytest.approx((by_hand, 0), abs=1e-12)

    same = [
        kernel_distance(*RNG.normal(size=(2, 30, 2)), num_subsets=1, subset_size=30).mean
        for _ in range(400)
    ]
    assert np.mean(same) == pytest.approx(0, abs=4 * np.std(same) / 20)
    # d = 1, N(0, 1) against N(m, 1): E (xy + 1)^3 = 1 + 3 E xy + 3 E x^2 y^2 + E x^3 y^3, so that
    # MMD^2 = 3 m^2 + 3 m^4 + (3 m + m^3)^2.
    m = 0.5
    apart = [
        kernel_distance(
            RNG.normal(size=(60, 1)), m + RNG.normal(size=(60, 1)), num_subsets=1, subset_size=60
        ).mean
        for _ in range(400)
    ]
    exact = 3 * m**2 + 3 * m**4 + (3 * m + m**3) ** 2
    assert np.mean(apart) == pytest.approx(exact, abs=4 * np.std(apart) / 20)
    with pytest.raises(ValueError, match="subsets of 8 of 7 and 7 images: write a size from 2 to"):
        kernel_distance(x, y, subset_size=8)


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
    with pytest.raises(ValueError, match=r"are of \(3,\) features and the network has 2048"):
        read_statistics(path, described, 2048)
    np.savez(path, mu=fit.mean, sigma=fit.covariance)  # another program's
    assert read_statistics(path, described, 3).fit.num_examples == 0
    np.savez(path, mean=fit.mean)
    with pytest.raises(ValueError, match=r"give a \.npz with mu and sigma"):
        read_statistics(path, described, 3)


def test_grey_images_are_the_colour_ones_of_three_equal_channels(monkeypatch):
    seen = []

    def features(x, convolve):
        del convolve
        seen.append(x)
        return jnp.zeros((x.shape[0], 2048))

    monkeypatch.setattr(inception, "_features", features)
    grey = RNG.integers(0, 256, (2, 8, 8, 1), dtype=np.uint8)
    params = {"logits": jnp.zeros((2048, 1008))}
    for images in (grey, np.repeat(grey, 3, axis=3)):
        assert inception.inception(params, jnp.asarray(images))["logits"].shape == (2, 1008)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert seen[0].shape == (2, 299, 299, 3)
    assert float(jnp.max(jnp.abs(seen[0]))) <= 1
