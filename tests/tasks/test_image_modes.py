"""interpolate, inpaint and restore from the command line, on digits with a network of 2 updates."""

import dataclasses
import json
import types

import numpy as np
import pytest
from main_processes import TINY, run_main
from PIL import Image

from configs import digits, digits_dual
from ebm_jax import data, tasks
from ebm_jax.evaluation.fidelity.features import classifier_extractor
from ebm_jax.evaluation.fidelity.frechet import fit_gaussian, frechet_distance
from ebm_jax.evaluation.fidelity.inception_scores import (
    inception_score,
    kernel_inception_distance,
)
from ebm_jax.evaluation.images import corruption
from ebm_jax.evaluation.images.errors import image_error
from ebm_jax.methods.registry import METHODS
from ebm_jax.runs import build, modes
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks import inpaint, restore


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    result = run_main(*TINY, f"--workdir={path}", "--config.training.num_steps=2")
    assert result.code == 0, result.err
    return path


def run_mode(run_dir, mode, *flags):
    return run_main(
        *TINY, f"--workdir={run_dir}", "--config.training.num_steps=2", f"--mode={mode}", *flags
    )


def read(run_dir, mode):
    found = json.loads((run_dir / mode / f"{mode}.json").read_text())
    assert found["measured_on"]["checkpoint_step"] == 2
    assert found["settings"]
    return found


def test_interpolate(run_dir):
    """3 rows of 4 digits; a row's first and last image are two samples of --mode=sample."""
    result = run_mode(
        run_dir, "interpolate",
        "--config.interpolate.num_pairs=3", "--config.interpolate.num_points=4",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "interpolating: 12/12" in result.err
    assert len(read(run_dir, "interpolate")["largest_step_over_distance_of_ends"]) == 3
    with Image.open(run_dir / "interpolate/interpolate.png") as picture:
        drawn = np.asarray(picture)
    assert drawn.shape == (3 * 50 + 2, 4 * 50 + 2)
    assert run_mode(run_dir, "sample").code == 0
    samples = np.load(run_dir / "sample/samples.npz")["x"][:2]
    ends = [drawn[5:50:6, 5:50:6], drawn[5:50:6, 155:200:6]]
    expected = np.asarray(data.unscale_images(samples, -1, 1))[..., 0].astype(int)
    assert np.max(np.abs(np.array(ends, int) - expected)) <= 1
    assert not (run_dir / "interpolate/partial").exists()


def test_sample_as_arrays_and_as_files(run_dir):
    """120 samples: as made 16 at a time, all in the archive, a hundred in the figure."""
    flags = ("--config.sampling.num_samples=120", "--config.sample.png_files=True")
    result = run_mode(run_dir, "sample", *flags)
    assert result.code == 0, result.err
    out = run_dir / "sample"
    assert "samples.png, samples.npz, samples/*.png" in result.out
    with np.load(out / "samples.npz") as archive:
        x, images = archive["x"], archive["image"]
    assert (x.shape, x.dtype) == ((120, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(images, data.unscale_images(x, -1, 1))
    files = sorted((out / "samples").iterdir())
    assert [files[0].name, files[-1].name, len(files)] == ["000.png", "119.png", 120]
    for i in (0, 17, 119):
        with Image.open(files[i]) as picture:
            np.testing.assert_array_equal(np.asarray(picture).reshape(8, 8, -1)[..., :1], images[i])
    with Image.open(out / "samples.png") as picture:
        assert picture.width < 1_200
    assert not (out / "partial").exists()
    assert run_mode(run_dir, "sample").code == 0
    np.testing.assert_allclose(np.load(out / "samples.npz")["x"], x[:16], atol=1e-5)


def test_inpaint_with_a_mask_from_a_file(run_dir, tmp_path):
    hidden = np.zeros((8, 8), bool)
    hidden[:, 5:] = True
    np.save(tmp_path / "mask.npy", hidden)
    flags = (
        f"--config.inpaint.mask={tmp_path}/mask.npy", "--config.inpaint.num_images=3",
        "--config.inpaint.num_draws=2", "--config.sampler.inpaint_rounds=1",
    )  # fmt: skip
    result = run_mode(run_dir, "inpaint", *flags)
    assert result.code == 0, result.err
    found = read(run_dir, "inpaint")
    assert found["share_of_pixels_hidden"] == 3 / 8
    true = data.load_dataset("digits", "test").images[:3] / 255.0
    mean = data.load_dataset("digits", "train").images.mean(0) / 255.0
    expected = image_error(
        np.broadcast_to(mean, true.shape), true, value_range=1.0, counted=hidden[..., None]
    )
    error = found["error_on_hidden_pixels"]["mean of the training images"]
    assert error["rmse"] == pytest.approx(expected.rmse, rel=1e-5)
    with Image.open(run_dir / "inpaint/inpaint.png") as picture:
        assert picture.width == 5 * 84
        assert 3 * 82 < picture.height < 3 * 82 + 80
    np.save(tmp_path / "mask.npy", hidden[:4])
    result = run_mode(run_dir, "inpaint", *flags)
    assert result.code == 2
    assert "has the shape (4, 8) and the images are 8 x 8" in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_restore(run_dir):
    flags = ("--config.restore.num_images=10", "--config.restore.corruptions=('noise',)")
    result = run_mode(run_dir, "restore", *flags)
    assert result.code == 0, result.err
    errors = read(run_dir, "restore")["errors"]["noise"]
    true = data.load_dataset("digits", "test").images[:10] / 255.0
    corrupted = np.clip(corruption.corrupt("noise", true, 0.2, seed=0), 0, 1)
    expected = image_error(corrupted, true, value_range=1.0)
    assert errors["corrupted input"]["rmse"] == pytest.approx(expected.rmse)
    assert f"{expected.rmse:8.4f}" in result.out
    with Image.open(run_dir / "restore/noise.png") as picture:
        assert picture.width == 7 * 84
    result = run_mode(run_dir, "restore", "--config.restore.corruptions=('rain',)")
    assert result.code == 2
    says = "restore.corruptions: expected one of salt_and_pepper, noise, blur, got 'rain'"
    assert says in result.err


def test_nothing_is_trained(tmp_path):
    result = run_mode(tmp_path, "interpolate")
    assert result.code == 2
    assert "nothing is trained in" in result.err


def test_ood(run_dir):
    """AUROCs recomputed from nothing but the sets: noise is as noise is, the mean is theirs."""
    flags = (
        "--config.ood.num_images=20", "--config.ood.sets=('uniform_noise','flipped')",
        "--config.ood.max_levels=2", "--config.ood.others=('digits',)",
    )  # fmt: skip
    result = run_mode(run_dir, "ood", *flags)
    assert result.code == 0, result.err
    found = read(run_dir, "ood")
    assert len(found["levels"]) == 2
    same = found["auroc"]["digits"]  # the held-out images themselves
    assert all(area["value"] == pytest.approx(0.5) for area in same.values())
    areas = [row["energy, sum"]["value"] for row in found["auroc"].values()]
    assert found["mean_auroc"]["energy, sum"] == pytest.approx(np.mean(areas))
    for name in ("histograms", "sets"):
        assert (run_dir / f"ood/{name}.png").stat().st_size > 1_000
    for flag, said in (
        ("--config.ood.sets=('fog',)", "ood.sets: expected one of uniform_noise, constants, "),
        ("--config.ood.others=('digit',)", "unknown data set 'digit'; nearest is 'digits'"),
        ("--config.ood.others=('rings',)", "ood.others: expected sets of images, got rings"),
    ):
        result = run_mode(run_dir, "ood", *flags, flag)
        assert result.code == 2
        assert said in result.err


def test_neighbours(run_dir):
    result = run_mode(
        run_dir, "neighbours", "--config.neighbours.num_images=30",
        "--config.neighbours.num_samples=16", "--config.neighbours.max_levels=1",
    )  # fmt: skip
    assert result.code == 0, result.err
    found = read(run_dir, "neighbours")
    assert run_mode(run_dir, "sample").code == 0
    samples = np.load(run_dir / "sample/samples.npz")["x"].reshape(16, 64)
    training = data.load_dataset("digits", "train").images.reshape(-1, 64) / 127.5 - 1
    distance = np.linalg.norm(samples[:, None] - training, axis=2).min(1)
    pixels = found["distance_to_nearest_training_image"]["pixels"]
    assert pixels["median_sample"] == pytest.approx(np.median(distance), rel=1e-3)
    assert 0 <= found["kolmogorov_smirnov_of_energies"]["energy"]["p_value"] <= 1
    with Image.open(run_dir / "neighbours/nearest_in_pixels.png") as picture:
        assert picture.width == 5 * 84


def test_fid_of_the_classifier(run_dir):
    """The pixel distance recomputed; statistics made by fid_stats give the same distance."""
    flags = ("--config.fid.num_samples=80", "--config.fid.num_splits=2")
    result = run_mode(run_dir, "fid", *flags)
    assert result.code == 0, result.err
    found = read(run_dir, "fid")
    assert found["name"] == "Frechet distance over class logits of our small classifier"
    assert "not Inception" in found["features"]["network"]
    assert "FID" not in result.out
    assert run_mode(run_dir, "sample", "--config.sampling.num_samples=80").code == 0
    samples = np.load(run_dir / "sample/samples.npz")["x"].reshape(80, 64)
    rounded = np.round(127.5 * (np.clip(samples, -1, 1) + 1)) / 127.5 - 1
    real = data.load_dataset("digits", "train").images.reshape(-1, 64) / 127.5 - 1
    distance = frechet_distance(fit_gaussian(rounded), fit_gaussian(real))
    assert found["frechet_distance_over_pixels"] == pytest.approx(distance, rel=1e-3)
    with np.load(run_dir / "sample/samples.npz") as archive:
        images, training = archive["image"], data.load_dataset("digits", "train")
    extract = classifier_extractor(training).extract
    made, of_real = extract(images), extract(training.images)["features"]
    distance = frechet_distance(fit_gaussian(made["features"]), fit_gaussian(of_real))
    assert found["frechet_distance"] == pytest.approx(distance, rel=1e-6)
    kernel = kernel_inception_distance(made["features"], of_real, subset_size=80)
    assert found["kernel_distance"]["mean"] == pytest.approx(kernel.mean, rel=1e-6)
    score = inception_score(made["logits"], num_splits=2)
    assert found["score"]["mean"] == pytest.approx(score.mean, rel=1e-6)
    assert found["score"]["num_splits"] == 2

    result = run_mode(run_dir, "fid_stats", *flags)
    assert result.code == 0, result.err
    stats = f"--config.fid.stats={run_dir}/fid_stats/stats.npz"
    assert run_mode(run_dir, "fid", *flags, stats).code == 0
    again = read(run_dir, "fid")
    assert again["frechet_distance"] == pytest.approx(found["frechet_distance"], rel=1e-9)
    assert again["reference"]["num_images"] == 901
    result = run_mode(run_dir, "fid", *flags, stats, "--config.fid.split=test")
    assert result.code == 2
    assert "are of split 'train', and this run asks for 'test'" in result.err


BAD_FID = {
    "num_samples=10": "10 examples leave the covariance of 10 features singular",
    "weights=absent.pth": "fid.weights: absent.pth cannot be read: No such file",
    "weights=other.npz": "not the weights of the FID Inception-v3: Conv2d_1a_3x3.conv.weight is",
    "stats=other.npz": "fid.stats: the statistics other.npz cannot be read",
    "num_splits=0": "fid.num_splits: expected a whole number >= 1, got 0",
    "num_splits=81": "num_splits",
    "kid_subsets=0": "fid.kid_subsets: expected a whole number >= 1, got 0",
    "kid_subset_size=1": "fid.kid_subset_size: expected a whole number >= 2, got 1",
    "batch_size=0": "fid.batch_size: expected a whole number >= 1, got 0",
}


@pytest.mark.parametrize(("field", "said"), BAD_FID.items(), ids=BAD_FID)
def test_fid_says_before_any_work_what_is_wrong(field, said, tmp_path, monkeypatch):
    """In this process, on a run that is trained, with no parameters."""
    monkeypatch.chdir(tmp_path)
    np.savez("other.npz", kernel=np.ones(3))
    config = install(monkeypatch, tmp_path)
    name, value = field.split("=")
    config.fid[name] = int(value) if value.isdigit() else value
    with pytest.raises(ConfigError, match=said):
        tasks.run("fid", config, tmp_path)


def install(monkeypatch, path):
    """Digits that are trained, with no parameters, and no samples to come; returns the config."""
    config = digits.get_config()
    config.fid.num_samples = 80
    trained = TrainedRun(build.build(config), 7, None, 0.999)
    monkeypatch.setattr(modes, "load_trained", lambda *_: trained)
    monkeypatch.setattr(modes, "check_trained", lambda *_: path)
    monkeypatch.setattr(TrainedRun, "sampler", lambda *_: pytest.fail("sampled"))
    return config


def test_inception_is_asked_for_where_images_are_large(tmp_path, monkeypatch):
    config = install(monkeypatch, tmp_path)
    large = data.Dataset(
        "big", "train", np.zeros((9, 64, 64, 3), np.uint8), np.arange(9), 9, (0, 255)
    )
    trained = modes.load_trained()
    run = dataclasses.replace(trained.run, dataset=large)
    monkeypatch.setattr(modes, "load_trained", lambda *_: dataclasses.replace(trained, run=run))
    with pytest.raises(ConfigError, match=r"fid\.weights: expected a file with the weights"):
        tasks.run("fid", config, tmp_path)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (inpaint, "--mode=inpaint: expected a method that inpaints "),
        (restore, "--mode=restore: expected a method that restores "),
    ],
)
def test_of_a_method_that_cannot_it_is_said_which_can(task, says):
    config = digits_dual.get_config()
    run = types.SimpleNamespace(method=METHODS[config.method.name], config=config)
    with pytest.raises(ValueError, match=says) as refused:
        task.run(types.SimpleNamespace(run=run), task.Settings(), None)
    assert str(refused.value).endswith(
        "(recovery_likelihood, contrastive_divergence, denoising_score_matching), "
        "got dual_score_matching"
    )
