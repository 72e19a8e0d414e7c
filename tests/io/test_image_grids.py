"""Images beside each other: where each pixel ends up, and files that other programs read."""

import io
import math

import jax
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ebm_jax.io import image_grids


def numbered(number, height=8, width=8, channels=1):
    """Image i is filled with the value i."""
    fill = np.arange(number, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(fill, (number, height, width, channels)).copy()


def lettered(height, width, texts, size):
    """White, with black texts whose letters have a size, by their upper left corners."""
    picture = Image.new("RGB", (width, height), "white")
    for place, text in texts.items():
        font = ImageFont.load_default(size)
        ImageDraw.Draw(picture).text(place, text, fill="black", font=font)
    return np.array(picture)


def test_grid_places_every_image_row_by_row_and_enlarges_small_ones():
    grid = image_grids.image_grid(numbered(7), columns=3, padding=2)
    assert grid.shape == (3 * 50 + 2, 3 * 50 + 2, 1)  # 8 x 8 enlarged six times to 48
    for i in range(7):
        top, left = 2 + 50 * (i // 3), 2 + 50 * (i % 3)
        np.testing.assert_array_equal(grid[top : top + 48, left : left + 48], i)
    assert (grid == 255).sum() == grid.size - 7 * 48 * 48


def test_enlarging_repeats_pixels_exactly():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 8, 12, 3), dtype=np.uint8)
    grid = image_grids.image_grid(image, padding=0)
    assert grid.shape == (48, 72, 3)
    np.testing.assert_array_equal(grid[::6, ::6], image[0])
    np.testing.assert_array_equal(grid[5::6, 5::6], image[0])


@pytest.mark.parametrize(("size", "factor"), [(8, 6), (28, 2), (32, 2), (48, 1), (64, 1)])
def test_whole_factors(size, factor):
    grid = image_grids.image_grid(numbered(1, size, size), padding=0)
    assert grid.shape == (size * factor, size * factor, 1)


def test_default_columns_are_about_square_and_few_images_make_no_empty_columns():
    assert image_grids.image_grid(numbered(100), padding=0).shape == (480, 480, 1)
    assert image_grids.image_grid(numbered(3), columns=8, padding=0).shape == (48, 144, 1)
    assert image_grids.image_grid(list(numbered(2))).shape == (52, 102, 1)
    assert image_grids.image_grid(numbered(5), columns=1, padding=0, min_tile=1).shape == (40, 8, 1)


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"shape \(8, 8, 1\)"):
        image_grids.image_grid(numbered(1)[0])
    with pytest.raises(ValueError, match=r"shape \(0, 8, 8, 1\)"):
        image_grids.image_grid(numbered(0))
    for channels in (2, 4):
        with pytest.raises(ValueError, match=rf"shape \(1, 8, 8, {channels}\)"):
            image_grids.image_grid(numbered(1, channels=channels))
        with pytest.raises(ValueError, match=rf"image is uint8 \(8, 8, {channels}\)"):
            image_grids.png(numbered(1, channels=channels)[0])
    with pytest.raises(ValueError, match="columns is 1 and padding -1; give at least 1 and 0"):
        image_grids.image_grid(numbered(1), padding=-1)
    with pytest.raises(ValueError, match=r"image is float32 \(8, 8, 1\)"):
        image_grids.png(np.zeros((8, 8, 1), np.float32))
    with pytest.raises(ValueError, match="images are float32; give uint8"):
        image_grids.image_grid(np.zeros((1, 8, 8, 1), np.float32))
    with pytest.raises(ValueError, match="columns is 0"):
        image_grids.image_grid(numbered(4), columns=0)
    with pytest.raises(ValueError, match=r"image is uint8 \(4, 4\)"):
        image_grids.save_image(tmp_path / "x.png", np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(tmp_path, channels):
    image = np.random.default_rng(1).integers(0, 256, (20, 30, channels), dtype=np.uint8)
    image_grids.save_image(tmp_path / "new" / "a.png", jax.numpy.asarray(image))
    found = np.asarray(Image.open(tmp_path / "new" / "a.png"))
    np.testing.assert_array_equal(found.reshape(image.shape), image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_side_by_side_holds_both_grids_unchanged_and_a_title_over_each():
    left = image_grids.image_grid(numbered(4))
    right = image_grids.image_grid(200 + numbered(9, 32, 32, 3))
    picture = image_grids.side_by_side(left, right, ("generated at step 500", "real"))
    top = 16 + 30
    np.testing.assert_array_equal(
        picture[top : top + left.shape[0], 16 : 16 + left.shape[1]],
        np.broadcast_to(left, (*left.shape[:2], 3)),
    )
    np.testing.assert_array_equal(
        picture[top : top + right.shape[0], -16 - right.shape[1] : -16], right
    )
    titles = picture[:top].min(axis=(0, 2)) < 128  # columns with ink
    assert titles[16 : 16 + left.shape[1]].any()
    assert titles[-16 - right.shape[1] :].any()
    assert not titles[:16].any()


def test_columns_stand_under_their_titles():
    """Each column's ink begins below the highest title; the images are where they should be."""
    rng = np.random.default_rng(0)
    images = {
        name: rng.integers(0, 200, (3, 8, 8, channels), dtype=np.uint8)
        for name, channels in (("original", 1), ("a title of several words", 3), ("x", 1))
    }
    picture = image_grids.columns_picture(images)
    grid_height, width = 3 * 82 + 2, 84
    assert picture.shape[1:] == (3 * width, 3)
    top = picture.shape[0] - grid_height
    assert 2 * 15 < top < 5 * 15
    for i, stack in enumerate(images.values()):
        column = picture[:, i * width : (i + 1) * width]
        np.testing.assert_array_equal(
            column[top:],
            np.broadcast_to(image_grids.image_grid(stack, 1, min_tile=80), (grid_height, width, 3)),
        )
        assert column[top - 15 : top].min() < 128  # letters just above
    assert picture[: top - 18, :width].min() == 255  # a short title has one line


def test_lines_in_a_tile():
    """The first line darker and above; y upwards; two pixels wide; cut off outside."""
    across, up = np.array([[0.0, 2.0], [4.0, 2.0]]), np.array([[3.0, 0.0], [3.0, np.inf]])
    tile = image_grids.lines_tile([across, up], extent=(0, 4, 0, 8), size=40)
    assert tile.shape == (40, 40, 3)
    gray = tile[..., 0].astype(int)
    assert abs(np.flatnonzero(gray[:, 10] < 128).mean() - 29.5) <= 1  # 3/4 down of 40
    assert np.sum(gray[:, 10] < 128) == 2
    column = gray[5]
    assert abs(np.argmin(column) - 29.5) <= 1
    assert 150 <= column.min() <= 170  # the last line: 160 of 255
    assert gray[:, 10].min() < 20
    assert gray[29:31, 30].min() < 20  # the first one lies above the other
    lines = [across + np.array([0, up]) for up in (0, 2, 4)]
    three = image_grids.lines_tile(lines, extent=(0, 4, 0, 8), size=40)[..., 0]
    assert 40 < three[18:22, 20].min() < 110  # the middle one: 80, sharpened by shrinking
    assert (image_grids.lines_tile([across + 1e9], extent=(0, 4, 0, 8), size=40) == 255).all()
    away = [line + np.array([-7, 5]) for line in (across, up)]  # what is seen moves along
    moved = image_grids.lines_tile(away, extent=(-7, -3, 5, 13), size=40)
    np.testing.assert_array_equal(moved, tile)


def test_lines_of_a_tile_grow_lighter_one_by_one():
    """Each fills a column from top to bottom; one that leaves keeps its direction."""

    def tile(number):
        y = np.repeat(np.linspace(0, 8, 100), 2)
        lines = [np.stack([x + np.tile([0, 2, 2, 0], 50), y], 1) for x in 3.0 * np.arange(number)]
        return image_grids.lines_tile(lines, extent=(0, 12, 0, 8), size=48)[24, 4::12]

    for number, shades in ((1, [0, 255]), (2, [0, 160]), (3, [0, 80, 160]), (4, [0, 53, 107, 160])):
        np.testing.assert_array_equal(tile(number)[: len(shades), 0], shades)
    nowhere, corner = ([[2, 2], [x, y]] for x, y in ((np.nan, np.nan), (0, 4)))
    square = {"extent": (0, 4, 0, 4), "size": 40}
    drawn = [image_grids.lines_tile([line], **square) for line in (nowhere, corner)]
    np.testing.assert_array_equal(*drawn)
    rows = []
    for down in (10.01, 10.34, 10.67):  # pixels: thirds of one are told apart
        line = [[0, 40 - down], [40, 40 - down]]
        ink = 255.0 - image_grids.lines_tile([line], extent=(0, 40, 0, 40), size=40)[:, 20, 0]
        rows.append(np.sum(ink * np.arange(40)) / np.sum(ink))
    np.testing.assert_allclose(np.diff(rows), 1 / 3, atol=0.02)
    far = image_grids.lines_tile([[[0, 0], [20, 10]]], **square)[..., 0]
    assert abs(np.flatnonzero(far[:, 30] < 128).mean() - 24.5) <= 1  # at 3 it is 1.5 high


def test_a_tile_has_its_text_in_the_upper_left():
    tile = image_grids.lines_tile([], extent=(0, 1, 0, 1), size=60, text="a W")
    np.testing.assert_array_equal(tile, lettered(60, 60, {(4, 2): "a W"}, 11))
    tile = image_grids.lines_tile([], extent=(0, 1, 0, 1), size=60, text="ab")
    rows, columns = np.nonzero(tile[..., 0] < 128)
    assert 2 <= rows.min() <= 6
    assert rows.max() < 16
    assert 4 <= columns.min() <= 5
    assert columns.max() < 22
    assert (image_grids.lines_tile([], extent=(0, 1, 0, 1), size=60) == 255).all()


def test_films_go_on_forever_in_their_time():
    rng = np.random.default_rng(0)
    frames = [np.full((20, 30, 3), value, np.uint8) for value in rng.permutation(4) * 60]
    with Image.open(io.BytesIO(image_grids.gif(frames, milliseconds=70))) as film:
        assert (film.n_frames, film.info["loop"]) == (4, 0)
        for i, frame in enumerate(frames):
            film.seek(i)
            assert film.info["duration"] == 70
            shown = np.asarray(film.convert("RGB")).astype(int)
            assert np.abs(shown - frame).max() <= 2


def test_side_by_side_of_other_titles_and_sizes():
    """Sizes by hand: margins of 16 around and between, 30 for titles."""
    small, large = np.full((50, 300, 1), 7, np.uint8), np.full((80, 300, 3), 9, np.uint8)
    picture = image_grids.side_by_side(small, large)
    assert picture.shape == (80 + 30 + 32, 600 + 48, 3)
    ink = (picture < 128).all(-1)
    assert (picture[46:96, 16:316] == 7).all()
    assert (picture[46:126, 332:632] == 9).all()
    assert ink[16:46].any()
    assert not ink[:16].any()
    assert ink[16:46, 16:316].any()
    assert ink[16:46, 332:632].any()
    assert (picture[100:126, 16:316] == 255).all()
    texts = {(16, 16): "generated", (332, 16): "real"}
    np.testing.assert_array_equal(picture[:46], lettered(46, 648, texts, 18))
    narrow = image_grids.side_by_side(small[:, :20], large[:, :10], ("generated", "real"))
    lengths = [np.ceil(ImageFont.load_default(18).getlength(t)) for t in ("generated", "real")]
    assert narrow.shape == (142, sum(lengths) + 48, 3)
    tall = ink[:46].any(1).nonzero()[0]
    assert 12 <= len(tall) <= 20  # letters of 18 points


def test_words_on_lines():
    found = image_grids._wrapped("a bc def ghij klmnopqrs t", lambda text: len(text) <= 7)
    assert found == ["a bc", "def", "ghij", "klmnopqrs", "t"]


def test_titles_of_columns_take_fifteen_pixels_a_line_and_six():
    """Left aligned with the column, their lowest line just above it."""
    seven, nine = (np.full((2, 48, 48, 1), value, np.uint8) for value in (7, 9))
    picture = image_grids.columns_picture({"a": nine, "b c": seven}, min_tile=1)
    assert picture.shape == (15 + 6 + 2 * 50 + 2, 2 * 52, 3)
    ink = (picture[:21] < 128).all(-1)
    assert 3 <= ink[:, :52].any(0).nonzero()[0].min() <= 5
    assert 55 <= 52 + ink[:, 52:].any(0).nonzero()[0].min() <= 57
    np.testing.assert_array_equal(
        picture[:21], lettered(21, 104, {(3, 3): "a", (55, 3): "b c"}, 12)
    )
    wrapped = image_grids.columns_picture({"aaaaaa bbbbbb": nine, "c": seven}, min_tile=1)
    texts = {(3, 3): "aaaaaa", (3, 18): "bbbbbb", (55, 18): "c"}
    np.testing.assert_array_equal(wrapped[:36], lettered(36, 104, texts, 12))
    assert wrapped.shape[0] == 2 * 15 + 6 + 102
    of_short = (wrapped[:36, 52:] < 128).all(-1).any(1).nonzero()[0]
    assert of_short.min() >= 18
    assert of_short.max() < 33
    length = math.ceil(ImageFont.load_default(12).getlength("step W"))
    for width, lines in ((length - 4, 1), (length - 5, 2)):  # and 2 on both sides
        fitting = image_grids.columns_picture({"step W": nine[:, :, :width]}, min_tile=1)
        assert fitting.shape == (15 * lines + 6 + 102, width + 4, 3)
    enlarged = image_grids.columns_picture({"a": np.zeros((1, 8, 8, 1), np.uint8)})
    assert enlarged.shape[1] == 80 + 4
