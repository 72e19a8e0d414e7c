"""Charts as they are seen: colors, and where they are."""

import subprocess
import sys

import numpy as np
from PIL import Image

from ebm_jax.io import charts


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
    picture = charts.density_picture(lower_right, upper_left, samples, extent=(-4, 4, -4, 4))
    assert (picture.dtype, picture.ndim, picture.shape[2]) == (np.uint8, 3, 3)
    learned, true = panel_centroid(picture, 0, 3), panel_centroid(picture, 1, 3)
    assert learned[0] > 0.6
    assert learned[1] < 0.4
    assert true[0] < 0.4
    assert true[1] > 0.6
    alone = charts.density_picture(lower_right, extent=(-4, 4, -4, 4))
    assert alone.shape[1] < picture.shape[1] / 2


def test_curves_and_histograms_are_drawn(tmp_path):
    steps = np.arange(1, 50)
    charts.line_figure(
        tmp_path / "a.png",
        steps,
        {"energy": 1.0 / steps, "gap": 1.0 / steps**2},
        x_label="step",
        y_label="energy",
        log_y=True,
    )
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_histograms_leave_out_what_is_far_and_what_is_not_finite():
    """With a value at 1e9 and a NaN the bars fill the panel, larger values to the right."""
    rng = np.random.default_rng(0)
    inside, outside = np.append(rng.normal(size=999), np.nan), 2 + rng.normal(size=999)
    outside[outside.argmax()] = 1e9
    values = {"inside": inside, "outside": outside}
    picture = charts.histograms_picture({"energy": values, "norm": values}).astype(int)
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
        "import sys, ebm_jax.io.charts, ebm_jax.io.image_grids;"
        "print([m for m in ('matplotlib', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


def test_shares_are_the_darker_the_larger_and_written_in_percent():
    """White where nothing is; two rows of one column each, one above the other."""
    picture = charts.shares_picture(
        {"one": np.array([[0.0], [1.0]])}, x_label="on", y_label="after", first=3
    )
    gray = picture.astype(float).mean(-1)
    is_dark = (picture[..., 2] < 130) & (picture[..., 2] > picture[..., 0] + 40)  # dark blue
    rows = np.flatnonzero(is_dark.mean(1) > 0.05)
    assert len(rows) > 0.25 * len(gray)
    assert np.ptp(rows) == len(rows) - 1  # one block, below the white one
    assert rows[0] > 0.4 * len(gray)
    other = charts.shares_picture({"one": np.array([[0.0], [1.0]])}, x_label="on", y_label="after")
    assert (other != picture).any()  # the numbers of the rows


def test_names_of_many_curves_stand_beside_them():
    def width_of_axes(number):
        lines = {f"curve {i}": [0.0, i] for i in range(number)}
        picture = charts.curves_picture([charts.Curves("", [0, 1], lines)])
        is_frame = (picture[..., :3] < 60).all(-1)
        columns = np.flatnonzero(is_frame.mean(0) > 0.5)
        return columns[-1] - columns[0]

    assert width_of_axes(6) < 0.9 * width_of_axes(5)
