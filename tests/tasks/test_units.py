"""Modes on images whose model units are -2 to 4: what is scaled, clipped and measured, by hand."""

import contextlib
import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.data import Dataset
from ebm_jax.evaluation.density import long_run as chains
from ebm_jax.evaluation.ood import Auroc
from ebm_jax.io import charts, image_grids
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.runs import build, settings
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.runs.workdir import config_from_json
from ebm_jax.tasks import (
    _classes,
    card,
    crossclass,
    evaluate,
    export,
    inpaint,
    interpolate,
    likelihood,
    long_run,
    neighbours,
    ood,
    restore,
    robustness,
    rollout,
    sample,
)
from ebm_jax.tasks.likelihood import ends as annealed_ends
from ebm_jax.tasks.likelihood import gaussians
from ebm_jax.tasks.long_run.chains import Chains
from ebm_jax.tasks.long_run.plan import Plan

RNG = np.random.default_rng(0)
TRAINING, HELD_OUT = (RNG.integers(0, 256, (n, 2, 2, 1)).astype(np.uint8) for n in (20, 6))


def dataset(images, split):
    labels = np.arange(len(images), dtype=np.int32) % 2
    return Dataset("made", split, images, labels, 2, (0.0, 255.0))


class Method:
    """Fills in 1 for the first sample of an image and 2 for the second; restores what it is given
    and 3 more."""

    def inpaint(self, params, rng_key, x, is_known, index, label):
        """[n, 2, 2, 1]."""
        return jnp.where(is_known, x, 1.0 + (index % 2)[:, None, None, None])

    def restore(self, params, rng_key, x, index, label):
        """[n, 2, 2, 1]."""
        return x + 3.0


@pytest.fixture
def trained(monkeypatch):
    described = settings.Data(low=-2.0, high=4.0, random_flip=False)
    sampling = settings.Sampling(batch_size=8, seed=3)
    run = build.Run(
        None, dataset(TRAINING, "train"), Method(), settings.General(), described, sampling
    )
    monkeypatch.setattr(build, "load_split", lambda config, split: dataset(HELD_OUT, split))
    return TrainedRun(run, 7, {"w": np.zeros(())}, 0.9)


@pytest.fixture
def work(tmp_path):
    with ResumableWork(tmp_path / "partial", {"of": "this test"}) as work:
        yield work


@pytest.fixture
def drawn(monkeypatch):
    """The columns of each picture."""
    found = []
    monkeypatch.setattr(
        image_grids, "columns_picture", lambda columns, **_: found.append(columns) or np.zeros(())
    )
    return found


TRUE = -2 + 6 * HELD_OUT.astype(np.float64) / 255


def test_inpainting(trained, work, drawn):
    """Errors of the hidden lower half, in units of the range of 6."""
    found = inpaint.run(trained, inpaint.Settings(num_images=3, num_draws=2), work)
    assert found.num_examples == 6
    hidden = TRUE[:3, 1]

    def rmse(guess):
        return np.sqrt(np.mean(((guess - hidden) / 6) ** 2))

    errors = found.metrics["error_on_hidden_pixels"]
    mean = (-2 + 6 * (TRAINING / 255)).mean(0)
    distances = [np.linalg.norm((TRAINING[:, 0] / 255.0 - x[0] / 255.0).reshape(20, 2), axis=1)
                 for x in HELD_OUT[:3]]  # fmt: skip
    nearest = TRAINING[[d.argmin() for d in distances]]
    assert {name: error["rmse"] for name, error in errors.items()} == pytest.approx(
        {
            "one sample": rmse(1.0), "mean of 2 samples": rmse(1.5),
            "nearest training image": rmse(-2 + 6 * (nearest[:, 1] / 255)),
            "mean of the training images": rmse(mean[1]),
        },
        rel=1e-5,
    )  # fmt: skip
    assert found.metrics["standard_deviation_of_samples"] == pytest.approx(np.sqrt(0.5) / 6)
    assert found.metrics["share_of_pixels_hidden"] == 0.5
    assert found.summary[0].startswith("hidden pixels of 3 test images")
    (columns,) = drawn
    np.testing.assert_array_equal(columns["original"], HELD_OUT[:3])
    np.testing.assert_array_equal(columns["seen"][:, 0], HELD_OUT[:3, 0])
    assert (columns["seen"][:, 1] == 128).all()
    assert (columns["sample 2"][:, 1] == round(255 * 4 / 6)).all()
    np.testing.assert_array_equal(columns["nearest training image"][:, 0], HELD_OUT[:3, 0])
    np.testing.assert_array_equal(columns["nearest training image"][:, 1], nearest[:, 1])


def test_inpainting_once_has_no_spread(trained, work, drawn):
    found = inpaint.run(trained, inpaint.Settings(num_images=2, num_draws=1), work)
    assert found.metrics["standard_deviation_of_samples"] is None


def test_restoring(trained, work, drawn):
    """Chains add 3 of 6: half of the range, before it is clipped."""
    chosen = restore.Settings(num_images=4, corruptions=("noise",), noise_std=0.0)
    found = restore.run(trained, chosen, work)
    errors = found.metrics["errors"]["noise"]
    true = HELD_OUT[:4] / 255
    expected = np.sqrt(np.mean((np.clip(true + 0.5, 0, 1) - true) ** 2))
    assert errors["corrupted input"]["rmse"] == 0
    assert errors["the model's chains"]["rmse"] == pytest.approx(expected, rel=1e-5)
    every = np.linalg.norm((true[:, None] - TRAINING[None] / 255).reshape(4, 20, 4), axis=2)
    nearest = TRAINING[every.argmin(1)] / 255
    assert errors["nearest training image"]["rmse"] == pytest.approx(
        np.sqrt(np.mean((nearest - true) ** 2))
    )
    (columns,) = drawn
    np.testing.assert_array_equal(columns["original"], HELD_OUT[:4])
    assert found.summary[0].startswith("noise 0: 4 images")
    with pytest.raises(ValueError, match=r"corruptions: expected one or more, got none"):
        restore.run(trained, restore.Settings(corruptions=()), work)
    with pytest.raises(ValueError, match=r"expected two levels, \(0.1, 0.9\), got \(0.5,\)"):
        restore.run(trained, restore.Settings(salt_levels=(0.5,)), work)


@pytest.mark.parametrize("dequantize", [False, True])
def test_evaluation_is_told_the_units(trained, work, monkeypatch, dequantize):
    units = dataclasses.replace(trained.run.data, dequantize=dequantize)
    trained = dataclasses.replace(trained, run=dataclasses.replace(trained.run, data=units))
    asked = {}

    def quality(real, samples):
        units = {name: getattr(real, name) for name in ("low", "high", "dequantized")}
        splits = (real.training.split, real.held_out.split)
        asked.update(units, splits=splits, number=len(samples))
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate.RealImages, "quality", quality)
    monkeypatch.setattr(TrainedRun, "samples", lambda *_: np.zeros((5, 2, 2, 1)))
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(trained, evaluate.Settings(num_samples=5), work)
    assert asked == {
        "low": -2.0, "high": 4.0, "dequantized": dequantize,
        "splits": ("train", "test"), "number": 5,
    }  # fmt: skip


def test_levels_are_asked_of_methods_that_have_them(trained, work, monkeypatch):
    monkeypatch.setattr(TrainedRun, "samples", lambda *_: pytest.fail("sampled"))
    expected = (
        r"from_levels: expected \(\) for Method, whose samples begin at noise alone, got \(1,"
    )
    with pytest.raises(ValueError, match=expected):
        evaluate.run(trained, evaluate.Settings(num_samples=5, from_levels=(1,)), work)


def test_levels_are_not_asked_of_points(trained, work):
    points = trained.run.dataset._replace(images=np.zeros((9, 2), np.float32))
    plane = dataclasses.replace(trained, run=dataclasses.replace(trained.run, dataset=points))
    with pytest.raises(ValueError, match=r"from_levels is of images: expected \(\) for points"):
        evaluate.run(plane, evaluate.Settings(num_samples=5, from_levels=(1,)), work)


def test_attacks_are_made_in_the_unit_range(trained):
    logits = robustness._in_unit_range(trained, lambda params, x: params * x)
    assert logits(2.0, np.array([0.0, 0.5, 1.0])).tolist() == [-4, 2, 8]


def test_predictions_keep_to_the_box(trained):
    predictor = types.SimpleNamespace(predict=lambda params, context: params * context)
    step = rollout._feed_forward(trained, predictor)(2.0, None)
    assert step(0, jnp.array([-5.0, 1.0, 5.0])).tolist() == [-2, 2, 4]


def test_the_judge_sees_images_in_minus_one_to_one(trained, monkeypatch):
    asked = []

    def logits(x, *, scale, offset):
        asked.append((scale, offset))
        return np.array([[1.0, 2.0]])

    def train_classifier(images, labels, num_classes, **units):
        asked.append((len(images), num_classes, units))
        return types.SimpleNamespace(logits=logits)

    monkeypatch.setattr(crossclass, "train_classifier", train_classifier)
    judge = crossclass._judge(trained.run)
    assert judge(np.zeros((1, 2, 2, 1))).tolist() == [1]
    (number, classes, units), (scale, offset) = asked
    assert (number, classes) == (20, 2)
    assert (units["scale"], units["offset"]) == pytest.approx((2 / 255, -1))
    assert (scale * -2 + offset, scale * 4 + offset) == pytest.approx((-1, 1))
    large = trained.run.dataset._replace(num_classes=1)
    assert crossclass._judge(types.SimpleNamespace(dataset=large)) is None
    assert crossclass._rms(np.zeros((2, 2)), np.full((2, 2), 3.0), trained.run) == 0.5


def test_neighbors_are_sought_in_model_units(trained, monkeypatch):
    asked = []

    def logits(x, **units):
        asked.append((len(x), units))
        return x.reshape(len(x), -1)

    def train_classifier(images, labels, num_classes, **units):
        asked.append((len(images), num_classes, units))
        return types.SimpleNamespace(logits=logits)

    monkeypatch.setattr(neighbours, "train_classifier", train_classifier)
    samples, held_out = np.zeros((3, 2, 2, 1)), np.ones((5, 2, 2, 1))
    spaces = neighbours._spaces(trained.run, samples, held_out)
    x, y, z, scale, offset = spaces["pixels"]
    assert (x is samples, y is held_out, z is TRAINING) == (True, True, True)
    assert (scale, offset) == pytest.approx((6 / 255, -2))
    x, y, z, *units = spaces["our classifier's logits"]
    assert ([len(x), len(y), len(z)], units) == ([3, 5, 20], [1.0, 0.0])
    of_stored = {"scale": pytest.approx(6 / 255), "offset": -2.0}
    assert asked == [(20, 2, of_stored), (20, of_stored), (3, {}), (5, {})]


def test_where_annealing_ends(trained, drawn):
    """Ends and data are divided by a_bar = 1/2 and stand beside their nearest training images."""
    x = (-2 + 6 * (TRAINING[[3, 8, 5]] / 255)) / 2
    noisy = TRUE / 2 + 0.01
    weights = np.log([0.2, 0.5, 0.3])
    ends = annealed_ends.Ends(x, np.zeros(3), weights)
    found, pictures = annealed_ends.where(trained.run, ends, np.zeros(6), noisy, 0.5)
    assert found.distance_over_data == pytest.approx(0, abs=1e-6)
    assert set(pictures) == {"annealed"}
    (columns,) = drawn
    np.testing.assert_array_equal(columns["heaviest chains"], TRAINING[[8, 5, 3]])
    np.testing.assert_array_equal(columns["nearest training image"], TRAINING[[8, 5, 3]])
    shown = columns["held-out, same noise"]
    np.testing.assert_array_equal(shown, trained.run.to_pixels(noisy[:3] / 0.5))
    drawn.clear()
    many = annealed_ends.Ends(
        np.repeat(x, 4, axis=0), np.zeros(12), np.arange(12.0) + 50 * (np.arange(12) == 6)
    )
    found, _ = annealed_ends.where(trained.run, many, np.zeros(6), np.repeat(noisy, 2, 0), 0.5)
    (columns,) = drawn
    order = [6, 11, 10, 9, 8, 7, 5, 4]  # of places, by weight
    shown = np.repeat([3, 8, 5], 4)[order]
    np.testing.assert_array_equal(columns["heaviest chains"], TRAINING[shown])
    np.testing.assert_array_equal(columns["nearest training image"], TRAINING[shown])
    assert len(columns["held-out, same noise"]) == 8
    off = annealed_ends.where(
        trained.run, many._replace(x=many.x + 0.02), np.zeros(6), noisy + 0.01, 0.5
    )[0]
    near = [np.sqrt(((y / 0.5 - (-2 + 6 * (TRAINING / 255.0))) ** 2).sum((1, 2, 3))).min()
            for y in noisy + 0.01]  # fmt: skip
    assert off.distance_over_data == pytest.approx(2 * 0.04 / np.median(near), rel=1e-3)
    alone, pictures = annealed_ends.where(
        types.SimpleNamespace(has_images=False), ends, np.zeros(6), noisy, 0.5
    )
    assert (alone.distance_over_data, pictures) == (None, {})


def test_long_chains_are_recorded_in_their_units(trained, monkeypatch):
    asked = []
    monkeypatch.setattr(chains, "reference", lambda *args, **units: asked.append(units) or (1, 2))
    densities = types.SimpleNamespace(noised=lambda key, level, x, index: x)
    here = types.SimpleNamespace(
        key=jax.random.key(0), examples=np.zeros((3, 1)), densities=densities, run=trained.run,
        settings=long_run.Settings(num_chains=8),
    )  # fmt: skip
    energies = types.SimpleNamespace(energies=lambda key, level, x: np.zeros(3))
    assert Chains._reference(here, energies, 0) == (1, 2)
    assert asked == [{"low": -2.0, "high": 4.0}]


def test_an_event_of_long_chains(trained):
    """At step 9 after one at 5: a mean acceptance over four steps, a row of the figure, draws."""
    x = np.arange(8.0).reshape(2, 2, 2, 1) - 1.5
    plan = Plan([0, 5, 9, 10], [9], [9], [1, 0], 10, [0])
    here = types.SimpleNamespace(
        plan=plan, params=None, run=trained.run, settings=long_run.Settings(num_chains=8),
        measure=lambda params, level, u: (x, np.array([1.0, 3.0]), np.ones_like(x)),
        real_at=lambda level: chains.Reference(0, 1, 1, 0, None, 0, 0),
    )  # fmt: skip
    state = {
        "x": np.zeros((8, 1)), "start": x - 1, "step": 5, "accepted": 3.0,
        "records": np.zeros((0, 10)), "shown": np.zeros((0, 2, 2, 2, 1), np.uint8),
        "kept": np.zeros((0, 2, 2)), "kept_energies": np.zeros((0, 2)), "leaf_0": 1,
    }  # fmt: skip
    Chains._record(here, state, 9, 1)
    (row,) = state["records"]
    found = chains.Record(*row)
    assert (found.step, found.level, found.energy, found.acceptance) == (9, 1, 2.0, 0.75)
    assert found.displacement == pytest.approx(2.0)
    assert found.saturated == pytest.approx(2 / 8)  # 4.5 and 5.5, of -2 to 4
    np.testing.assert_array_equal(state["shown"][0], trained.run.to_pixels(x))
    np.testing.assert_array_equal(state["kept"][0], [[-1.5, 1.5], [2.5, 5.5]])
    np.testing.assert_array_equal(state["kept_energies"], [[1, 3]])
    assert (state["step"], float(state["accepted"]), "leaf_0" in state) == (9, 0.0, True)
    state |= {"step": -1, "accepted": 0.0}
    Chains._record(here, state, 0, 1)
    assert chains.Record(*state["records"][-1]).acceptance == 1.0
    assert len(state["shown"]) == len(state["kept"]) == 1


def noisy(method, a_bar, sigma_bar):
    """A method with these noise levels, in whose parameters nothing is."""
    densities = Densities(None, jnp.array(a_bar), jnp.array(sigma_bar), BaseDistribution())
    method.densities = lambda params: densities
    return densities


def test_what_exported_functions_are_compared_on(trained):
    """Held-out images with the noise of the lowest level, all by the seed of sampling."""
    noisy(trained.run.method, [0.5, 0.25], [0.75, 0.9])
    found = export._arguments(trained)
    x = trained.run.random_examples(trained.run.held_out(), 3)
    noise = np.random.default_rng(3).normal(size=x.shape)
    np.testing.assert_allclose(found["x"], 0.5 * x + 0.75 * noise, rtol=1e-5)
    assert (int(found["seed"]), int(found["level"])) == (3, 0)
    np.testing.assert_array_equal(found["label"], trained.run.dataset.labels[: len(x)])
    np.testing.assert_array_equal(found["index"], np.arange(len(x)))
    np.testing.assert_allclose(found["sigma_bar"], [0.75, 0.9])


def test_gaussians_are_of_the_same_noisy_images(trained, work, monkeypatch):
    """Fitted to as many as are asked for, by the seed of sampling; none to bare intensities."""
    asked, usual = [], gaussians.baselines.fit_mixture
    monkeypatch.setattr(
        gaussians.baselines, "fit_mixture", lambda *given: asked.append(given) or usual(*given)
    )
    monkeypatch.setattr(
        TrainedRun, "fingerprint", lambda self, **others: {"seed": self.run.sampling.seed, **others}
    )
    chosen = likelihood.Settings(num_fitted=16, num_components=(2,))
    images, key = {"all": trained.run.scale(HELD_OUT)}, jax.random.key(0)

    def found(dequantize, sigma):
        units = dataclasses.replace(trained.run.data, dequantize=dequantize)
        run = dataclasses.replace(trained.run, data=units)
        noisy(run.method, [0.5], [sigma])
        made = dataclasses.replace(trained, run=run)
        return gaussians.gaussian_baselines(made, chosen, work, images, key)

    assert found(dequantize=False, sigma=0.0) == []
    assert asked == []
    assert [row.num_components for row in found(dequantize=False, sigma=0.5)] == [1, 2]
    ((x, noise_std, num_components, seed),) = asked
    np.testing.assert_array_equal(x, 0.5 * trained.run.random_examples(trained.run.dataset, 16))
    assert (noise_std, num_components, seed) == (0.5, (2,), 3)
    assert len(found(dequantize=True, sigma=0.0)) == 2
    assert len(asked) == 2


def test_exported_units(trained, work, monkeypatch):
    """Of images the scale of intensities; of others the range of their values."""
    pytest.importorskip("flatbuffers")
    monkeypatch.setattr(export, "_functions", lambda trained: {})
    arguments = {"a_bar": [1.0, 0.5], "sigma_bar": [0.0, 0.5]}
    monkeypatch.setattr(export, "_arguments", lambda trained: arguments)
    found = export.run(trained, export.Settings(platforms=("cpu", "tpu")), work)
    assert found.metrics["model_units"] == {
        "scale": pytest.approx(6 / 255), "offset": -2.0, "of": "intensities 0 .. 255",
    }  # fmt: skip
    assert found.metrics["num_levels"] == 2
    assert found.metrics["example_shape"] == [2, 2, 1]
    assert found.metrics["platforms"] == ["cpu", "tpu"]
    assert found.summary == ["step 7 for cpu, tpu:"]
    assert set(found.archives["params"]) == {"w"}
    assert set(found.other_files) == {"load.py"}
    with pytest.raises(ValueError, match=r"export\.platforms: expected some of cpu"):
        export.run(trained, export.Settings(platforms=()), work)


def test_a_card(trained):
    config = config_from_json(
        {
            "method": {"name": "a_method", "width": 3}, "network": {"name": "a_network"},
            "sampler": {}, "optimizer": {"name": "adam", "b1": 0.5}, "training": {"batch_size": 9},
        }
    )  # fmt: skip
    run = types.SimpleNamespace(
        config=config, dataset=trained.run.dataset, data=trained.run.data, has_images=True,
        general=settings.General(seed=4),
    )  # fmt: skip
    made = types.SimpleNamespace(
        run=run, step=12_000, ema_decay=0.75, params={"w": np.zeros((3, 4))}
    )
    chosen = card.Settings(title="A title", about="What for.", license="CC0", limits="Small.")
    text = card._card(made, chosen, {"ood": ["one", "two"]}, b"x" * 2_000)
    for line in (
        'license: "CC0"', "tags: [energy-based-model, jax, a_method]", "# A title", "What for.",
        "| method | `a_method`: width 3 |", "| network | `a_network`: ; 12 parameters |",
        "| sampler | as in training |",
        "| data | `made`, split `train`: 20 of 2 x 2 x 1, model units -2 to 4 |",
        "| training | 12,000 steps of 9 examples, EMA 0.75, seed 4; b1 0.5 |",
        "| weights | EMA, float32, 2,000 bytes |", "| license | CC0 |", "`--mode=ood`:",
        "pixels = model.to_pixels(x)", "Small.",
    ):  # fmt: skip
        assert line in text.splitlines()
    assert "\n```\none\ntwo\n```\n" in text
    run.has_images = False
    bare = card._card(made, card.Settings(), {}, b"")
    for line in (
        'license: "not stated"', "# a_method on made", "An energy-based model of made.",
        "points = model.to_data_units(x)", "| license | not stated |",
        "Nothing yet: run the modes in the workdir, then this one again.",
    ):  # fmt: skip
        assert line in bare.splitlines()
    assert bare.endswith("## Limits\n\nnot stated\n")


def test_samples_go_to_files(trained, work, monkeypatch):
    """In model units and as intensities; each image as a file of its own if that is asked for."""
    x = np.linspace(-3, 5, 20 * 4).reshape(20, 2, 2, 1).astype(np.float32)
    monkeypatch.setattr(TrainedRun, "sampler", lambda self, work: lambda first, stop: x[first:stop])
    monkeypatch.setattr(TrainedRun, "fingerprint", lambda self, **others: others)
    shown = []
    monkeypatch.setattr(
        sample.preview, "figure", lambda run, params, samples: shown.append(len(samples)) or "grid"
    )
    object.__setattr__(trained.run, "sampling", settings.Sampling(num_samples=20, batch_size=8))
    found = sample.run(trained, sample.Settings(png_files=True), work)
    np.testing.assert_array_equal(found.archives["samples"]["x"], x)
    pixels = np.round(255 * (np.clip(x, -2, 4) + 2) / 6)
    assert np.abs(found.archives["samples"]["image"] - pixels).max() <= 1
    np.testing.assert_array_equal(found.archives["samples"]["image"], trained.run.to_pixels(x))
    assert set(found.image_folders) == {"samples"}
    assert (found.num_examples, found.file_name, found.metrics) == (20, "samples", {})
    assert found.summary == ["20 samples from the EMA weights of step 7"]
    assert (found.figures, shown) == ({"samples": "grid"}, [20])
    assert sample.run(trained, sample.Settings(), work).image_folders == {}


def test_sets_beside_the_inside(trained, monkeypatch):
    """In 0..1: chosen training images, the first held-out ones, those made of them, others."""
    other, asked = dataset(HELD_OUT[:4], "test"), []
    monkeypatch.setattr(
        ood.data, "load_dataset", lambda *names, data_dir: asked.append((*names, data_dir)) or other
    )
    chosen = ood.Settings(num_images=5, sets=("flipped",), others=("digits",))
    sets = ood._sets(trained.run, chosen, "made, test")
    assert [(name, len(x)) for name, x in sets.items()] == [
        ("training images", 5), ("made, test", 5), ("flipped", 5), ("digits", 4),
    ]  # fmt: skip
    elsewhere = dataclasses.replace(trained.run.general, data_dir="elsewhere")
    ood._sets(dataclasses.replace(trained.run, general=elsewhere), chosen, "x")
    assert asked == [("digits", "test", None), ("digits", "test", "elsewhere")]
    np.testing.assert_allclose(sets["made, test"], HELD_OUT[:5] / 255)
    np.testing.assert_allclose(sets["flipped"], HELD_OUT[:5, ::-1] / 255)
    np.testing.assert_allclose(sets["digits"], HELD_OUT[:4] / 255)
    rows = {x.tobytes() for x in TRAINING}
    found = np.round(255 * sets["training images"]).astype(np.uint8)
    assert len({x.tobytes() for x in found} & rows) == 5
    everything = ood._sets(trained.run, ood.Settings(num_images=50, sets=("flipped",)), "x")
    assert len(everything["training images"]) == 20
    with pytest.raises(ValueError, match=r"ood.sets, ood.others: expected one or more, got none"):
        ood._sets(trained.run, ood.Settings(sets=(), others=()), "x")
    monkeypatch.setattr(ood.data, "load_dataset",
                        lambda *_, **__: other._replace(images=np.zeros((4, 2))))  # fmt: skip
    with pytest.raises(ValueError, match=r"ood.others: expected sets of images, got digits"):
        ood._sets(trained.run, chosen, "x")


def test_the_nearest_images_of_samples(trained, work, drawn, monkeypatch):
    """Fourteen samples that are training images, of which the figure has twelve."""
    samples = trained.run.scale(TRAINING[[3, 0, 7, *range(8, 19)]])
    scores = {
        name: {"energy 0": values, "other": values}
        for name, values in (("training", np.arange(4.0)), ("held out", np.arange(4.0) + 9))
    }
    asked = []
    monkeypatch.setattr(
        neighbours, "_scores", lambda trained, real, *_: asked.append(real) or scores
    )
    monkeypatch.setattr(TrainedRun, "samples", lambda self, work, number: samples[:number])
    monkeypatch.setattr(neighbours, "supports", lambda num_classes, shape: False)
    monkeypatch.setattr(charts, "histograms_picture", lambda panels: [panels])
    chosen = neighbours.Settings(num_images=5, num_samples=14, num_neighbours=3)
    found = neighbours.run(trained, chosen, work)
    (real,) = asked
    np.testing.assert_allclose(real["training"], -2 + 6 * (TRAINING[:5] / 255), rtol=1e-5)
    np.testing.assert_allclose(real["held out"], TRUE[:5], rtol=1e-5)
    assert found.num_examples == 14
    assert found.metrics["splits"] == {"training": "train", "held out": "test"}
    assert found.metrics["num_energies"] == {"training": 5, "held out": 5}
    tests = found.metrics["kolmogorov_smirnov_of_energies"]
    assert list(tests) == ["energy 0"]
    assert tests["energy 0"]["statistic"] == 1.0
    pixels = found.metrics["distance_to_nearest_training_image"]["pixels"]
    assert pixels["median_sample"] == pytest.approx(0, abs=1e-3)
    assert found.figures["energies"] == [
        {"energy 0": {name: scores[name]["energy 0"] for name in scores}}
    ]
    (((title, distances),),) = (panels.items() for panels in found.figures["distances"])
    assert (title, list(distances)) == ("distance to the nearest, pixels", ["samples", "held out"])
    assert [len(values) for values in distances.values()] == [14, 5]
    assert set(found.figures) == {"energies", "distances", "nearest_in_pixels"}
    (columns,) = drawn
    assert list(columns) == ["sample", "nearest 1", "nearest 2", "nearest 3"]
    first_twelve = TRAINING[[3, 0, 7, *range(8, 17)]]
    np.testing.assert_array_equal(columns["sample"], first_twelve)
    np.testing.assert_array_equal(columns["nearest 1"], first_twelve)
    few = dataclasses.replace(trained.run, dataset=dataset(TRAINING[:2], "some"))
    found = neighbours.run(dataclasses.replace(trained, run=few), chosen, work)
    assert found.metrics["splits"]["training"] == "some"
    assert list(drawn[-1]) == ["sample", "nearest 1", "nearest 2"]


def test_paths_between_samples(trained, work, monkeypatch):
    """A sample is its noise, 0 and 3 at the ends: by the sine of 30 degrees in two steps."""

    def sample(params, key, blend):
        x = 3 * (blend.second % 2) * blend.second_weight + 0 * blend.first_weight
        return jnp.broadcast_to(x[:, None, None, None], (len(x), 2, 2, 1))

    trained.run.method.sample = sample
    monkeypatch.setattr(image_grids, "image_grid", lambda *given: given)
    found = interpolate.run(trained, interpolate.Settings(num_pairs=3, num_points=4), work)
    assert found.num_examples == 12
    np.testing.assert_allclose(found.metrics["largest_step_over_distance_of_ends"], [0.5] * 3)
    assert found.metrics["of_a_straight_line"] == 1 / 3
    assert found.summary == [
        "3 paths of 4 images; largest step over the distance of the ends: median 0.50"
    ]
    grid, columns = found.figures["interpolate"]
    assert columns == 4
    values = (2 + 3 * np.sin(np.pi / 6 * np.arange(4))) / 6 * 255
    np.testing.assert_allclose(grid[:, 0, 0, 0], np.tile(values, 3), atol=0.51)


def test_what_differs_of_an_exported_function(monkeypatch):
    """The largest of all that it gives, relative to the largest value; None where it is not for."""

    def made(factor):
        return lambda params, x: (x, {"grad": factor * params * x})

    params, x = jnp.float32(2), jnp.array([0.0, -4.0, 1.0])
    exported_ = jax.export.export(jax.jit(made(1.0)), platforms=("cpu",))(params, x)
    content = bytes(exported_.serialize())
    function = export.Function(made(1.25), (), "")

    def difference(platforms, function=function):
        return export._difference(function, params, (x,), content, platforms)

    assert difference(("tpu", "cpu")) == pytest.approx(0.2)
    assert difference(("cpu",), export.Function(made(1.0), (), "")) == 0
    assert difference(("cuda", "tpu")) is None
    nothing = export.Function(lambda params, x: (0 * x, {"grad": 0 * x}), (), "")
    assert difference(("cpu",), nothing) == pytest.approx(8e30)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert difference(("cpu", "tpu")) is None
    monkeypatch.setattr(export.export, "deserialize", lambda content: exported_)
    assert difference(("cuda",)) == pytest.approx(0.2)


def test_which_attacks_are_made_and_shown(trained, work, drawn, monkeypatch):
    """At 0 and at each radius, smaller ones first; of energies also through chains."""
    made = []

    class Attacks:
        def __init__(self, trained, settings, work, x, labels, num_classes):
            made.append((x, labels, num_classes))

        def on(self, name, logits_fn, params, norm, radius):
            made.append((name, norm, radius, float(logits_fn(params, 0.5))))
            points = {"published": None, "strict": np.full((5, 2, 2, 1), 2 * radius)}
            return {"accuracy": {"strict": 1 - radius}}, points

        def refined(self, trained, points, norm, radius):
            made.append(("refined", norm, radius, points["strict"][0, 0, 0, 0]))
            return {"accuracy": {"published": 0.5}}

    network = types.SimpleNamespace(logits=lambda params, x: params * x)
    monkeypatch.setattr(robustness, "_Attacks", Attacks)
    monkeypatch.setattr(_classes, "checked_classes", lambda trained, mode: 2)
    monkeypatch.setattr(_classes, "class_logits", lambda trained: lambda params, x: params["w"] + x)
    monkeypatch.setattr(_classes, "train_softmax", lambda *given: made.append(given[2:]) or
                        (network, 5.0))  # fmt: skip
    monkeypatch.setattr(TrainedRun, "for_densities", lambda self: contextlib.nullcontext(self))
    monkeypatch.setattr(charts, "curves_picture", lambda panels: [panel.title for panel in panels])
    begun = []
    monkeypatch.setattr(ResumableWork, "begin", lambda self, *given: begun.append(given))
    chosen = robustness.Settings(
        num_images=5, linf_radii=(0.5, 0.25), l2_radii=(), baseline="plain", baseline_steps=9,
        num_draws=3,
    )  # fmt: skip
    found = robustness.run(trained, chosen, work)
    assert made[0] == ("plain", 9)
    x, labels, num_classes = made[1]
    np.testing.assert_allclose(x, HELD_OUT[:5] / 255, rtol=1e-6)
    assert (labels.tolist(), num_classes) == ([0, 1, 0, 1, 0], 2)
    # Model units of 1/2 are 1: the energies' logits are 0 + 1, those of the network 5 x 1.
    assert made[2:] == [
        row
        for radius in (0.0, 0.25, 0.5)
        for row in (
            ("energies", "linf", radius, 1.0), ("refined", "linf", radius, 2 * radius),
            ("softmax network", "linf", radius, 5.0),
        )
    ]  # fmt: skip
    assert found.num_examples == 5
    assert found.metrics["num_adaptive_images"] == 5
    assert list(found.metrics["accuracy"]) == ["linf"]
    assert found.metrics["accuracy"]["linf"][1] == {
        "radius": 0.25, "energies": {"accuracy": {"strict": 0.75}},
        "energies, refined": {"accuracy": {"published": 0.5}},
        "softmax network": {"accuracy": {"strict": 0.75}},
    }  # fmt: skip
    assert found.metrics["refined"].startswith("3 draws of the chains' noise")
    assert found.summary == robustness._lines(found.metrics["accuracy"], 5, 5)
    assert found.figures["accuracy"] == ["L-infinity"]
    (columns,) = drawn
    assert list(columns) == [
        "held out", "energies, L-infinity 0.25", "softmax network, L-infinity 0.25",
        "energies, L-infinity 0.5", "softmax network, L-infinity 0.5",
    ]  # fmt: skip
    np.testing.assert_array_equal(columns["held out"], HELD_OUT[:5])
    assert np.abs(columns["energies, L-infinity 0.25"].astype(int) - 127.5).max() == 0.5
    assert (columns["energies, L-infinity 0.5"] == 255).all()
    # Of each classifier: clean images, and at two radii four attacks; of chains: three programs at
    # each radius, and an attack where there is one to be made, on two images of five.
    chosen = dataclasses.replace(chosen, adaptive_images=2)
    robustness.run(trained, chosen, work)
    robustness.run(trained, dataclasses.replace(chosen, num_random=0, strict_steps=(7,)), work)
    monkeypatch.setattr(_classes, "train_softmax", lambda *_: None)
    robustness.run(trained, dataclasses.replace(chosen, l2_radii=(1.0,)), work)
    assert begun[1:] == [
        ("attacks", 5 * (2 * (1 + 2 * 4) + 2 * 3) + 2 * (3 + 2)),
        ("attacks", 5 * (2 * (1 + 2 * 2) + 2 * 3) + 2 * (3 + 2)),
        ("attacks", 5 * (1 + 2 * 4 + 1 + 4 + 2 * 5) + 2 * (5 + 3)),
    ]


def test_scores_of_sets_and_their_figures(trained, work, drawn, monkeypatch, tmp_path):
    """Ten images of a set, of which the figure has eight; the mean of areas is over the others."""
    rng = np.random.default_rng(3)
    sets = {"training images": rng.random((10, 2, 2, 1)), "made, test": rng.random((9, 2, 2, 1)),
            "a_b": rng.random((10, 2, 2, 1)), "c": rng.random((4, 2, 2, 1))}  # fmt: skip
    noisy(trained.run.method, [1.0], [0.0])
    described = dataclasses.replace(trained.run.data, name="made")
    trained = dataclasses.replace(trained, run=dataclasses.replace(trained.run, data=described))
    monkeypatch.setattr(TrainedRun, "for_densities", lambda self: contextlib.nullcontext(self))
    kept = []
    monkeypatch.setattr(TrainedRun, "fingerprint", lambda self, **others: kept.append(others) or {})
    monkeypatch.setattr(ood, "_sets", lambda run, settings, inside: sets)
    monkeypatch.setattr(
        ood, "level_energies", lambda densities, key, levels, x, index: {"energy": x.sum((1, 2, 3))}
    )
    monkeypatch.setattr(
        ood, "ood_scores",
        lambda values, training, levels: {
            "energy": values["energy"] - training["energy"].mean(), "typicality": values["energy"],
        },
    )  # fmt: skip
    asked = []

    def auroc(inside, outside, **options):
        asked.append((inside, outside, options))
        return Auroc(len(outside) / 10, 0.0, 1.0)

    monkeypatch.setattr(ood.ood, "auroc", auroc)
    monkeypatch.setattr(charts, "histograms_picture", lambda panels: [panels])
    found = ood.run(trained, ood.Settings(num_bootstrap=7), work)
    assert found.num_examples == 9
    assert found.metrics["inside"] == "made, test"
    assert found.metrics["energy_of_classes"] is None
    assert found.metrics["mean_auroc"] == {"energy": 0.7, "typicality": 0.7}
    assert found.metrics["auroc"]["c"]["energy"] == {"value": 0.4, "low": 0.0, "high": 1.0}
    assert list(found.metrics["auroc"]) == ["a_b", "c"]
    assert [(len(a), len(b)) for a, b, _ in asked] == [(9, 10), (9, 10), (9, 4), (9, 4)]
    assert asked[0][2] == {"num_bootstrap": 7, "seed": 3}
    totals = {name: (-2 + 6 * x).sum((1, 2, 3)) for name, x in sets.items()}
    np.testing.assert_allclose(asked[3][1], totals["c"], rtol=1e-5)
    np.testing.assert_allclose(asked[3][0], totals["made, test"], rtol=1e-5)
    (((name, panel),),) = (panels.items() for panels in found.figures["histograms"])
    assert (name, list(panel)) == ("energy", list(sets))
    mean = totals["training images"].mean()
    np.testing.assert_allclose(panel["a_b"], totals["a_b"] - mean, rtol=1e-4, atol=1e-4)
    (columns,) = drawn
    assert list(columns) == ["training images", "made, test", "a b", "c"]
    assert [len(column) for column in columns.values()] == [8, 8, 8, 4]
    np.testing.assert_allclose(columns["a b"], 255 * sets["a_b"][:8], atol=0.51)
    assert (kept[0]["of_classes"], kept[0]["sets"]) == ("mixture", list(sets))
    with pytest.raises(ValueError, match=r"of_classes: expected 'mixture', as .* got 'minimum'$"):
        ood.run(trained, ood.Settings(of_classes="minimum"), work)
    of_classes = types.SimpleNamespace(num_classes=2, num_levels=1, lowest_class=lambda: "lowest")
    trained.run.method.densities = lambda params: of_classes
    monkeypatch.setattr(
        ood, "level_energies",
        lambda densities, *given: {"energy": given[2][:, 0, 0, 0] + 5 * (densities == "lowest")},
    )  # fmt: skip
    for choice, more in (("minimum", 5), ("mixture", 0)):
        with ResumableWork(tmp_path / choice, {}) as work:
            found = ood.run(trained, ood.Settings(of_classes=choice), work)
        assert found.metrics["energy_of_classes"] == kept[-1]["of_classes"] == choice
        np.testing.assert_allclose(asked[-1][1], -2 + 6 * sets["c"][:, 0, 0, 0] + more, rtol=1e-5)
