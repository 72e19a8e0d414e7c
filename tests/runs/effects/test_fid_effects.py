"""What the fields of distances between samples and images do, on a run that is known."""

import dataclasses
import json

import effects_stubs
import jax.numpy as jnp
import numpy as np
import pytest
from effects_stubs import full_bars, images, stubs
from effects_table import changed, shows, value_of
from known_model import SAMPLES, Known, config_of, rows_of, run

from ebm_jax import tasks
from ebm_jax.data import unscale_images
from ebm_jax.evaluation.fidelity import frechet
from ebm_jax.evaluation.fidelity.features import INCEPTION_FEATURES, Extractor
from ebm_jax.evaluation.fidelity.gaussian_images import fit_gaussian_images
from ebm_jax.evaluation.fidelity.inception_scores import (
    inception_score,
    kept_for_subsets,
    kernel_inception_distance,
)
from ebm_jax.evaluation.fidelity.reference_statistics import (
    Statistics,
    read_statistics,
    write_statistics,
)
from ebm_jax.runs import build, modes
from ebm_jax.runs.lock import Lock
from ebm_jax.runs.settings import ConfigError
from ebm_jax.tasks import _features, fid, fid_stats
from ebm_jax.tasks._features import num_kept

__all__ = ["full_bars", "run", "stubs"]


def features(x):
    flat = x.reshape(len(x), -1) / 255.0
    return {"features": flat, "logits": 9 * flat[:, :3]}


EXTRACTOR = Extractor("made features", "made score", {"network": "made"}, 4, 3, features)


@shows(*(field for field in rows_of("fid") if field != "fid.weights"))
def test_fid(run, monkeypatch, tmp_path):
    """Everything by hand from features and logits that differ, row by row of the table."""
    asked = []
    monkeypatch.setattr(fid, "make_extractor", lambda *given: asked.append(given[1:]) or EXTRACTOR)
    stats = frechet.fit_gaussian(np.random.default_rng(5).normal(size=(50, 4)))
    write_statistics(tmp_path / "stats.npz", Statistics(stats, {}))
    monkeypatch.chdir(tmp_path)
    for field in (None, *rows_of("fid")):
        if field == "fid.weights":
            continue
        usual_values = {"num_samples": 64, "num_splits": 2, "kid_subsets": 2, "kid_subset_size": 8}
        config = config_of(fid={**usual_values, "batch_size": 32})
        config = changed(config, *([field] if field else []))
        found, s = run("fid", config), config.fid
        assert asked[-1] == (s.weights, s.batch_size)
        pixels = np.asarray(unscale_images(SAMPLES[: s.num_samples], -1, 1))
        of_samples, split = features(pixels), images(s.split)
        real = features(split.images)["features"]
        expected = stats if s.stats else frechet.fit_gaussian(real)
        fit = frechet.fit_gaussian(of_samples["features"])
        assert found["frechet_distance"] == pytest.approx(
            frechet.frechet_distance(fit, expected), rel=1e-3
        )
        over_pixels = [
            frechet.fit_gaussian(x, scale=1 / 127.5, offset=-1.0) for x in (pixels, split.images)
        ]
        assert found["frechet_distance_over_pixels"] == pytest.approx(
            frechet.frechet_distance(*over_pixels), rel=1e-3
        )
        score = inception_score(of_samples["logits"], num_splits=s.num_splits)
        assert found["score"]["mean"] == pytest.approx(score.mean, rel=1e-4)
        assert found["score"]["deviation"] == pytest.approx(score.deviation, rel=1e-3, abs=1e-6)
        if s.stats:
            assert "kernel_distance" not in found
        else:
            subsets = {"num_subsets": s.kid_subsets, "subset_size": s.kid_subset_size}
            kept = [
                x[kept_for_subsets(len(x), num_kept(EXTRACTOR, s.kid_subset_size))]
                for x in (of_samples["features"], real)
            ]
            kid = kernel_inception_distance(*kept, **subsets)
            assert found["kernel_distance"]["mean"] == pytest.approx(kid.mean, rel=1e-3, abs=1e-6)
            assert found["kernel_distance"]["num_subsets"] == s.kid_subsets
        rows = {}
        if s.baselines:
            other = images("train" if s.split == "test" else "test")
            floor = features(other.images[: s.num_samples])["features"]
            gaussian = fit_gaussian_images(split.images).draw(0, s.num_samples, seed=config.seed)
            rows = {"real images": floor, "a Gaussian's samples": features(gaussian)["features"]}
        assert set(found["baselines"]) == set(rows)
        for name, x in rows.items():
            row, fit = found["baselines"][name], frechet.fit_gaussian(x)
            assert row["num_images"] == len(x)
            assert row["frechet_distance"] == pytest.approx(
                frechet.frechet_distance(fit, expected), rel=1e-3
            )


def test_features_are_there_for_other_settings_and_not_for_another_model(run, monkeypatch):
    """As for KID of other subsets; without baselines nothing is missed."""
    seen = []

    def extract(x):
        seen.append(len(x))
        return features(x)

    monkeypatch.setattr(fid, "make_extractor", lambda *_: EXTRACTOR._replace(extract=extract))
    usual = {"num_samples": 64, "num_splits": 2, "kid_subsets": 2, "kid_subset_size": 8}
    first = run("fid", config_of(fid=usual))
    number = 2 * 64 + 2 * len(images("train").images)
    assert number >= sum(seen) > 64
    made, found = sum(seen), []
    for changes in ({"kid_subsets": 3}, {"kid_subset_size": 16}, {"baselines": False}):
        seen.clear()
        found.append(run("fid", config_of(fid=usual | changes)))
        assert not seen
        assert found[-1]["frechet_distance"] == first["frechet_distance"]
    assert found[0]["kernel_distance"] != first["kernel_distance"]

    def load_trained(config, workdir):
        trained = described(config, workdir)
        return dataclasses.replace(trained, params={"unused": np.ones(())})

    described = modes.load_trained
    monkeypatch.setattr(modes, "load_trained", load_trained)
    run("fid", config_of(fid=usual))
    assert sum(seen) == 64 < made  # samples alone: real images and a Gaussian's are what they were


def test_other_images_of_the_same_name_are_measured_anew(run, monkeypatch):
    """As in a folder that has changed: each row of its own images, and the samples as they were."""
    monkeypatch.setattr(fid, "make_extractor", lambda *_: EXTRACTOR)
    usual = {"num_samples": 64, "num_splits": 2, "kid_subsets": 2, "kid_subset_size": 8}
    first = run("fid", config_of(fid=usual))
    shifts, shift = {}, np.uint8(64)  # of each split; uint8 wraps
    monkeypatch.setattr(
        build,
        "load_split",
        lambda config, split: images(split)._replace(images=images(split).images + shifts[split]),
    )
    of_samples = features(np.asarray(unscale_images(SAMPLES[:64], -1, 1)))["features"]
    for shifts in ({"train": shift, "test": 0 * shift}, {"train": 0 * shift, "test": shift}):
        found = run("fid", config_of(fid=usual))
        real = {name: images(name).images + shifts[name] for name in shifts}
        fits = {name: frechet.fit_gaussian(features(x)["features"]) for name, x in real.items()}
        expected = frechet.frechet_distance(frechet.fit_gaussian(of_samples), fits["train"])
        assert found["frechet_distance"] == pytest.approx(expected, rel=1e-3)
        floor = frechet.fit_gaussian(features(real["test"][:64])["features"])
        assert found["baselines"]["real images"]["frechet_distance"] == pytest.approx(
            frechet.frechet_distance(floor, fits["train"]), rel=1e-3
        )
        drawn = fit_gaussian_images(real["train"]).draw(0, 64, seed=config_of().seed)
        assert found["baselines"]["a Gaussian's samples"]["frechet_distance"] == pytest.approx(
            frechet.frechet_distance(
                frechet.fit_gaussian(features(drawn)["features"]), fits["train"]
            ),
            rel=1e-3,
        )
    assert found["baselines"] != first["baselines"]


def test_fid_without_logits(run, monkeypatch):
    """Features alone make distances; the name says whose weights, and that there is no score."""
    details = {"weights_origin": "a test"}
    extractor = Extractor(
        INCEPTION_FEATURES, "Inception score", details, 4, 0,
        lambda x: {"features": features(x)["features"]},
    )  # fmt: skip
    monkeypatch.setattr(fid, "make_extractor", lambda *_: extractor)
    found = run("fid", config_of(fid={"num_samples": 64, "kid_subset_size": 8}))
    assert found["name"] == "FID (weights: a test)"
    assert found["score"]["undefined"] == "these weights have no logits"
    assert "mean" not in found["score"]
    of_samples = features(np.asarray(unscale_images(SAMPLES[:64], -1, 1)))["features"]
    fits = [
        frechet.fit_gaussian(x) for x in (of_samples, features(images("train").images)["features"])
    ]
    assert found["frechet_distance"] == pytest.approx(frechet.frechet_distance(*fits), rel=1e-3)
    assert found["kernel_distance"]["num_subsets"] == 100


def test_fid_says_why_a_baseline_is_not_there(run, monkeypatch, capsys):
    monkeypatch.setattr(fid, "make_extractor", lambda *_: EXTRACTOR)
    monkeypatch.setattr(fid, "_MAX_PIXELS", 3)
    few = {"num_samples": 64, "num_splits": 2, "kid_subset_size": 8}
    found = run("fid", config_of(fid=few))["baselines"]
    assert found["a Gaussian's samples"]["undefined"].startswith("images of more than 3 values")
    assert "frechet_distance" not in found["a Gaussian's samples"]
    assert found["real images"]["frechet_distance"] > 0
    said = capsys.readouterr().out
    assert "the same of a Gaussian's samples: none, as images of more than 3 values" in said
    assert "the same of real images, test (" in said


@shows("fid.weights")
def test_weights_of_inception(monkeypatch, stubs):
    read = []
    monkeypatch.setattr(_features, "inception_extractor", lambda *given: read.append(given))
    described = type("Run", (), {"dataset": images("train")})
    _features.make_extractor(described, value_of("fid.weights"), value_of("fid.batch_size"))
    assert read == [("weights.npz", 16)]
    assert "small classifier" in _features.make_extractor(described, "", 16).title
    assert len(read) == 1


def test_fid_of_a_model_that_has_diverged_names_the_sample(run, monkeypatch):
    """Batches of 64: the first that is not finite is the seventh of the second."""
    usual = Known.sample

    def sample(self, params, rng_key, index):
        x = usual(self, params, rng_key, index)
        return jnp.where((index >= 70)[:, None, None, None], jnp.nan, x)

    monkeypatch.setattr(Known, "sample", sample)
    monkeypatch.setattr(fid, "make_extractor", lambda *_: EXTRACTOR)
    with pytest.raises(ConfigError, match=r"^sample 70 has non-finite values: the model has div"):
        run("fid", config_of(fid={"num_samples": 128, "kid_subset_size": 8}))


def test_statistics_of_a_split(stubs, tmp_path, monkeypatch, capsys):
    """Mean and covariance of its features, and what they are of, for fid and for people."""
    asked = []
    made = lambda run, *given: asked.append(given) or EXTRACTOR  # noqa: E731
    monkeypatch.setattr(fid_stats, "make_extractor", made)
    config = effects_stubs.config_of("contrastive_divergence")
    config.fid.update(split="test", weights="a file", batch_size=24)
    assert tasks.run("fid_stats", config, tmp_path) == 0
    assert asked == [("a file", 24)]
    described = {"data": "made", "split": "test", "image_shape": [2, 2, 1], "network": "made"}
    found = json.loads((tmp_path / "fid_stats/fid_stats.json").read_text())
    assert found.pop("versions")
    assert found == described | {"mode": "fid_stats", "num_images": 120, "num_features": 4}
    path = tmp_path / "fid_stats/stats.npz"
    statistics = read_statistics(str(path), described, 4)
    expected = frechet.fit_gaussian(features(images("test").images)["features"])
    np.testing.assert_allclose(statistics.fit.mean, expected.mean, rtol=1e-6)
    np.testing.assert_allclose(statistics.fit.covariance, expected.covariance, rtol=1e-6)
    assert capsys.readouterr().out == (
        f"120 images of made, test: {path}; use it with --mode=fid --config.fid.stats={path}\n"
    )
    assert sorted(file.name for file in path.parent.iterdir()) == ["fid_stats.json", "stats.npz"]
    with Lock(path.parent), pytest.raises(ConfigError, match="fid_stats is in use by process"):
        tasks.run("fid_stats", config, tmp_path)
    few = images("test")._replace(images=images("test").images[:4])
    monkeypatch.setattr(build, "load_split", lambda config, split: few)
    with pytest.raises(ConfigError, match=r"^--mode=fid_stats: made, test: 4 examples leave the "):
        tasks.run("fid_stats", config, tmp_path)
