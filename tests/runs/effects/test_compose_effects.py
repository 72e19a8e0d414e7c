"""What --mode=compose makes of its settings: energies in closed form, steps, labels, errors."""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from effects_stubs import SHAPE, full_bars, stubs
from effects_table import TABLE, changed, shows, value_of
from known_model import columns_of

from configs import default
from ebm_jax import samplers, tasks
from ebm_jax.data import Dataset
from ebm_jax.evaluation.images.factor_regressor import FactorErrors
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.runs import build, modes
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks import compose

__all__ = ["full_bars", "stubs"]

ROWS = [name for name in TABLE if name.startswith("compose.")]
STEP = 0.05
VARIANCES = (0.5, 2.0)


def brightness(split):
    """Images of one gray, and its value in model units as the label."""
    gray = np.random.default_rng(len(split)).integers(0, 256, 400).astype(np.uint8)
    images = np.broadcast_to(gray[:, None, None, None], (400, *SHAPE))
    labels = gray[:, None] / 127.5 - 1
    return Dataset("made", split, images.copy(), labels.astype(np.float32), 1, (0.0, 255.0))


@dataclasses.dataclass(frozen=True)
class Known:
    """E(x, y) = |x - y|^2 / (2 v); its samples say what they were asked for."""

    variance: float
    network: object = None

    def densities(self, params):
        def class_energy(level, label):
            center = label.reshape(-1, 1, 1, 1)
            return lambda x: jnp.sum((x - center) ** 2, (1, 2, 3)) / (2 * self.variance)

        return Densities(
            None,
            jnp.ones(1),
            jnp.zeros(1),
            BaseDistribution(),
            lambda energy_fn, level: samplers.langevin(energy_fn, STEP, temperature=0.0),
            class_energy=class_energy,
        )

    def sample_with(self, rng_key, kernel, index, num_steps):
        """Energy at a start that follows from the index, steps, and where one step leads."""
        start = jnp.broadcast_to(starts(index)[:, None, None, None], (len(index), *SHAPE))
        state = kernel.init(start)._replace(chain=index)
        new, _ = kernel.step(rng_key, state)
        told = [state.energy, jnp.full(len(index), float(num_steps)), new.x[:, 0, 0, 0]]
        return jnp.stack([*told, told[0]], axis=1).reshape(-1, *SHAPE)


def starts(index):
    return 0.01 * index


def model(config, variance):
    general, sections = build.check_sections(config)
    run = build.Run(
        config,
        brightness("train"),
        Known(variance),
        general,
        sections["data"],
        sections["sampling"],
    )
    return TrainedRun(run, 7, {"unused": np.zeros(())}, 0.999)


@pytest.fixture
def run(tmp_path, monkeypatch, stubs):
    """(config) -> (JSON, what samples say, output)."""
    monkeypatch.setattr(build, "load_split", lambda config, split: brightness(split))
    monkeypatch.setattr(modes, "check_trained", lambda config, workdir: pathlib.Path(workdir))
    monkeypatch.setattr(modes, "load_trained", lambda config, workdir: model(config, VARIANCES[0]))
    monkeypatch.setattr(compose, "load_other", lambda path: model(config_of(), VARIANCES[1]))

    def call(config):
        assert tasks.run("compose", config, tmp_path) == 0
        found = json.loads((tmp_path / "compose/compose.json").read_text())
        with np.load(tmp_path / "compose/samples.npz") as archive:
            x = archive["x"].reshape(-1, 4)
        assert (tmp_path / "compose/compose.png").stat().st_size > 1_000
        return found, {"energy": x[:, 0], "num_steps": x[:, 1], "step": x[:, 2]}

    return call


def config_of(*fields, **values):
    config = default.get_config()
    config.data.random_flip = False
    config.compose.num_images = 20
    config.compose.update(values)
    return changed(config, *fields)


def expected(labels, number=20):
    """Energies of both models at the starts, and their gradients in each pixel."""
    x = starts(np.arange(number))
    away = [x - label for label in labels]
    energies = [4 * d**2 / (2 * v) for d, v in zip(away, VARIANCES, strict=False)]
    return x, energies, [d / v for d, v in zip(away, VARIANCES, strict=False)]


@pytest.fixture
def unjudged(monkeypatch):
    """Without the regressions, which take seconds."""
    monkeypatch.setattr(compose, "_judged", lambda *_: ({}, []))


OTHER = {"workdirs": ("other",)}
LABEL = brightness("test").labels[:, 0]


@shows("compose.workdirs", "compose.labels", "compose.num_images", "compose.num_steps")
def test_sums_for_labels(run, unjudged):
    """One model alone, two, as many images and steps, and labels that are written."""
    found, told = run(config_of())
    x, (first,), _ = expected([LABEL[:20]])
    np.testing.assert_allclose(told["energy"], first, rtol=1e-4, atol=1e-5)
    assert set(told["num_steps"]) == {0}
    found, told = run(config_of("compose.workdirs", "compose.num_images", "compose.num_steps"))
    number = value_of("compose.num_images")
    x, (first, second), slopes = expected([LABEL[:number]] * 2, number)
    np.testing.assert_allclose(told["energy"], first + second, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(told["step"], x - STEP * sum(slopes), rtol=1e-4, atol=1e-5)
    assert set(told["num_steps"]) == {value_of("compose.num_steps")}
    assert found["measured_on"]["num_samples"] == number
    assert np.shape(found["labels"]) == (2, number, 1)
    _, told = run(config_of("compose.labels", **OTHER))
    wanted = [float(text) for text in value_of("compose.labels").split(";")]
    _, (first, second), _ = expected(wanted)
    np.testing.assert_allclose(told["energy"], first + second, rtol=1e-4, atol=1e-5)


@shows("compose.logic", "compose.sharpness", "compose.negation")
def test_or_and_not(run, unjudged):
    _, (first, second), _ = expected([0.5, -0.25])
    usual = {"labels": "0.5; -0.25", **OTHER}
    for field, values in ((None, {}), ("compose.sharpness", {}), ("compose.negation", {})):
        for logic in ("or", "and_not"):
            config = config_of(*([field] if field else []), **{**usual, "logic": logic, **values})
            s, w = config.compose.sharpness, config.compose.negation
            _, told = run(config)
            if logic == "or":
                wanted = -np.logaddexp(np.log(0.5) - s * first, np.log(0.5) - s * second) / s
            else:
                wanted = first - w * second
            np.testing.assert_allclose(told["energy"], wanted, rtol=1e-4, atol=1e-5)


@shows("compose.order")
def test_models_in_turn(run, unjudged):
    """A step of the one, then of the other from where it leads."""
    _, told = run(config_of("compose.order", labels="0.5; -0.25", **OTHER))
    x = starts(np.arange(20))
    x = x - STEP * (x - 0.5) / VARIANCES[0]
    x = x - STEP * (x + 0.25) / VARIANCES[1]
    np.testing.assert_allclose(told["step"], x, rtol=1e-4, atol=1e-5)


def test_errors_of_factors(run):
    """A regression reads the gray of real images; the 'samples' here show something else."""
    found, _ = run(config_of())
    errors = found["factors"]["made"]
    assert errors["real"]["error"] < 0.12
    assert errors["chance"]["error"] > 3 * errors["real"]["error"]
    truth = brightness("test").images[:20] / 255
    assert found["pixels"]["black"]["rmse"] == pytest.approx(np.sqrt(np.mean(truth**2)), rel=1e-6)


def test_errors_of_classes(run, monkeypatch):
    """Dark and bright: a classifier tells real images, which have the classes they are said to."""

    values = brightness

    def classes(split):
        one = values(split)
        return one._replace(labels=(one.labels[:, 0] > 0).astype(np.int32), num_classes=2)

    monkeypatch.setitem(globals(), "brightness", classes)
    found, told = run(config_of(labels="1"))
    errors = found["factors"]["made"]
    assert errors["real"]["error"] < 0.1 < 0.3 < errors["chance"]["error"]
    _, (first,), _ = expected([1.0])
    np.testing.assert_allclose(told["energy"], first, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": "1"}, r"expected 2 labels, one per model, parted by ';', got 1"),
        ({"labels": "1; 2,3"}, r"expected 1 values for made, got 2"),
        ({"labels": "1; red"}, r"expected numbers, got ' red'"),
        (
            {"logic": "or", "order": "turns"},
            r"expected 'sum' with .*'or', got 'turns'",
        ),
        ({"workdirs": (), "logic": "and_not"}, r"with one model, got 'and_not'"),
    ],
)
def test_bad_input(run, values, message):
    with pytest.raises(ConfigError, match=message):
        run(config_of(**{**OTHER, **values}))


@pytest.mark.parametrize(("field", "value"), [("low", 0.0), ("high", 2.0), ("name", "mnist")])
def test_models_that_do_not_go_together(run, monkeypatch, field, value):
    other = config_of()
    other.data[field] = value
    monkeypatch.setattr(compose, "load_other", lambda path: model(other, 1.0))
    with pytest.raises(ConfigError, match=r"models of one data set in one range.* in other$"):
        run(config_of(**OTHER))


def of_combinations(seen, **values):
    config = config_of()
    config.data.update(combinations=seen, **values)
    return config


def test_models_of_places_go_with_models_of_sizes_of_any_share(monkeypatch):
    """Held-out images are those that the model of sizes has not seen, for both models."""
    asked = []

    def load_split(config, split):
        asked.append((config.data.combinations, config.data.seen_places, config.data.places_seed))
        return brightness(split)

    monkeypatch.setattr(build, "load_split", load_split)
    places = model(of_combinations("position"), 1.0)
    sizes = model(of_combinations("size", seen_places=0.25, places_seed=3), 1.0)
    for models in ([places, sizes], [sizes, places]):
        same = compose._with_same_held_out(models, compose.Settings(("other",)))
        asked.clear()
        compose._labels(same, compose.Settings(("other",)))
        kinds = [m.run.data.combinations for m in models]
        assert asked == [(kind, 0.25, 3) for kind in kinds]
        assert [m.run.data.seen_places for m in same] == [0.25, 0.25]


@pytest.mark.parametrize(
    "other",
    [
        config_of(),
        of_combinations("size", places_seed=1),
        of_combinations("both", seen_places=0.2),
        of_combinations("position", reference_size=0.7),
    ],
)
def test_models_of_which_other_combinations_are_held_out(other):
    models = [model(of_combinations("size"), 1.0), model(other, 1.0)]
    with pytest.raises(
        ConfigError, match=r"the same combinations .* \(0\.1, 0\.5, 0\), got .* other"
    ):
        compose._with_same_held_out(models, compose.Settings(("other",)))


@shows("compose.judge_steps")
def test_concepts_of_a_label_are_judged_apart(monkeypatch):
    """Each by its own columns, by a regression on all images but those of the test."""

    class Regressor:
        def __init__(self, images, labels, *, num_classes, num_steps):
            assert num_steps == value_of("compose.judge_steps")
            self.labels = labels
            np.testing.assert_array_equal(images, values("others").images)

        def errors(self, images, labels):
            assert np.shape(labels)[1:] == self.labels.shape[1:]
            return FactorErrors(float(np.mean(labels)), float(self.labels.shape[1]))

    def values(split):
        one = brightness(split)
        labels = np.tile(np.float32([1.0, 2.0, 4.0]), (len(one.labels), 1))
        return one._replace(labels=labels)

    monkeypatch.setattr(compose, "FactorRegressor", Regressor)
    monkeypatch.setattr(build, "load_split", lambda config, split: values(split))
    config = of_combinations("both", label="size_and_position")
    models = [model(config, 1.0)]
    truth, labels = compose._labels(models, compose.Settings())
    settings = compose.Settings(judge_steps=value_of("compose.judge_steps"))
    found, lines = compose._judged(models, settings, {1: truth}, truth, labels)
    for concept, mean, columns in (("size", 1.0, 1), ("position", 3.0, 2)):
        for place in ("1", "real", "chance"):
            assert found["factors"][concept][place] == {"error": mean, "standard_error": columns}
    assert found["pixels"]["1"]["rmse"] == 0
    away = (truth / 255 - np.roll(truth, 1, axis=0) / 255) ** 2
    assert found["pixels"]["chance"]["rmse"] == pytest.approx(np.sqrt(away.mean()), rel=1e-6)
    black = np.sqrt(np.mean((truth / 255) ** 2))
    assert lines == [
        "mean error of        1 models   real   chance",
        "  size              " + "  ".join(["1.000 +- 1.000"] * 3),
        "  position          " + "  ".join(["3.000 +- 2.000"] * 3),
        "  pixels (RMSE)     0.000"
        f"  all black: {black:.3f}, another image: {np.sqrt(away.mean()):.3f}",
    ]


@pytest.mark.parametrize(
    ("logic", "second"), [("and", "and made"), ("or", "or made"), ("and_not", "and not made")]
)
def test_columns_of_the_picture_say_what_they_are_of(run, monkeypatch, logic, second):
    drawn = columns_of(monkeypatch)
    run(config_of(logic=logic, order="sum", **OTHER))
    assert list(drawn[-1]) == ["the image whose labels these are", "made", second]


def test_turns_are_not_judged(monkeypatch):
    """A shape that is turned looks like another that is not."""
    monkeypatch.setattr(compose, "FactorRegressor", lambda *_, **__: pytest.fail("judged"))
    truth, labels = compose._labels([model(config_of(), 1.0)], compose.Settings())
    for label in ("rotation", "orientation"):
        config = config_of()
        config.data.label = label
        found, lines = compose._judged(
            [model(config, 1.0)], compose.Settings(), {1: truth}, None, labels
        )
        assert found == {"factors": {}}
        assert len(lines) == 1
