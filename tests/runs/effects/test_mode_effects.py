"""What the fields of the modes do, on a trained run whose densities and samples are known.

Images are N(0, .2^2) in model units; six levels of noise .3 to .95; samples are such images too.
"""

import dataclasses
import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effects_stubs import SHAPE, full_bars, images, stubs
from effects_table import TABLE, changed, shows, value_of
from PIL import Image

from configs import default
from ebm_jax import samplers, tasks
from ebm_jax.data import unscale_images
from ebm_jax.evaluation import ood as ood_scores
from ebm_jax.evaluation.density import annealing, baselines, conditional_bound, log_likelihood
from ebm_jax.evaluation.density import long_run as chains
from ebm_jax.evaluation.fidelity import frechet
from ebm_jax.evaluation.fidelity.features import INCEPTION_FEATURES, Extractor
from ebm_jax.evaluation.fidelity.gaussian_images import fit_gaussian_images
from ebm_jax.evaluation.fidelity.inception_scores import (
    inception_score,
    kept_for_subsets,
    kernel_inception_distance,
)
from ebm_jax.evaluation.fidelity.reference_statistics import Statistics, write_statistics
from ebm_jax.evaluation.images import corruption
from ebm_jax.evaluation.images.errors import image_error
from ebm_jax.io import plotting
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.runs import build, modes
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.samplers import random
from ebm_jax.tasks import _features, fid
from ebm_jax.tasks._features import num_kept
from ebm_jax.tasks.likelihood import ends as annealed_ends
from ebm_jax.tasks.likelihood import reporting, two_directions
from ebm_jax.tasks.likelihood.reverse_starts import Starts

__all__ = ["full_bars", "stubs"]

SIGMA_BAR = np.linspace(0.3, 0.95, 6).astype(np.float32)
A_BAR = np.sqrt(1 - SIGMA_BAR**2)
VARIANCE = A_BAR**2 * 0.04 + SIGMA_BAR**2
KEY = jax.random.fold_in(jax.random.key(0), zlib.crc32(b"sample"))  # with the usual seed


def energy(level):
    def energy_fn(x):
        variance = jnp.reshape(jnp.asarray(VARIANCE)[level], (-1,))
        return jnp.sum(x**2, (1, 2, 3)) / (2 * variance)

    return energy_fn


DENSITIES = Densities(
    energy,
    jnp.asarray(A_BAR),
    jnp.asarray(SIGMA_BAR),
    BaseDistribution(),
    lambda energy_fn, level: samplers.langevin(energy_fn, 0.1 * jnp.asarray(VARIANCE)[level]),
)


def noise(rng_key, index, number):
    return 0.2 * random.normal(rng_key, index, jnp.zeros((number, *SHAPE)))


@dataclasses.dataclass(frozen=True)
class Known:
    """Everything that modes ask of a method."""

    network: object = None

    def densities(self, params):
        return DENSITIES

    def sample(self, params, rng_key, index):
        first = index.first if isinstance(index, random.Blend) else index
        return noise(rng_key, index, first.shape[0])

    def inpaint(self, params, rng_key, x, is_known, index, label):
        return jnp.where(is_known, x, noise(rng_key, index, len(x)))

    def restore(self, params, rng_key, x, index, label):
        return x


SAMPLES = np.asarray(noise(KEY, jnp.arange(400), 400))


@pytest.fixture
def run(tmp_path, monkeypatch, stubs):
    """(mode, config) -> its JSON."""

    def load_trained(config, workdir):
        general, sections = build.check_sections(config)
        data, sampling = sections["data"], sections["sampling"]
        described = build.Run(config, images("train"), Known(), general, data, sampling)
        return TrainedRun(described, 7, {"unused": np.zeros(())}, 0.999)

    monkeypatch.setattr(modes, "load_trained", load_trained)
    monkeypatch.setattr(modes, "check_trained", lambda config, workdir: pathlib.Path(workdir))

    def call(mode, config):
        assert tasks.run(mode, config, tmp_path) == 0
        name = {"evaluate": "evaluation", "sample": "samples"}.get(mode, mode)
        return json.loads((tmp_path / mode / f"{name}.json").read_text())

    return call


def config_of(*fields, **sections):
    config = default.get_config()
    config.data.random_flip = False
    config.sampling.batch_size = 64
    for name, values in sections.items():
        config[name].update(values)
    return changed(config, *fields)


def rows_of(mode):
    return [field for field in TABLE if field.startswith(f"{mode}.")]


def columns_of(monkeypatch):
    """Every picture of columns that is drawn from here on."""
    drawn, usual = [], plotting.columns_picture

    def columns_picture(columns):
        drawn.append(columns)
        return usual(columns)

    monkeypatch.setattr(plotting, "columns_picture", columns_picture)
    return drawn


def distance(x, y):
    return frechet.frechet_distance(frechet.fit_gaussian(x), frechet.fit_gaussian(y))


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


# ------------------------------------------------------------------------------------ FID


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


# ----------------------------------------------------------------------- images in and out


@shows(*rows_of("inpaint"))
def test_inpaint(run, monkeypatch):
    drawn = columns_of(monkeypatch)
    usual = {"inpaint": {"num_images": 5, "num_draws": 3}}
    rows = {"inpaint.mask": 0.25, "inpaint.num_images": 0.5, "inpaint.num_draws": 0.5}
    for field, share in rows.items():
        config = config_of(field, **usual)
        found, s = run("inpaint", config), config.inpaint
        number, draws = s.num_images, s.num_draws
        assert found["share_of_pixels_hidden"] == share
        assert found["measured_on"]["num_samples"] == number * draws
        x = SAMPLES[: number * draws].reshape(number, draws, *SHAPE)
        true = images("test").images[:number] / 127.5 - 1
        hidden = np.zeros((2, 2, 1), bool)
        hidden[0 if share == 0.25 else 1, : 1 if share == 0.25 else 2] = True
        error = image_error(np.clip(x[:, 0], -1, 1), true, value_range=2, counted=hidden)
        errors = found["error_on_hidden_pixels"]
        assert errors["one sample"]["rmse"] == pytest.approx(error.rmse, rel=1e-4)
        trained_on = images("train").images[:number] / 127.5 - 1
        error = image_error(np.clip(x.mean(1), -1, 1), trained_on, value_range=2, counted=hidden)
        of_training = found["error_on_hidden_pixels_of_training_images"]
        assert of_training[f"mean of {draws} samples"]["rmse"] == pytest.approx(
            error.rmse, rel=1e-4
        )
        assert "nearest training image" not in of_training
        spread = x.std(1, ddof=1).mean(where=hidden) / 2
        assert found["standard_deviation_of_samples"] == pytest.approx(spread, rel=1e-4)
        assert [name for name in drawn[-1] if name.startswith("sample")] == [
            f"sample {i + 1}" for i in range(draws)
        ]
        assert {len(column) for column in drawn[-1].values()} == {number}


@shows(*rows_of("interpolate"))
def test_interpolate(run):
    config = config_of(*rows_of("interpolate"))
    found = run("interpolate", config)
    assert found["measured_on"]["num_samples"] == 2 * 5
    assert found["of_a_straight_line"] == 1 / 4
    angle = np.pi / 2 * np.linspace(0, 1, 5)[:, None, None, None]
    for i, largest in enumerate(found["largest_step_over_distance_of_ends"]):
        ends = SAMPLES[2 * i], SAMPLES[2 * i + 1]
        path = np.cos(angle) * ends[0] + np.sin(angle) * ends[1]
        steps = np.linalg.norm(np.diff(path, axis=0).reshape(4, -1), axis=1)
        assert largest == pytest.approx(max(steps) / np.linalg.norm(ends[1] - ends[0]), rel=1e-3)
    assert len(found["largest_step_over_distance_of_ends"]) == 2


@shows(*rows_of("restore"))
def test_restore(run):
    """Corrupted images and their errors; the model's chains here leave them as they are."""
    usual = {"restore": {"num_images": 24}}
    for field in (None, "data.low", "data.high", *rows_of("restore")):
        config = config_of(*([field] if field else []), **usual)
        found, s = run("restore", config), config.restore
        strength = {
            "salt_and_pepper": s.salt_fraction, "noise": s.noise_std, "blur": s.blur_std,
        }  # fmt: skip
        assert list(found["errors"]) == list(s.corruptions)
        assert found["measured_on"]["num_samples"] == s.num_images
        true = images("test").images[: s.num_images] / 255
        for name in s.corruptions:
            levels = {"salt_levels": tuple(s.salt_levels)}
            x = corruption.corrupt(name, true, strength[name], seed=0, **levels)
            x = np.clip(x, 0, 1)
            expected = image_error(x, true, value_range=1.0).rmse
            for guess in ("corrupted input", "the model's chains"):  # in float64, and in float32
                rmse = found["errors"][name][guess]["rmse"]
                assert rmse == pytest.approx(expected, rel=1e-4, abs=1e-6)
        if field == "restore.blur_std":
            assert found["errors"]["blur"]["corrupted input"]["rmse"] == 0
        if field == "restore.noise_std":
            rmse = found["errors"]["noise"]["corrupted input"]["rmse"]
            assert rmse == pytest.approx(0.05, rel=4 / np.sqrt(2 * 24 * 4))


# --------------------------------------------------------------------- energies of examples


@shows(*rows_of("neighbours"))
def test_neighbours(run, monkeypatch):
    drawn = columns_of(monkeypatch)
    found = run("neighbours", config_of(*rows_of("neighbours")))
    assert found["num_energies"] == {"training": 16, "held out": 16}
    assert found["measured_on"]["num_samples"] == 8
    names = {"energy 0", "energy 5", "energy, sum"}
    assert set(found["kolmogorov_smirnov_of_energies"]) == names
    assert [list(columns) for columns in drawn] == [["sample", "nearest 1", "nearest 2"]] * 2
    training = images("train").images.reshape(120, 4) / 127.5 - 1
    nearest = np.linalg.norm(SAMPLES[:8].reshape(8, 1, 4) - training, axis=2).min(1)
    pixels = found["distance_to_nearest_training_image"]["pixels"]
    assert pixels["median_sample"] == pytest.approx(np.median(nearest), rel=1e-3)


@shows(*(row for row in rows_of("ood") if row != "ood.of_classes"))
def test_ood(run, monkeypatch):
    """Held-out images have energies chi^2_4 / 2; those of uniform values by simulation."""
    asked, usual = [], ood_scores.auroc
    monkeypatch.setattr(
        ood_scores, "auroc", lambda *a, **kw: asked.append((*map(len, a), kw)) or usual(*a, **kw)
    )
    found = run("ood", config_of(*(row for row in rows_of("ood") if row != "ood.of_classes")))
    assert list(found["auroc"]) == ["uniform_noise", "digits"]
    assert found["levels"] == [0, 2, 5]
    assert found["measured_on"]["num_samples"] == 40
    assert {(n, m, kw["num_bootstrap"]) for n, m, kw in asked} == {(40, 40, 20)}
    rng = np.random.default_rng(0)
    uniform = A_BAR[0] * rng.uniform(-1, 1, (100_000, 4)) + SIGMA_BAR[0] * rng.normal(
        size=(100_000, 4)
    )
    inside = rng.chisquare(4, 100_000) / 2
    outside = np.sum(uniform**2, 1) / (2 * VARIANCE[0])
    area = np.mean(outside > inside)
    assert area > 0.8
    value = found["auroc"]["uniform_noise"]["energy 0"]["value"]
    assert value == pytest.approx(area, abs=4 * np.sqrt(area * (1 - area) / 40))
    sets = run("ood", config_of(ood={"num_images": 20, "num_bootstrap": 5, "max_levels": 1}))
    assert len(sets["auroc"]) == 6
    assert sets["levels"] == [0]


# -------------------------------------------------------------------------- likelihood


BESIDE = (
    "likelihood.num_components", "likelihood.num_fitted", "likelihood.num_conditional_images",
    "likelihood.num_conditional_temperatures",
)  # fmt: skip


def conditional(level, x_noisy):
    """Of x_t given x_{t+1}; the last level's is its marginal."""
    a_bar, sigma_bar = jnp.append(A_BAR, 0.0), jnp.append(SIGMA_BAR, 1.0)
    a = a_bar[level + 1] / a_bar[level]
    variance = sigma_bar[level + 1] ** 2 - (a * sigma_bar[level]) ** 2
    return lambda x: (
        energy(level)(x) + jnp.sum((a * x - x_noisy) ** 2, (1, 2, 3)) / (2 * variance) * (level < 5)
    )


@shows(*BESIDE)
def test_what_stands_beside_the_likelihood(run, monkeypatch):
    """Gaussians of so many images and components; the bound on so many images, here exact."""
    known = DENSITIES._replace(
        conditional=conditional, conditional_std=jnp.asarray(SIGMA_BAR), num_conditionals=5
    )
    monkeypatch.setattr(Known, "densities", lambda self, params: known)
    estimate = log_likelihood.Estimate(2 * np.log(2 * np.pi * VARIANCE[0]), 0.1, 16.0)
    bracket = log_likelihood.Bracket(20, estimate, estimate)
    ends = annealed_ends.Ends(np.zeros((16, *SHAPE), np.float32), np.zeros(16), np.zeros(16))

    def anneal(self, images):
        self.work.begin("annealing", 0)  # which is not done here
        return two_directions.Annealed([bracket], [], Starts(ends.x, None), 0.0, ends)

    monkeypatch.setattr(two_directions.TwoDirections, "anneal", anneal)
    asked, fitted, annealed = [], baselines.fit_mixture, conditional_bound.conditional_bounds

    def fit_mixture(x, noise_std, num_components, seed):
        asked.append((len(x), noise_std, num_components))
        return fitted(x, noise_std, num_components, seed)

    def conditional_bounds(*args, num_temperatures):
        asked.append((len(args[2][0]), num_temperatures))
        return annealed(*args, num_temperatures=num_temperatures)

    monkeypatch.setattr(baselines, "fit_mixture", fit_mixture)
    monkeypatch.setattr(conditional_bound, "conditional_bounds", conditional_bounds)
    found = run("likelihood", config_of(*BESIDE, likelihood={"num_chains": 16, "num_images": 40}))
    assert asked[0] == (60, pytest.approx(SIGMA_BAR[0]), (1, 3))
    assert {number for _, number in asked[1:]} == {3}
    gaussian = found["baselines"][0]["splits"]
    key = jax.random.fold_in(modes.load_trained(config_of(), "").run.key("likelihood"), 3)
    described = modes.load_trained(config_of(), "").run
    x = A_BAR[0] * described.random_examples(described.dataset, 60)
    reference = baselines.fit_gaussian(x, SIGMA_BAR[0])
    for name, split in (("training", described.dataset), ("held out", described.held_out())):
        noised = DENSITIES.noised(key, 0, described.random_examples(split, 40), jnp.arange(40))
        exact = reference.log_density(np.asarray(noised))
        assert gaussian[name]["log_likelihood_nats"] == pytest.approx(exact.mean(), rel=1e-3)
        bits = -exact.mean() / (4 * np.log(2)) + np.log2(127.5)
        assert gaussian[name]["bits_per_dim"] == pytest.approx(bits, rel=1e-3)
        bound = found["through_conditionals"][name]
        assert bound["num_images"] == 8
        truth = -np.asarray(energy(0)(noised[:8])) - 2 * np.log(2 * np.pi * VARIANCE[0])
        nats = bound["log_likelihood_nats"]
        assert nats["lower"] - 1.5 < truth.mean() < nats["upper"] + 1.5  # 3 temperatures each
        assert len(bound["widths_of_log_z_by_level"]) == 6
    none = run("likelihood", config_of(likelihood={"num_chains": 16, "num_components": (),
                                                   "num_conditional_images": 0}))  # fmt: skip
    assert none["through_conditionals"] == {}
    assert [row["num_components"] for row in none["baselines"]] == [1]


@shows(*(field for field in rows_of("likelihood") if field not in BESIDE))
def test_likelihood(run, monkeypatch):
    """All rows in one run on dequantized images: what reaches the annealing, and log Z."""
    asked = {}
    for name in ("tune_step", "settle", "anneal"):
        usual = getattr(annealing, name)

        def spied(*args, name=name, usual=usual, **options):
            asked.setdefault(name, []).append((args, options))
            return usual(*args, **options)

        monkeypatch.setattr(annealing, name, spied)
    starts, estimated, kept = [], [], []
    summarize = samplers.summarize_weights
    monkeypatch.setattr(
        log_likelihood, "summarize_weights", lambda w: estimated.append(w) or summarize(w)
    )
    for name in ("save", "save_state"):
        usual = getattr(modes.ResumableWork, name)

        def saved(self, name, arrays, usual=usual):
            starts.extend([np.asarray(arrays["x"])] if name == "starts" else [])
            kept.append(self._folder.name)
            return usual(self, name, arrays)

        monkeypatch.setattr(modes.ResumableWork, name, saved)
    config = config_of(*rows_of("likelihood"))
    config.data.dequantize = True
    config.likelihood.update(num_components=(), num_conditional_images=0)
    with monkeypatch.context() as patch:  # an end after annealing, with other images
        patch.setattr(reporting, "statement", lambda **_: int("none"))
        config.likelihood.num_images = 8
        with pytest.raises(ConfigError):
            run("likelihood", config)
    assert set(kept) == {"baselines", "forward", "reverse"}
    tuned, before = asked["tune_step"][0][1], list(estimated)
    for recorded in (starts, estimated, kept, asked):
        recorded.clear()
    config.likelihood.num_images = value_of("likelihood.num_images")
    found = run("likelihood", config)
    assert set(kept) == {"baselines", "reverse"}  # forward annealing saw no image, and goes on
    same = [np.array_equal(one, other) for one, other in zip(before, estimated, strict=True)]
    assert same == [True, False, True, False]  # forward, reverse for each number
    assert found["levels_passed"] == [0]
    assert [row["num_temperatures"] for row in found["log_z"]] == [20, 40]
    assert {len(weights) for weights in estimated} == {16}
    assert tuned == {"num_steps": 20, "num_leapfrog_steps": 2, "target_acceptance": 0.7}
    assert asked["anneal"][0][1] == {"num_leapfrog_steps": 2}
    assert "settle" not in asked
    truth = 2 * np.log(2 * np.pi * VARIANCE[0])
    for way in ("forward", "reverse"):
        side = found["log_z"][-1][way]
        assert abs(side["log_z"] - truth) < 4 * side["standard_error"] + 0.05

    trained = modes.load_trained(config, "")
    described, key = trained.run, trained.run.key("likelihood")
    examples = described.random_examples(described.dataset, 24)
    cells = np.sort((examples.ravel() + 1) * 128 % 1)
    assert np.ptp(cells) > 0.8  # dequantized
    index = jnp.arange(16)
    noised = DENSITIES.noised(
        jax.random.fold_in(jax.random.fold_in(key, 2), 0), 0, examples[:16], index
    )
    np.testing.assert_allclose(starts[0], noised, rtol=1e-4, atol=1e-5)
    for name, split in (("training", described.dataset), ("held out", described.held_out())):
        x = described.random_examples(split, 24)
        noised = DENSITIES.noised(jax.random.fold_in(key, 3), 0, x, jnp.arange(24))
        energies = np.asarray(energy(0)(noised))
        measured = found["splits"][name]
        assert measured["energy"]["num_images"] == 24
        assert measured["energy"]["mean"] == pytest.approx(energies.mean(), rel=1e-3)
        error = energies.std(ddof=1) / np.sqrt(24)
        assert measured["energy"]["standard_error"] == pytest.approx(error, rel=1e-3)
        nats = measured["log_likelihood_nats"]
        for side, way in (("upper", "forward"), ("lower", "reverse")):
            bracket = found["log_z"][-1][way]
            assert nats[side] == pytest.approx(-energies.mean() - bracket["log_z"], rel=1e-3)
            joined = np.hypot(error, bracket["standard_error"])
            assert nats[f"standard_error_{side}"] == pytest.approx(joined, rel=1e-3)
            bits = -nats[side] / (4 * np.log(2)) + np.log2(128)
            other = {"upper": "lower", "lower": "upper"}[side]
            assert measured["bits_per_dim"][other] == pytest.approx(bits, rel=1e-4)

    config.likelihood.update(reverse_steps=11, num_images=8)
    moved = run("likelihood", config)
    assert moved["reverse_starts"]["num_steps"] == 11
    assert asked["settle"][0][1] == {"num_leapfrog_steps": 2}
    assert not np.array_equal(starts[-1], noised[:16])


# ----------------------------------------------------------------------------- long chains


def first_record(found, step):
    return next(record for record in found["records"] if record["step"] == step)


@shows(*rows_of("long_run"))
def test_long_chains(run, monkeypatch):
    made, usual = [], chains.make_kernel
    monkeypatch.setattr(
        chains, "make_kernel", lambda name, n: made.append((name, n)) or usual(name, n)
    )
    short = ("long_run.num_steps", "long_run.num_chains")
    noisy = run("long_run", config_of(*short, "long_run.start", "long_run.level"))
    assert {record["level"] for record in noisy["records"]} == {2}
    assert all(record["acceptance"] == 1 for record in noisy["records"])
    start = first_record(noisy, 0)
    assert start["contrast"] == pytest.approx(1, rel=0.35)
    assert start["energy"] == pytest.approx(2 / VARIANCE[2], rel=0.8)
    assert noisy["real_images"]["energy"] == pytest.approx(2, abs=4 * np.sqrt(2 / 120))
    assert noisy["step_sizes_by_level"] == {}

    slow = run("long_run", config_of(*short, "long_run.step_size"))
    assert slow["records"][-1]["step"] == 20
    assert slow["measured_on"]["num_samples"] == 16
    assert {record["level"] for record in slow["records"]} == {0}
    start = first_record(slow, 0)
    assert start["contrast"] == pytest.approx(np.sqrt(VARIANCE[0]), rel=0.35)
    assert slow["real_images"]["energy"] == pytest.approx(2, abs=4 * np.sqrt(2 / 120))
    moved = np.sqrt(2e-4) * 1.88  # mean norm of four normals
    assert first_record(slow, 1)["displacement"] == pytest.approx(moved, rel=4 * 0.37 / 4)
    assert slow["step_sizes_by_level"] == {"0": pytest.approx(1e-4)}

    made.clear()
    fields = ("long_run.sampler", "long_run.num_leapfrog_steps")
    tested = run("long_run", config_of(*short, *fields))
    assert made[0] == ("hmc", 3)
    acceptance = [record["acceptance"] for record in tested["records"][1:]]
    assert min(acceptance) < 1
    assert 0.4 < np.mean(acceptance) < 0.99
    assert tested["step_sizes_by_level"]["0"] > 0.05
