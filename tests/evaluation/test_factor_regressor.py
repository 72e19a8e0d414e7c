"""The network that reads factors, on rendered shapes: what it reads, and what chance would."""

import numpy as np
import pytest

from ebm_jax.data.sources import factors, shapes
from ebm_jax.evaluation.images.factor_regressor import FactorRegressor

GRID = shapes.Grid(16, scales=6, orientations=1, places=8)


@pytest.mark.parametrize(
    ("label", "at_most", "chance"),
    [("shape", 0.15, 2 / 3), ("size", 0.1, 0.19), ("position", 0.03, 0.38)],
)
def test_held_out_shapes_are_read(label, at_most, chance):
    classes = np.random.default_rng(0).permutation(shapes.all_classes(GRID))
    images = 255 * shapes.draw(GRID, classes)[..., None]
    labels = factors.labels_of(label, classes, GRID.num_values)
    half = len(images) * 3 // 4
    regressor = FactorRegressor(images[:half], labels[:half], num_classes=3, num_steps=300)
    found = regressor.errors(images[half:], labels[half:])
    assert found.error < at_most
    assert 0 < found.standard_error < at_most
    others = regressor.errors(images[half:], np.roll(labels[half:], 1, axis=0))
    assert others.error == pytest.approx(chance, rel=0.2)
