"""Combinations of size and place: which are seen, which are held out, and what they look like."""

import numpy as np
import pytest

from ebm_jax.data import Combinations, load_dataset
from ebm_jax.data.sources import combinations, factors, shapes

GRID = shapes.GRIDS[32]
SCALES = np.linspace(0.5, 1, 6)


def pairs(split, seen="size", share=0.25, reference_size=0.7, seed=0):
    """{(scale class, place)} of a split, and how many images it has."""
    chosen = Combinations(seen, share, reference_size, seed)
    classes = combinations.classes_of(chosen, split, GRID.num_values)
    assert np.all(classes[:, 0] == 0)
    assert np.all(classes[:, 2] == 7)  # of 20; of 40 it is 15
    return {(s, 16 * x + y) for s, x, y in classes[:, [1, 3, 4]].tolist()}, len(classes)


@pytest.mark.parametrize("share", [1 / 256, 0.25, 254 / 256])
def test_splits_are_those_of_the_protocol(share):
    """By counting: rho P places in S sizes, P places in one, half of (1 - rho) P (S - 1)."""
    size, position, both, test, others = (
        pairs(split, seen, share)
        for split, seen in (
            ("train", "size"), ("train", "position"), ("train", "both"), ("test", "both"),
            ("others", "both"),
        )
    )  # fmt: skip
    num_seen = round(256 * share)
    places = {place for _, place in size[0]}
    assert len(places) == num_seen
    assert size[0] == {(s, place) for s in range(6) for place in places}
    assert position[0] == {(2, place) for place in range(256)}
    assert both[0] == size[0] | position[0]
    assert not test[0] & both[0]
    assert test[1] == (256 - num_seen) * 5 // 2
    assert others[0] == {(s, place) for s in range(6) for place in range(256)} - test[0]
    for found, number in (size, position, both, test, others):
        assert len(found) == number  # none twice
    for seen in ("size", "position"):
        assert pairs("test", seen, share) == test


def test_sizes_are_told_apart_and_not_their_last_digits():
    assert pairs("test", reference_size=0.7 + 9e-7) == pairs("test")
    assert pairs("test", reference_size=0.8) != pairs("test")


def test_seeds_shuffle_the_places():
    seen = [{place for _, place in pairs("train", seed=seed)[0]} for seed in (0, 0, 1)]
    assert seen[0] == seen[1]
    shared = len(seen[0] & seen[2])  # hypergeometric: mean 16, standard deviation 3
    assert abs(shared - 16) < 12
    first = sorted(seen[0])
    assert first != list(range(64))


def test_labels_are_those_of_the_images(tmp_path):
    """Centers of mass are places, areas grow as squares of the scale; the three labels agree."""
    chosen = Combinations("both", 0.25, 0.5, 0)
    by_label = {
        label: load_dataset("shapes", "test", data_dir=tmp_path, label=label, combinations=chosen)
        for label in ("size", "position", "size_and_position")
    }
    images, labels = by_label["size_and_position"].images, by_label["size_and_position"].labels
    np.testing.assert_array_equal(labels[:, :1], by_label["size"].labels)
    np.testing.assert_array_equal(labels[:, 1:], by_label["position"].labels)
    for name, part in factors.concepts_of("size_and_position").items():
        np.testing.assert_array_equal(labels[:, part], by_label[name].labels)
    white = images[..., 0] / 255
    area = white.sum((1, 2))
    x, y = (np.tensordot(white, np.arange(32) + 0.5, (axis, 0)).sum(1) / area for axis in (2, 1))
    np.testing.assert_allclose(x, 8.5 + 15 * labels[:, 1], atol=0.2)
    np.testing.assert_allclose(y, 8.5 + 15 * labels[:, 2], atol=0.2)
    means = [area[np.isclose(labels[:, 0], scale)].mean() for scale in SCALES[1:]]
    largest = (8.5 - 0.5) / np.sqrt(2)
    np.testing.assert_allclose(means, (2 * largest * SCALES[1:]) ** 2, rtol=0.12)  # of whole pixels


def test_dsprites_has_the_same_slices(archives):
    """Its archive and the drawn shapes of 64 x 64 are one grid of factors."""
    grid = shapes.GRIDS[64]
    classes = shapes.all_classes(grid)
    squares = classes[(classes[:, 0] == 0) & (classes[:, 2] == 15)]
    path = archives.folder("dsprites") / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    shapes.write_archive(path, grid, squares)
    chosen = Combinations("both", 0.05, 0.5, 3)
    for split in ("train", "test"):
        found, drawn = (
            load_dataset(
                name, split, data_dir=archives.data_dir, label="position", combinations=chosen,
                **size,
            )
            for name, size in (("dsprites", {}), ("shapes", {"image_size": 64}))
        )  # fmt: skip
        np.testing.assert_array_equal(found.images, drawn.images)
        np.testing.assert_array_equal(found.labels, drawn.labels)
    assert found.num_examples == (1_024 - 51) * 5 // 2


def test_damaged_archive(archives):
    """An archive without all combinations says which it lacks."""
    grid = shapes.GRIDS[64]
    path = archives.folder("dsprites") / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    shapes.write_archive(path, grid, shapes.all_classes(grid)[::9_000])
    with pytest.raises(ValueError, match=r"dsprites: expected every combination .* \[0, .*\]$"):
        load_dataset("dsprites", data_dir=archives.data_dir,
                     combinations=Combinations("size", 0.05, 0.5, 0))  # fmt: skip


@pytest.mark.parametrize(
    ("values", "split", "message"),
    [
        ({}, "validation", "shapes has no split 'validation'; it has train, test, others"),
        ({"share": 0.001}, "train", "seen_places: expected 0.00391 to 0.992, .* 256 places, got 0"),
        ({"share": 0.999}, "train", "seen_places: expected .* got 0.999"),
        ({"reference_size": 0.6000015}, "test", "reference_size: expected one of 0.5, 0.6, "),
        ({"reference_size": 0.55}, "test", "reference_size: expected one of 0.5, 0.6, .* got 0.55"),
    ],
)
def test_combinations_that_there_are_not(tmp_path, values, split, message):
    chosen = Combinations("size", 0.25, 0.5, 0)._replace(**values)
    with pytest.raises(ValueError, match=message):
        load_dataset("shapes", split, data_dir=tmp_path, combinations=chosen)


def test_other_sets_have_no_combinations(tmp_path):
    with pytest.raises(ValueError, match="digits has no option 'combinations'"):
        load_dataset("digits", combinations=Combinations("size", 0.25, 0.5, 0))
