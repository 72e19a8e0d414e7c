"""Pictures: where each pixel ends up, and files that other programs read."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ebm_jax.io import plotting


def numbered(number, height=8, width=8, channels=1):
    """Image i is filled with the value i."""
    fill = np.arange(number, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(fill, (number, height, width, channels)).copy()


def test_grid_places_every_image_row_by_row_and_enlarges_small_ones():
    grid = plotting.image_grid(numbered(7), columns=3, padding=2)
    assert grid.shape == (3 * 50 + 2, 3 * 50 + 2, 1)  # 8 x 8 enlarged six times to 48
    for i in range(7):
        top, left = 2 + 50 * (i // 3), 2 + 50 * (i % 3)
        np.testing.assert_array_equal(grid[top : top + 48, left : left + 48], i)
    assert (grid == 255).sum() == grid.size - 7 * 48 * 48


def test_enlarging_repeats_pixels_exactly():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (1, 8, 12, 3), dtype=np.uint8)
    grid = plotting.image_grid(image, padding=0)
    assert grid.shape == (48, 72, 3)
    np.testing.assert_array_equal(grid[::6, ::6], image[0])
    np.testing.assert_array_equal(grid[5::6, 5::6], image[0])


@pytest.mark.parametrize(("size", "factor"), [(8, 6), (28, 2), (32, 2), (48, 1), (64, 1)])
def test_whole_factors(size, factor):
    grid = plotting.image_grid(numbered(1, size, size), padding=0)
    assert grid.shape == (size * factor, size * factor, 1)


def test_default_columns_are_about_square_and_few_images_make_no_empty_columns():
    assert plotting.image_grid(numbered(100), padding=0).shape == (480, 480, 1)
    assert plotting.image_grid(numbered(3), columns=8, padding=0).shape == (48, 144, 1)


def test_refusals():
    with pytest.raises(ValueError, match=r"shape \(8, 8, 1\)"):
        plotting.image_grid(numbered(1)[0])
    with pytest.raises(ValueError, match=r"shape \(0, 8, 8, 1\)"):
        plotting.image_grid(numbered(0))
    with pytest.raises(ValueError, match="images are float32; give uint8"):
        plotting.image_grid(np.zeros((1, 8, 8, 1), np.float32))
    with pytest.raises(ValueError, match="columns is 0"):
        plotting.image_grid(numbered(4), columns=0)
    with pytest.raises(ValueError, match=r"image is uint8 \(4, 4\)"):
        plotting.save_image("x.png", np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
def test_png_round_trip(tmp_path, channels):
    image = np.random.default_rng(1).integers(0, 256, (20, 30, channels), dtype=np.uint8)
    plotting.save_image(tmp_path / "new" / "a.png", image)
    found = np.asarray(Image.open(tmp_path / "new" / "a.png"))
    np.testing.assert_array_equal(found.reshape(image.shape), image)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


def test_side_by_side_holds_both_grids_unchanged_and_a_title_over_each():
    left = plotting.image_grid(numbered(4))
    right = plotting.image_grid(200 + numbered(9, 32, 32, 3))
    picture = plotting.side_by_side(left, right, ("generated at step 500", "real"))
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


def panel_centroid(picture, panel, panels):
    """Centre of the bright (yellow) colour of one panel, as fractions of the panel from below."""
    width = picture.shape[1] // panels
    part = picture[:, panel * width : (panel + 1) * width].astype(float)
    bright = (part[..., 0] > 200) & (part[..., 1] > 200) & (part[..., 2] < 120)
    rows, columns = np.nonzero(bright)
    return columns.mean() / width, 1 - rows.mean() / picture.shape[0]


def test_density_picture_shows_the_peak_where_it_is():
    x, y = np.meshgrid(np.linspace(-4, 4, 81), np.linspace(-4, 4, 81))
    lower_right = -((x - 2) ** 2 + (y + 2) ** 2) / 0.5
    upper_left = -((x + 2) ** 2 + (y - 2) ** 2) / 0.5 + 1000.0  # constants do not matter
    samples = np.random.default_rng(0).normal(size=(500, 2))
    picture = plotting.density_picture(lower_right, upper_left, samples, extent=(-4, 4, -4, 4))
    assert picture.dtype == np.uint8
    learned, true = panel_centroid(picture, 0, 3), panel_centroid(picture, 1, 3)
    assert learned[0] > 0.6
    assert learned[1] < 0.4
    assert true[0] < 0.4
    assert true[1] > 0.6
    alone = plotting.density_picture(lower_right, extent=(-4, 4, -4, 4))
    assert alone.shape[1] < picture.shape[1] / 2


def test_curves_and_histograms_are_drawn(tmp_path):
    steps = np.arange(1, 50)
    plotting.line_figure(
        tmp_path / "a.png",
        steps,
        {"energy": 1.0 / steps, "gap": 1.0 / steps**2},
        x_label="step",
        y_label="energy",
        log_y=True,
    )
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_columns_stand_under_their_titles():
    """Each column's ink begins below the highest title; the images are where they should be."""
    rng = np.random.default_rng(0)
    images = {
        name: rng.integers(0, 200, (3, 8, 8, channels), dtype=np.uint8)
        for name, channels in (("original", 1), ("a title of several words", 3), ("x", 1))
    }
    picture = plotting.columns_picture(images)
    grid_height, width = 3 * 82 + 2, 84
    assert picture.shape[1:] == (3 * width, 3)
    top = picture.shape[0] - grid_height
    assert 2 * 15 < top < 5 * 15
    for i, stack in enumerate(images.values()):
        column = picture[:, i * width : (i + 1) * width]
        np.testing.assert_array_equal(
            column[top:],
            np.broadcast_to(plotting.image_grid(stack, 1, min_tile=80), (grid_height, width, 3)),
        )
        assert column[top - 15 : top].min() < 128  # letters just above
    assert picture[: top - 18, :width].min() == 255  # a short title has one line


def test_histograms_leave_out_what_is_far_and_what_is_not_finite():
    """With a value at 1e9 and a NaN the bars fill the panel, larger values to the right."""
    rng = np.random.default_rng(0)
    inside, outside = np.append(rng.normal(size=999), np.nan), 2 + rng.normal(size=999)
    outside[outside.argmax()] = 1e9
    values = {"inside": inside, "outside": outside}
    picture = plotting.histograms_picture({"energy": values, "norm": values}).astype(int)
    height, width = picture.shape[:2]
    assert width > 2 * height
    first = picture[: int(0.75 * height), : width // 2]
    blue, orange = (
        np.nonzero(np.abs(first - colour).max(-1) < 30)[1]
        for colour in ((143, 187, 217), (255, 191, 134))
    )
    assert blue.mean() < orange.mean()
    assert np.ptp(np.append(blue, orange)) > 0.6 * width / 2


def test_importing_brings_in_neither_matplotlib_nor_pillow():
    code = (
        "import sys, ebm_jax.io.plotting;"
        "print([m for m in ('matplotlib', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_shares_are_the_darker_the_larger_and_written_in_percent():
    """White where nothing is; two rows of one column each, one above the other."""
    picture = plotting.shares_picture(
        {"one": np.array([[0.0], [1.0]])}, x_label="on", y_label="after", first=3
    )
    gray = picture.astype(float).mean(-1)
    is_dark = (picture[..., 2] < 130) & (picture[..., 2] > picture[..., 0] + 40)  # dark blue
    rows = np.flatnonzero(is_dark.mean(1) > 0.05)
    assert len(rows) > 0.25 * len(gray)
    assert np.ptp(rows) == len(rows) - 1  # one block, below the white one
    assert rows[0] > 0.4 * len(gray)
    other = plotting.shares_picture(
        {"one": np.array([[0.0], [1.0]])}, x_label="on", y_label="after"
    )
    assert (other != picture).any()  # the numbers of the rows


def test_names_of_many_curves_stand_beside_them():
    def width_of_axes(number):
        lines = {f"curve {i}": [0.0, i] for i in range(number)}
        picture = plotting.curves_picture([plotting.Curves("", [0, 1], lines)])
        is_frame = (picture[..., :3] < 60).all(-1)
        columns = np.flatnonzero(is_frame.mean(0) > 0.5)
        return columns[-1] - columns[0]

    assert width_of_axes(6) < 0.9 * width_of_axes(5)
