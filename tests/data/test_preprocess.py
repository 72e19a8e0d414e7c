"""Scaling, dequantization, flips and padding against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.data import (
    dequantize,
    example_keys,
    intensity_scale,
    pad_images,
    random_flip,
    scale_images,
    scale_points,
    unscale_images,
    unscale_points,
)

ALL_INTENSITIES = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-1.0, 1.0, ALL_INTENSITIES / 127.5 - 1.0),
        (0.0, 1.0, ALL_INTENSITIES / 255.0),
        (-0.5, 1.25, ALL_INTENSITIES * (1.75 / 255) - 0.5),
    ],
)
def test_scaling_is_the_papers_and_inverts(low, high, expected):
    scaled = jax.jit(lambda x: scale_images(x, low, high))(ALL_INTENSITIES)
    assert scaled.dtype == jnp.float32
    # XLA multiplies by a rounded reciprocal: two roundings of numbers up to 2.
    np.testing.assert_allclose(scaled, expected, rtol=0, atol=2.5e-7)
    np.testing.assert_array_equal(unscale_images(scaled, low, high), ALL_INTENSITIES)


def test_unscaling_clips_and_rounds():
    values = jnp.array([-7.0, -1.0, 0.0, 0.499 / 127.5, 0.501 / 127.5, 1.0, 3.0])
    # 0 is intensity 127.5: rounding to even gives 128.
    expected = [0, 0, 128, 128, 128, 255, 255]
    np.testing.assert_array_equal(unscale_images(values, -1.0, 1.0), expected)
    np.testing.assert_array_equal(unscale_images(jnp.array([0.501 / 255]), 0.0, 1.0), [1])


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 1.0), (-4.0, 4.0)])
def test_dequantized_intensities_come_back_from_anywhere_in_their_cell(low, high):
    """By rounding, a quarter of them would be off by one, and half of the black ones become 1."""
    middle = scale_images(ALL_INTENSITIES, low, high, dequantized=True)
    np.testing.assert_allclose(
        middle, low + (high - low) * (ALL_INTENSITIES + 0.5) / 256, atol=1e-6 * (high - low)
    )
    for part in (0.001, 0.25, 0.5, 0.75, 0.999):
        x = low + (high - low) * ((ALL_INTENSITIES + np.float32(part)) / 256.0)
        np.testing.assert_array_equal(
            unscale_images(x, low, high, dequantized=True), ALL_INTENSITIES
        )
    ends = jnp.array([low - 1, low, high, high + 1])
    np.testing.assert_array_equal(
        unscale_images(ends, low, high, dequantized=True), [0, 0, 255, 255]
    )


@pytest.mark.parametrize("dequantized", [False, True])
def test_scale_and_offset_are_those_of_the_images(dequantized):
    scale, offset = intensity_scale(-1.0, 3.0, dequantized=dequantized)
    scaled = scale_images(ALL_INTENSITIES, -1.0, 3.0, dequantized=dequantized)
    np.testing.assert_allclose(scaled, scale * ALL_INTENSITIES + offset, atol=1e-6)


def test_rounding_puts_a_quarter_of_dequantized_intensities_into_the_wrong_cell():
    """Between unit edges k + u and k' + 1/2 of 255 u: the reason for `dequantized`."""
    keys = example_keys(jax.random.key(3), jnp.arange(64))
    x = dequantize(keys, np.repeat(ALL_INTENSITIES, 64, 0), -1.0, 1.0)
    rounded = np.asarray(unscale_images(x, -1.0, 1.0))
    assert np.mean(rounded != ALL_INTENSITIES) == pytest.approx(0.25, abs=0.02)
    exact = np.asarray(unscale_images(x, -1.0, 1.0, dequantized=True))
    # A draw of u = 1 - 2^-24 rounds up to the next cell: 16,384 draws have none here.
    np.testing.assert_array_equal(exact, np.repeat(ALL_INTENSITIES, 64, 0))


def test_points_are_mapped_range_to_range_and_back():
    points = np.array([[-8.0, 0.0], [8.0, 2.0], [20.0, -8.0]])
    scaled = scale_points(points, (-8.0, 8.0), -1.0, 3.0)
    np.testing.assert_allclose(scaled, [[-1.0, 1.0], [3.0, 1.5], [6.0, -1.0]], rtol=1e-15)
    np.testing.assert_allclose(unscale_points(scaled, (-8.0, 8.0), -1.0, 3.0), points, atol=1e-14)


def test_dequantized_values_are_uniform_in_their_bin():
    intensity, n = 200, 4000
    images = np.full((n, 1, 1, 1), intensity, np.uint8)
    keys = example_keys(jax.random.key(0), jnp.arange(n))
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        values = np.asarray(dequantize(keys, images, low, high)).ravel()
        width = (high - low) / 256
        unit = (values - low) / width - intensity
        assert unit.min() >= 0.0
        assert unit.max() <= 1.0
        # Largest distance between the empirical and the uniform distribution: 1.95 / sqrt(n) has
        # probability .001.
        distance = np.abs(np.sort(unit) - (np.arange(n) + 0.5) / n).max()
        assert distance < 1.95 / np.sqrt(n)
    # The quantized intensity can be read back.
    np.testing.assert_array_equal(np.floor(values / width + 128 + 1e-4), intensity)


def test_flips_mirror_half_of_the_images():
    n = 2000
    images = np.arange(n * 6, dtype=np.int32).reshape(n, 2, 3, 1)
    keys = example_keys(jax.random.key(1), jnp.arange(n))
    flipped = np.asarray(random_flip(keys, images))
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (flipped == images).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(n)


@pytest.mark.parametrize("function", [random_flip, lambda k, x: dequantize(k, x, -1.0, 1.0)])
def test_draws_do_not_depend_on_the_number_of_devices(function):
    images = np.random.default_rng(0).integers(0, 256, (16, 4, 5, 3)).astype(np.uint8)
    rng_key = jax.random.key(7)
    whole = function(example_keys(rng_key, jnp.arange(16)), images)

    def on_device(part):
        first = jax.lax.axis_index("batch") * part.shape[0]
        return function(example_keys(rng_key, first + jnp.arange(part.shape[0])), part)

    parts = jax.pmap(on_device, axis_name="batch")(images.reshape(8, -1, 4, 5, 3))
    np.testing.assert_array_equal(np.asarray(parts).reshape(whole.shape), whole)


def test_padding_centers_the_image():
    images = np.random.default_rng(0).integers(1, 256, (2, 28, 27, 1)).astype(np.uint8)
    padded = pad_images(images, 32)
    assert isinstance(padded, np.ndarray)
    assert padded.dtype == np.uint8
    np.testing.assert_array_equal(padded[:, 2:30, 2:29], images)
    assert padded.sum() == images.sum()
    on_device = jax.jit(lambda x: pad_images(x, 32, -1.0))(images.astype(np.float32))
    np.testing.assert_array_equal(on_device[:, 2:30, 2:29], images)
    assert on_device[0, 0, 0, 0] == -1.0


@pytest.mark.parametrize("library", [np, jnp])
def test_padding_of_any_number_of_axes(library):
    """The last three are the image's; an odd margin has its extra row or column at the end."""
    image = library.arange(6).reshape(2, 3, 1) + 1
    for shape in ((2, 3, 1), (1, 1, 2, 3, 1)):
        found = pad_images(image.reshape(shape), 4)
        assert isinstance(found, np.ndarray if library is np else jax.Array)
        padded = [[0, 0, 0, 0], [1, 2, 3, 0], [4, 5, 6, 0], [0, 0, 0, 0]]
        assert found.reshape(4, 4).tolist() == padded
        assert found.shape == (*shape[:-3], 4, 4, 1)
    same = pad_images(image, 3, 7)
    assert same[..., 0].tolist() == [[1, 2, 3], [4, 5, 6], [7, 7, 7]]


def test_dequantization_is_uniform_noise_of_each_key():
    keys = example_keys(jax.random.key(2), np.array([5, 9]))
    images = np.arange(12, dtype=np.uint8).reshape(2, 2, 3, 1) * 20
    noise = np.stack([jax.random.uniform(key, (2, 3, 1)) for key in keys])
    expected = -2.0 + 6.0 / 256 * (images + noise.astype(np.float64))
    np.testing.assert_allclose(dequantize(keys, images, -2.0, 4.0), expected, atol=1e-6)
    folded = [jax.random.fold_in(jax.random.key(2), i) for i in (5, 9)]
    np.testing.assert_array_equal(jax.random.key_data(keys), [*map(jax.random.key_data, folded)])


def test_padding_refuses_larger_images():
    with pytest.raises(ValueError, match="28x27 cannot be padded to 24x24"):
        pad_images(np.zeros((1, 28, 27, 1), np.uint8), 24)
