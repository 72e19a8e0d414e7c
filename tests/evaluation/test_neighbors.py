"""Nearest neighbors against brute force, of arrays and of files that are mapped."""

import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.evaluation.images import neighbors
from ebm_jax.evaluation.images.neighbors import nearest_neighbors

RNG = np.random.default_rng(0)


def by_brute_force(x, others, number):
    """(index, distance) by all differences; of equal distances the lower index first."""
    x, others = (np.asarray(y, np.float64).reshape(len(y), -1) for y in (x, others))
    every = np.stack([np.linalg.norm(row - others, axis=1) for row in x])
    index = np.argsort(every, axis=1, kind="stable")[:, :number]
    return index, np.take_along_axis(every, index, 1)


def check(found, expected):
    np.testing.assert_array_equal(found.indices, expected[0])
    np.testing.assert_allclose(found.distances, expected[1], rtol=1e-12)


def test_small_distances_are_exact():
    x, others = RNG.normal(size=(40, 6)), RNG.normal(size=(90, 6))
    others[17] = x[3] + 1e-9
    check(nearest_neighbors(x, others, 3), by_brute_force(x, others, 3))
    far = nearest_neighbors(x + 1e4, others + 1e4, 3)  # a float32 has three digits left here
    np.testing.assert_array_equal(far.indices, by_brute_force(x, others, 3)[0])
    assert far.distances[3, 0] == pytest.approx(np.sqrt(6) * 1e-9, rel=1e-2)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_many_blocks_and_a_scale(dtype, monkeypatch):
    monkeypatch.setattr(neighbors, "_VALUES", 1)  # 256 rows in a block
    monkeypatch.setattr(neighbors, "_ROWS", 7)
    others = RNG.integers(0, 256, (1_100, 4, 4, 3)).astype(dtype)
    x = RNG.normal(size=(20, 4, 4, 3))
    found = nearest_neighbors(x, others, 5, scale=1 / 127.5, offset=-1)
    check(found, by_brute_force(x, others.astype(np.float64) / 127.5 - 1, 5))


def test_a_file_that_is_mapped(tmp_path):
    others = RNG.integers(0, 256, (300, 8, 8, 1), dtype=np.uint8)
    np.save(tmp_path / "images.npy", others)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    x = others[[5, 250, 9]].astype(np.float64)
    check(nearest_neighbors(x, mapped, 2), by_brute_force(x, others, 2))


def test_arrays_of_jax_are_compared_in_float64():
    x, others = (jnp.asarray(RNG.normal(size=(n, 6)), jnp.float32) for n in (5, 40))
    check(nearest_neighbors(x, others, 3), by_brute_force(x, others, 3))


def test_a_mask_leaves_the_other_values_out():
    x, others = RNG.normal(size=(12, 4, 4, 2)), RNG.normal(size=(70, 4, 4, 2))
    mask = np.zeros((4, 4, 1), bool)
    mask[:2] = True
    found = nearest_neighbors(x, others, 4, mask=mask)
    check(found, by_brute_force(x[:, :2], others[:, :2], 4))


def test_more_equal_images_than_candidates():
    """Whether the candidates hold the nearest is in doubt there, and float64 decides."""
    others = np.repeat(RNG.integers(0, 256, (4, 30)).astype(np.uint8), 50, 0)
    others = others[RNG.permutation(200)]
    x = others[:9].astype(np.float64) + np.linspace(0, 1e-3, 9)[:, None]
    check(nearest_neighbors(x, others, 60), by_brute_force(x, others, 60))


def test_near_ties_that_float32_cannot_tell():
    """Distances that differ by 1e-9 of a thousand; the expression of products has 1e-4 of it."""
    base = RNG.normal(size=(1, 50))
    step = np.linspace(0, 1e-6, 200)[:, None]
    others = base * 1e3 * (1 + step)[RNG.permutation(200)]
    x = base * 1e3 * (1 + np.array([[-1e-6], [0.3e-6], [2e-6]]))
    check(nearest_neighbors(x, others, 3), by_brute_force(x, others, 3))


def test_the_uncertainty_in_float32_grows_with_what_is_multiplied(monkeypatch):
    x = np.array([[3.0, 4.0], [-3.0, -4.0]])
    others = np.array([[0.0, 10.0], [6.0, 8.0], [1.0, 0.0]])
    rows = neighbors._Rows(others.astype(np.float32), None, 1.0, 0.0)
    _, _, uncertainty = neighbors._candidates_in_float32(x, rows, 2)  # centered already
    expected = 8 * np.sqrt(2) * 2.0**-24 * (5 + 10) ** 2
    np.testing.assert_allclose(uncertainty, expected, rtol=1e-6)
    monkeypatch.setattr(neighbors, "_VALUES", 1)  # 256 in a block, and a part of one
    rows = rows._replace(values=np.tile(1e-3 * rows.values, (100, 1)))
    _, _, uncertainty = neighbors._candidates_in_float32(1e-3 * x, rows, 2)
    np.testing.assert_allclose(uncertainty, 1e-6 * expected, rtol=1e-6)


def test_all_are_asked_for():
    x, others = RNG.normal(size=(3, 5)), RNG.normal(size=(6, 5))
    check(nearest_neighbors(x, others, 6), by_brute_force(x, others, 6))
    assert nearest_neighbors(x[:0], others, 2).indices.shape == (0, 2)


def test_refusals():
    x, others = np.zeros((3, 5)), np.zeros((6, 5))
    for arguments, said in (
        ((x[:, :4], others, 1), r"expected examples of one shape, got \(4,\) and \(5,\)"),
        ((x, others, 0), "expected 1 <= num_neighbors <= 6, got 0"),
        ((x, others, 7), "expected 1 <= num_neighbors <= 6, got 7"),
        ((x + np.nan, others, 1), "expected finite examples, got NaN"),
    ):
        with pytest.raises(ValueError, match=said):
            nearest_neighbors(*arguments)
    with pytest.raises(ValueError, match="expected a mask that leaves some values"):
        nearest_neighbors(x, others, 1, mask=np.zeros(5, bool))


def test_in_float64_the_candidates_are_of_all_blocks(monkeypatch):
    """300 examples, 64 at a time: the nearest of each of 300 points is itself."""
    monkeypatch.setattr(neighbors, "_VALUES", 1)
    others = np.random.default_rng(0).normal(size=(300, 5))
    rows = neighbors._Rows(others, None, 2.0, 1.0)
    found = neighbors._candidates_in_float64(2 * others + 1, rows, 3)
    np.testing.assert_array_equal(found[:, 0], np.arange(300))
    nearest, _ = by_brute_force(2 * others + 1, 2 * others + 1, 3)
    np.testing.assert_array_equal(np.sort(found, 1), np.sort(nearest, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_groups_far_apart_are_ranked_by_what_float32_cannot_hold(dtype):
    """Two of 100 points about +-1e4: products of 1e8 are off by more than distances differ."""
    side = 1e4 * np.array([1.0, -1, 1, 1, -1]) * np.where(np.arange(200) % 2, 1, -1)[:, None]
    others = (side + RNG.normal(size=(200, 5))).astype(dtype)
    x = side[:6] + RNG.normal(size=(6, 5))
    check(nearest_neighbors(x, others, 3), by_brute_force(x, others, 3))
