"""Factors of shapes, by numbers of others: SplitMix64, areas, Philox's order."""

import numpy as np
import pytest

from ebm_jax.data import toy_density
from ebm_jax.data.batches import batch_indices, epoch_order
from ebm_jax.data.sources import combinations, factors, shapes
from ebm_jax.data.sources.toy2d import _moon

NUM_VALUES = (3, 6, 20, 16, 16)


def test_hashes_are_those_of_splitmix64():
    """The first numbers of the published generator, begun with 0."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC]
    assert factors._hash(np.arange(4, dtype=np.uint64)).tolist() == expected


def test_a_tenth_is_held_out_by_its_hash():
    hashes = factors._hash(np.arange(1_000, dtype=np.uint64)).tolist()
    held_out = [i for i in range(1_000) if hashes[i] % 10 == 0]
    assert 60 < len(held_out) < 140
    test, train = (factors.split_indices(1_000, split) for split in ("test", "train"))
    assert test.tolist() == sorted(held_out, key=hashes.__getitem__)
    others = [i for i in range(1_000) if i not in held_out]
    assert train.tolist() == sorted(others, key=hashes.__getitem__)


CLASSES = np.array([[0, 0, 0, 0, 0], [2, 5, 19, 15, 15], [1, 1, 5, 3, 6]])


def test_values_of_factors():
    expected = [
        [1, 0.5, 0, 0, 0], [3, 1, 2 * np.pi, 1, 1], [2, 0.6, 10 * np.pi / 19, 0.2, 0.4],
    ]  # fmt: skip
    np.testing.assert_allclose(factors.factor_values(CLASSES, NUM_VALUES), expected)
    one = factors.factor_values(CLASSES[:1], (1, 1, 1, 1, 1))
    np.testing.assert_array_equal(one, [[1, 0.5, 0, 0, 0]])
    two = factors.factor_values(np.array([[0, 1, 1, 0, 1]]), (1, 2, 2, 1, 2))
    np.testing.assert_array_equal(two, [[1, 1, 2 * np.pi, 0, 1]])


def test_labels_of_factors():
    def label(name):
        return factors.labels_of(name, CLASSES, NUM_VALUES)

    for column, name in enumerate(factors.FACTORS):
        np.testing.assert_array_equal(label(name), CLASSES[:, column])
        assert label(name).dtype == np.int32
    np.testing.assert_allclose(label("size"), [[0.5], [1], [0.6]], rtol=1e-6)
    np.testing.assert_allclose(label("position"), [[0, 0], [1, 1], [0.2, 0.4]], rtol=1e-6)
    np.testing.assert_allclose(
        label("size_and_position"), [[0.5, 0, 0], [1, 1, 1], [0.6, 0.2, 0.4]], rtol=1e-6
    )
    angle = 10 * np.pi / 19
    np.testing.assert_allclose(
        label("rotation"), [[1, 0], [1, 0], [np.cos(angle), np.sin(angle)]], atol=1e-6
    )
    for name, size in factors.VALUES.items():
        assert label(name).shape == (3, size)
        assert label(name).dtype == np.float32
    images = np.zeros((3, 4, 4, 1), np.uint8)
    found = factors.dataset("x", "train", images, CLASSES, "scale", NUM_VALUES)
    assert (found.name, found.split, found.num_classes) == ("x", "train", 6)
    assert found.value_range == (0.0, 255.0)
    assert found.images is images
    assert factors.dataset("x", "train", images, CLASSES, "size", NUM_VALUES).num_classes == 1


def test_concepts_of_labels():
    both = np.array([0.5, 0.1, 0.2])
    parts = {name: both[part].tolist() for name, part in
             factors.concepts_of("size_and_position").items()}  # fmt: skip
    assert parts == {"size": [0.5], "position": [0.1, 0.2]}
    assert factors.concepts_of("size") == {"size": slice(None)}


def test_factors_that_there_are_not():
    with pytest.raises(ValueError, match="x has no split 'others'; it has train, test"):
        factors.check("x", "others", "shape")
    with pytest.raises(ValueError, match="x has no factor 'color'; it has shape, scale"):
        factors.check("x", "train", "color")
    factors.check("x", "others", "size", ("train", "others"))
    factors.check("x", "test", "y_position")


@pytest.mark.parametrize("size", [32, 64])
def test_areas_of_shapes(size):
    """At scale 1: squares of side a, ellipses of pi a^2 / 8, with 17 and 33 pixels of margins."""
    grid = shapes.GRIDS[size]
    side = np.sqrt(2) * ((size - (grid.places - 1)) / 2 - 0.5)
    middle = grid.places // 2
    classes = np.array([[kind, 5, 0, middle, middle] for kind in range(3)])
    square, ellipse, heart = shapes.draw(grid, classes).astype(float)
    assert square.sum() == pytest.approx(side**2, rel=0.12)
    assert ellipse.sum() == pytest.approx(np.pi / 8 * side**2, rel=0.12)
    assert 0.3 < heart.sum() / square.sum() < 0.8
    half = shapes.draw(grid, classes - [0, 5, 0, 0, 0])[0].sum()
    assert half == pytest.approx(side**2 / 4, rel=0.25)
    rows = np.flatnonzero(ellipse.any(1))
    columns = np.flatnonzero(ellipse.any(0))
    assert len(rows) > 1.5 * len(columns)  # upright


@pytest.mark.parametrize("kind", range(3))
def test_shapes_stay_inside_and_lie_where_they_are_said_to(kind):
    grid = shapes.GRIDS[32]
    corners = np.array([[kind, 5, 0, x, y] for x in (0, 15) for y in (0, 15)])
    images = shapes.draw(grid, corners).astype(float)
    assert not images[:, [0, -1]].any()
    assert not images[:, :, [0, -1]].any()
    pixel = np.arange(32) + 0.5
    for (_, _, _, x, y), image in zip(corners, images, strict=True):
        across = (image.sum(0) @ pixel) / image.sum()
        down = (image.sum(1) @ pixel) / image.sum()
        assert across == pytest.approx(8.5 + x, abs=0.6)
        assert down == pytest.approx(8.5 + y, abs=1.5)


def test_an_ellipse_turns_counterclockwise():
    """At an eighth of a turn its upper end leans to the left."""
    grid = shapes.Grid(32, orientations=9, places=16)
    (image,) = shapes.draw(grid, np.array([[1, 5, 1, 8, 8]])).astype(float)
    rows, columns = np.nonzero(image)
    assert np.corrcoef(rows, columns)[0, 1] > 0.5  # down is to the right


def test_the_heart_is_upright():
    """Two lobes above, one tip below: its upper half is wider."""
    grid = shapes.GRIDS[64]
    (image,) = shapes.draw(grid, np.array([[2, 5, 0, 16, 16]])).astype(float)
    widths = image.sum(1)[image.any(1)]
    assert widths[: len(widths) // 3].mean() > 1.7 * widths[-len(widths) // 3 :].mean()
    assert widths[-1] < widths[0] / 3


def test_shapes_are_their_inequalities():
    """Pixel by pixel, (u, v) as a complex number; the heart's own u is 1.15 u, w is .2 - 1.15 v."""
    grid = shapes.GRIDS[32]
    rng = np.random.default_rng(0)
    classes = np.stack([rng.integers(0, n, 30) for n in NUM_VALUES], axis=1)
    places = np.arange(32) + 0.5
    for (kind, scale, turn, x, y), image in zip(classes, shapes.draw(grid, classes), strict=True):
        z = (places[None] - 8.5 - x) + 1j * (places[:, None] - 8.5 - y)
        z *= np.exp(2j * np.pi * turn / 19) / ((0.5 + scale / 10) * 8 / np.sqrt(2))
        u, v, w = z.real, z.imag, 0.2 - 1.15 * z.imag
        left = [abs(u) - 1, u**2 / 0.25 + v**2 - 1,
                ((1.15 * u) ** 2 + w**2 - 1) ** 3 - (1.15 * u) ** 2 * w**3][kind]  # fmt: skip
        if kind == 0:
            left = np.maximum(left, abs(v) - 1)
        clear = abs(left) > 1e-9  # not on the edge, where rounding decides
        np.testing.assert_array_equal(image[clear], (left <= 0)[clear])


def test_every_combination_once_the_last_factor_fastest():
    grid = shapes.Grid(8, shapes=2, scales=1, orientations=1, places=3)
    classes = shapes.all_classes(grid)
    assert classes.shape == (18, 5)
    assert classes[:4, 3:].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0]]
    assert classes[9].tolist() == [1, 0, 0, 0, 0]


def test_shapes_are_written_as_dsprites_is(tmp_path):
    """A first factor, the color, of one class and the value 1."""
    grid = shapes.Grid(8, shapes=2, scales=1, orientations=2, places=3)
    shapes.write_archive(tmp_path / "x.npz", grid)
    classes = shapes.all_classes(grid)
    with np.load(tmp_path / "x.npz") as found:
        assert found["latents_classes"].dtype == np.int64
        np.testing.assert_array_equal(found["latents_classes"], np.insert(classes, 0, 0, axis=1))
        values = factors.factor_values(classes, (2, 1, 2, 3, 3))
        np.testing.assert_array_equal(found["latents_values"], np.insert(values, 0, 1, axis=1))
        np.testing.assert_array_equal(found["imgs"], shapes.draw(grid, classes))
        assert sorted(found) == ["imgs", "latents_classes", "latents_values"]


def order(number, seed, purpose):
    words = np.random.Philox(key=np.array([seed, purpose], np.uint64)).random_raw(number)
    return np.argsort(words, kind="stable")


@pytest.mark.parametrize("seed", [0, 5])
def test_orders_are_those_of_philox(seed):
    """Purpose 0 chooses the seen places, 1 the half that is held out, 2 orders the images."""
    chosen = combinations.Combinations("both", 0.25, 0.7, seed)
    seen = set(order(256, seed, 0)[:64].tolist())
    pairs = [(s, p) for s in range(6) for p in range(256)]
    unseen = [(s, p) for s, p in pairs if p not in seen and s != 2]
    held_out = [unseen[i] for i in order(len(unseen), seed, 1)[: len(unseen) // 2]]
    found = combinations.classes_of(chosen, "test", NUM_VALUES)
    expected = [held_out[i] for i in order(len(held_out), seed, 2)]
    assert [(s, 16 * x + y) for s, x, y in found[:, [1, 3, 4]].tolist()] == expected
    trained = [(s, p) for s, p in pairs if p in seen or s == 2]
    found = combinations.classes_of(chosen, "train", NUM_VALUES)
    expected = [trained[i] for i in order(len(trained), seed, 2)]
    assert [(s, 16 * x + y) for s, x, y in found[:, [1, 3, 4]].tolist()] == expected


@pytest.mark.parametrize("seed", [0, 3])
def test_epochs_are_orders_of_philox_and_go_on_in_the_next(seed):
    orders = [order(7, seed, epoch) for epoch in range(3)]
    stream = np.concatenate(orders)
    found = np.concatenate([batch_indices(7, 5, step, seed) for step in range(4)])
    np.testing.assert_array_equal(found, stream[:20])
    kept = epoch_order(7, 0, seed)
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1


def test_points_of_the_plane_are_drawn_as_they_always_were():
    """Noise is added to a place of the generator's choice, in that order."""

    def drawn(name):
        return toy_density(name).sample(np.random.default_rng(3), 50), np.random.default_rng(3)

    found, rng = drawn("eight_gaussians")
    noise = rng.standard_normal((50, 2)) / 2
    angle = np.pi / 4 * rng.integers(0, 8, 50)
    np.testing.assert_allclose(
        found, noise + 4 * np.stack([np.cos(angle), np.sin(angle)], 1), rtol=1e-5
    )
    found, rng = drawn("rings")
    angle = rng.uniform(0, 2 * np.pi, 50)
    place = rng.choice([1.0, 2.0, 3.0, 4.0], 50)[:, None] * np.stack(
        [np.cos(angle), np.sin(angle)], 1
    )
    np.testing.assert_allclose(found, place + 0.2 * rng.standard_normal((50, 2)), rtol=1e-4)
    found, rng = drawn("two_moons")
    place = _moon(rng.uniform(0, np.pi, 50), rng.integers(0, 2, 50))
    np.testing.assert_allclose(
        found, place + 0.2 * rng.standard_normal((50, 2)), rtol=1e-4, atol=1e-6
    )
    found, rng = drawn("checkerboard")
    square = rng.integers(0, 8, 50)
    row = square // 2
    corner = np.stack([8 * (square % 2) + 4 * (row % 2), 4 * row], 1) - 8.0
    np.testing.assert_allclose(
        found, corner + 4 * rng.uniform(1e-6, 1 - 1e-6, (50, 2)), rtol=1e-5, atol=1e-6
    )
