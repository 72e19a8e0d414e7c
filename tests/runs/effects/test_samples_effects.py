"""What the fields of the card, exports, samples and their evaluation do, on a run that is known."""

import jax
import numpy as np
import pytest
from effects_stubs import full_bars, images, stubs
from effects_table import shows
from known_model import SAMPLES, columns_of, config_of, distance, rows_of, run
from PIL import Image

from ebm_jax.data import unscale_images

__all__ = ["full_bars", "run", "stubs"]


@shows("card.title", "card.about", "card.license", "card.limits")
def test_card(run, tmp_path):
    cards = {}
    for field in ("", *rows_of("card")):
        run("card", config_of(*([field] if field else [])))
        cards[field] = (tmp_path / "card/card.md").read_text().splitlines()
    new = {field: sorted(set(card) - set(cards[""])) for field, card in cards.items()}
    assert new["card.title"] == ["# Mine"]
    assert new["card.about"] == ["Of squares"]
    assert new["card.license"] == ['license: "MIT"', "| license | MIT |"]
    assert new["card.limits"] == ["None known"]


@shows("export.platforms")
def test_export(run, tmp_path):
    usual, changed_ = ("cpu", "cuda", "tpu"), ("cuda", "tpu")
    for fields, platforms in (((), usual), (("export.platforms",), changed_)):
        found = run("export", config_of(*fields))
        assert set(found["functions"]) == {"energy", "energy_and_grad", "sample"}
        for name, function in found["functions"].items():
            stored = (tmp_path / f"export/{name}.stablehlo").read_bytes()
            assert jax.export.deserialize(bytearray(stored)).platforms == platforms
            assert (function["largest_difference"] is None) == bool(fields)  # this is a CPU


@shows("sample.png_files")
def test_sample(run, tmp_path):
    for fields in ((), ("sample.png_files",)):
        run("sample", config_of(*fields, sampling={"num_samples": 20}))
        with np.load(tmp_path / "sample/samples.npz") as written:
            x, pixels = written["x"], written["image"]
        np.testing.assert_allclose(x, SAMPLES[:20], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(pixels, unscale_images(x, -1, 1))
        files = sorted((tmp_path / "sample").glob("samples/*.png"))
        assert len(files) == (20 if fields else 0)
        for file, image in zip(files, pixels, strict=False):
            with Image.open(file) as picture:
                np.testing.assert_array_equal(np.asarray(picture), image[..., 0])


@shows("evaluate.num_samples")
def test_evaluate(run):
    training = images("train").images / 127.5 - 1
    for fields, number in (((), 48), (("evaluate.num_samples",), 40)):
        found = run("evaluate", config_of(*fields, evaluate={"num_samples": 48}))
        assert found["measured_on"]["num_samples"] == number
        pixels = found["frechet_distance_to_training"]["over_pixels"]
        assert pixels["samples"] == pytest.approx(distance(SAMPLES[:number], training), rel=1e-3)
        held_out = images("test").images / 127.5 - 1
        assert pixels["floor"] == pytest.approx(distance(held_out, training), rel=1e-3)


@shows("evaluate.from_levels")
def test_evaluate_from_levels(run, tmp_path, monkeypatch):
    training, held_out = (images(split).images / 127.5 - 1 for split in ("train", "test"))
    drawn = columns_of(monkeypatch)
    field = "evaluate.from_levels"
    for fields, levels in (((), ()), ((field,), (1, 3))):
        found = run("evaluate", config_of(*fields, evaluate={"num_samples": 48}))
        assert list(found.get("from_levels", {})) == [str(level) for level in levels]
        for level in levels:
            index = 0.01 * np.arange(48)[:, None, None, None]
            expected = distance(held_out[:48] / level + index, training)
            measured = found["from_levels"][str(level)]["over_pixels"]
            assert measured == pytest.approx(expected, rel=1e-4)
        assert (tmp_path / "evaluate/levels.png").exists() == bool(levels)
    (columns,) = drawn
    assert list(columns) == ["held out", "from level 1", "from level 3", "from noise"]
    np.testing.assert_array_equal(columns["held out"], images("test").images[:8])
    np.testing.assert_array_equal(columns["from noise"], unscale_images(SAMPLES[:8], -1, 1))
    lines = {"evaluate.from_levels: expected different levels among 1 to 6": (1, 7), "got": (2, 2)}
    for message, levels in lines.items():
        with pytest.raises(ValueError, match=message):
            run("evaluate", config_of(evaluate={"num_samples": 48, "from_levels": levels}))
