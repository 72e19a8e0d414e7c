"""What the fields of data do in --mode=train: which data are read, and what is done to them."""

import numpy as np
import pytest
from effects_stubs import SHAPE, full_bars, images, stubs
from effects_table import changed, shows, value_of
from ramp_method import config_of, ramp, trained

from ebm_jax import data
from ebm_jax.runs import build
from ebm_jax.runs.settings import ConfigError

__all__ = ["full_bars", "ramp", "stubs"]


@shows("data.low", "data.high", "data.random_flip", "data.dequantize")
def test_preprocessing(tmp_path, monkeypatch):
    """Images of a black left and a gray right half: every moment of the batch is known."""
    halves = np.zeros((120, *SHAPE), np.uint8)
    halves[:, :, 1] = 51
    halves = images("train")._replace(images=halves)
    config = config_of()
    config.training.update(batch_size=128, num_steps=1)
    plain = trained(config, tmp_path / "plain", monkeypatch, halves).lines[0]
    assert (plain["left"], plain["right"]) == pytest.approx((0, 0.2), abs=1e-6)
    moved = trained(changed(config, "data.low", "data.high"), tmp_path / "box", monkeypatch, halves)
    assert moved.lines[0]["left"] == pytest.approx(-3)
    assert moved.lines[0]["right"] == pytest.approx(-3 + 8 * 0.2)

    config.data.random_flip = True
    mirrored = trained(config, tmp_path / "flip", monkeypatch, halves).lines[0]
    assert mirrored["left"] + mirrored["right"] == pytest.approx(0.2)
    assert mirrored["left"] / 0.2 == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(128))
    assert 0 < mirrored["left"] / 0.2 < 1
    run = build.build(config)
    held_out = run.random_examples(halves, 120)
    assert np.max(held_out[:, 0, 0]) == 0  # no other image is

    config.data.random_flip = value_of("data.random_flip")
    noisy_config = changed(config, "data.dequantize")
    noisy = trained(noisy_config, tmp_path / "noise", monkeypatch, halves).lines[0]
    cells, error = np.array([0, 51]) / 256, 1 / 256 / np.sqrt(12 * 256)
    assert noisy["left"] == pytest.approx(cells[0] + 0.5 / 256, abs=4 * error)
    assert noisy["right"] == pytest.approx(cells[1] + 0.5 / 256, abs=4 * error)
    variance = noisy["square"] - np.mean((cells + 0.5 / 256) ** 2)
    assert variance > 0
    run = build.build(noisy_config)
    within = run.random_examples(halves, 120).ravel() * 256 % 1
    assert 0.4 < np.mean(within) < 0.6
    assert np.std(within) == pytest.approx(1 / np.sqrt(12), rel=0.1)


OPTIONS = (
    "data_dir", "pad_to", "image_size", "label", "path", "values", "combinations", "context",
    "actions",
)  # fmt: skip
OF_COMBINATIONS = tuple(
    f"data.{name}" for name in ("combinations", "seen_places", "reference_size", "places_seed")
)


@shows("held_out_split", "data_dir", *(f"data.{name}" for name in OPTIONS[2:]))
@shows(*OF_COMBINATIONS[1:])
def test_what_reaches_the_data_sets(monkeypatch):
    asked = []

    def load_dataset(name, split, **options):
        asked.append((name, split, options))
        return images(split)

    monkeypatch.setattr(build, "load_split", LOAD_SPLIT)
    monkeypatch.setattr(data, "load_dataset", load_dataset)
    none = dict.fromkeys(OPTIONS)
    build.build(config_of()).held_out()
    assert asked == [("cifar10", "train", none), ("cifar10", "test", none)]
    asked.clear()
    fields = ("held_out_split", "data_dir", "data.image_size", "data.label")
    fields += ("data.path", "data.values", "data.context", "data.actions", *OF_COMBINATIONS)
    build.build(changed(config_of(), *fields)).held_out()
    options = {"data_dir": "elsewhere", "pad_to": None, "image_size": 24, "label": "scale"}
    options |= {"path": "mine", "values": (0.0, 1.0), "context": 4, "actions": True}
    options |= {"combinations": data.Combinations("size", 0.25, 0.7, 4)}
    assert asked == [("cifar10", "train", options), ("cifar10", "validation", options)]
    for field in OF_COMBINATIONS[1:]:  # of combinations that are not asked for
        with pytest.raises(ConfigError, match=rf"{field}: expected .* without data\.combinations"):
            LOAD_SPLIT(changed(config_of(), field), "train")


@shows("data.name", "data.split", "data.pad_to")
def test_data_that_is_there(monkeypatch):
    monkeypatch.setattr(build, "load_split", LOAD_SPLIT)
    config = config_of()
    assert LOAD_SPLIT(changed(config, "data.name"), "train").images.shape[1:] == (2,)
    config.data.name = "digits"
    plain = build.build(config).dataset
    other = build.build(changed(config, "data.split")).dataset
    assert (plain.num_examples, plain.split) == (901, "train")
    assert (other.num_examples, other.split) == (896, "test")
    padded = build.build(changed(config, "data.pad_to")).dataset.images
    assert padded.shape == (901, 16, 16, 1)
    np.testing.assert_array_equal(padded[:, 4:12, 4:12], plain.images)
    assert padded.sum() == plain.images.sum()


LOAD_SPLIT = build.load_split
