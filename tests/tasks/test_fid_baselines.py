"""Which images stand beside samples, and why some do not."""

import types

import numpy as np

from ebm_jax.data import Dataset
from ebm_jax.evaluation.fidelity.gaussian_images import fit_gaussian_images
from ebm_jax.tasks import _fid_baselines


def dataset(split, number):
    images = np.random.default_rng(number).integers(0, 256, (number, 2, 2, 1), dtype=np.uint8)
    return Dataset("made", split, images, np.zeros(number, np.int32), 1, (0.0, 255.0))


TRAINING, HELD_OUT = dataset("train", 30), dataset("validation", 8)
TRAINED = types.SimpleNamespace(
    run=types.SimpleNamespace(
        dataset=TRAINING,
        held_out=lambda: HELD_OUT,
        general=types.SimpleNamespace(held_out_split="validation", seed=3),
    )
)


def plan(split, number, num_features):
    return _fid_baselines.plan(TRAINED, split, number, num_features, max_values=100)


def test_real_images_are_of_the_other_split():
    floor, gaussian = plan(TRAINING, 20, 3)
    assert (floor.details["split"], floor.number) == ("validation", 8)
    np.testing.assert_array_equal(floor.draw(2, 5), HELD_OUT.images[2:5])
    assert (gaussian.details["split"], gaussian.number) == ("train", 20)
    assert gaussian.details["seed"] == 3
    drawn = fit_gaussian_images(TRAINING.images).draw(0, 2, seed=3)
    np.testing.assert_array_equal(gaussian.draw(0, 2), drawn)
    assert _fid_baselines.num_measured([floor, gaussian]) == 28
    floor, _ = plan(HELD_OUT, 20, 3)
    np.testing.assert_array_equal(floor.draw(0, 20), TRAINING.images[:20])


def test_too_few_of_either_say_so():
    floor, gaussian = plan(TRAINING, 20, 10)  # eight held-out images for ten features
    assert floor.draw is None
    assert floor.reason.startswith("8 examples leave the covariance of 10 features singular")
    assert gaussian.draw is not None
    few = dataset("test", 4)  # as many as an image has values
    _, gaussian = plan(few, 20, 3)
    assert gaussian.draw is None
    assert gaussian.reason.startswith("4 examples leave the covariance of 4 features singular")
    assert _fid_baselines.num_measured(plan(TRAINING, 20, 40)) == 0
