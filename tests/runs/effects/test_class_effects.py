"""What the fields of modes of classes do, on a model whose classes are Gaussians about two grays.

Images are .44 or .56 in 0..1, with noise of .1 per pixel: E(x, y) = |x - m_y|^2 / (2 .1^2), plus
another constant for each class. What is expected is in -1..1; model units are SHIFT + SCALE of it.
"""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from effects_stubs import SHAPE, full_bars
from effects_table import TABLE, changed, shows, value_of
from flax import linen as nn

from configs import default
from ebm_jax import samplers, tasks
from ebm_jax.data import Dataset
from ebm_jax.evaluation import ood
from ebm_jax.evaluation.classification import attacks, calibration, refinement
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.runs import build, modes
from ebm_jax.runs.settings import ConfigError
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks import _classes, _updates, robustness

__all__ = ["full_bars"]

MEANS = np.array([-0.12, 0.12], np.float32)  # of .44 and .56, in -1..1
OFFSETS = np.array([0.0, 0.5], np.float32)
STD, STEP = 0.2, 0.01
SCALE, SHIFT = 2.0, 0.5


def images(split):
    """120 images; about one in ten is told wrong, as they are noisy."""
    rng = np.random.default_rng(len(split))
    labels = np.arange(120, dtype=np.int32) % 2
    values = MEANS[labels].reshape(-1, 1, 1, 1) + STD * rng.normal(size=(120, *SHAPE))
    gray = np.clip(np.round(127.5 * (1 + values)), 0, 255).astype(np.uint8)
    return Dataset("grays", split, gray, labels, 2, (0.0, 255.0))


def class_energy(level, label):
    def energy_fn(x):
        x = (x - SHIFT) / SCALE
        mean, offset = jnp.asarray(MEANS)[label], jnp.asarray(OFFSETS)[label]
        mean = jnp.reshape(mean, (-1, 1, 1, 1))
        return jnp.sum((x - mean) ** 2, (1, 2, 3)) / (2 * STD**2) + offset

    return energy_fn


def energies(x):
    """[n, 2], in NumPy."""
    squares = [np.sum((x - mean) ** 2, (1, 2, 3)) for mean in MEANS]
    return np.stack(squares, 1) / (2 * STD**2) + OFFSETS


class Linear(nn.Module):
    """One energy, or logits."""

    num_classes: int | None = 2
    num_outputs: int = 1
    input_shape = SHAPE

    @staticmethod
    def spectral_norm_mode(path):
        return "unit" if path[-1] == "kernel" else None

    @nn.compact
    def __call__(self, x, condition=None):
        return nn.Dense(self.num_outputs)(x.reshape(x.shape[0], -1))


LINEAR = Linear()


@dataclasses.dataclass(frozen=True)
class Known:
    """Classes that are known; chains go down the gradient."""

    network: nn.Module = LINEAR
    max_grad: float = 2.0 / SCALE
    max_total_grad_norm: float = 0.0
    classes: int = 2

    def densities(self, params):
        def kernel(energy_fn, level):
            return samplers.igebm_langevin(
                energy_fn, SCALE**2 * STEP, noise_std=0.0, max_grad=self.max_grad or None, box=None
            )

        def mixture(level):
            return lambda x: (
                -jax.nn.logsumexp(jnp.stack([-class_energy(level, y)(x) for y in (0, 1)]), axis=0)
            )

        return Densities(
            mixture, jnp.ones(1), jnp.zeros(1),
            BaseDistribution(box=(SHIFT - SCALE, SHIFT + SCALE)), kernel,
            num_classes=self.classes, class_energy=class_energy if self.classes else None,
        )  # fmt: skip

    def sample(self, params, rng_key, index, *, label=None):
        label = index % 2 if label is None else label
        return jnp.broadcast_to(
            SHIFT + SCALE * jnp.asarray(MEANS)[label].reshape(-1, 1, 1, 1), (len(index), *SHAPE)
        )


@pytest.fixture
def run(tmp_path, monkeypatch):
    """(mode, config, method) -> its JSON."""
    methods = [Known()]
    monkeypatch.setattr(build, "load_split", lambda config, split: images(split))

    def load_trained(config, workdir):
        general, sections = build.check_sections(config)
        data, sampling = sections["data"], sections["sampling"]
        described = build.Run(config, images("train"), methods[0], general, data, sampling)
        return TrainedRun(described, 7, {"unused": np.zeros(3)}, 0.999)

    monkeypatch.setattr(modes, "load_trained", load_trained)
    monkeypatch.setattr(modes, "check_trained", lambda config, workdir: pathlib.Path(workdir))

    def call(mode, config, method=None):
        methods[0] = method or Known()
        assert tasks.run(mode, config, tmp_path) == 0
        return json.loads((tmp_path / mode / f"{mode}.json").read_text())

    return call


def config_of(*fields, **sections):
    config = default.get_config()
    config.seed = 6
    config.data.update(random_flip=False, low=SHIFT - SCALE, high=SHIFT + SCALE)
    config.training.update(batch_size=16, num_steps=4, ema_decay=0.0)
    config.optimizer = default.optimizer("adam", learning_rate=0.3)
    config.sampling.batch_size = 64
    config.classify.update(baseline="none")
    config.robustness.update(
        baseline="none", num_images=12, adaptive_images=2, strict_steps=(2,), num_restarts=1,
        linf_radii=(0.3,), l2_radii=(0.4,), refine_step_size=0.01, num_random=4, num_draws=2,
        adaptive_draws=1, adaptive_steps=2, published_steps=2,
    )  # fmt: skip
    for name, values in sections.items():
        config[name].update(values)
    return changed(config, *fields)


def rows_of(mode):
    return [field for field in TABLE if field.startswith(f"{mode}.")]


def held_out(number):
    dataset = images("test")
    return (dataset.images[:number] / 127.5 - 1).astype(np.float32), dataset.labels[:number]


@shows(*rows_of("classify"))
def test_classify(run, monkeypatch, tmp_path):
    """Rows of the energies in closed form; the softmax network by its updates and its size."""
    for fields in ((), ("classify.num_images", "classify.num_bins")):
        config = config_of(*fields)
        found = run("classify", config)
        x, labels = held_out(config.classify.num_images)
        assert found["measured_on"]["num_samples"] == len(x)
        assert set(found["classifiers"]) == {"energies", "energies, temperature fitted"}
        row, logits = found["classifiers"]["energies"], -energies(x)
        assert row["accuracy"] == calibration.accuracy(logits, labels)
        assert 0.8 < row["accuracy"] < 1
        nll = calibration.negative_log_likelihood(logits, labels)
        assert row["negative_log_likelihood"] == pytest.approx(nll, rel=1e-3)
        bins = config.classify.num_bins
        error = calibration.reliability(logits, labels, bins).error
        assert row["expected_calibration_error"] == pytest.approx(error, abs=1e-3)
        assert len(row["reliability"]["count"]) == bins
        confusion = np.array(found["confusion_of_energies"])
        assert np.trace(confusion) / confusion.sum() == row["accuracy"]
        np.testing.assert_allclose(found["mean_energy_by_class"], energies(x).mean(0), rtol=1e-3)
        assert found["num_parameters"] == {"energies": 3}

    batches, seeds, usual = [], set(), _updates.data.local_batch

    def local_batch(dataset, step, *, seed, **sizes):
        batches.append(step)
        seeds.add(seed)
        return usual(dataset, step, seed=seed, **sizes)

    monkeypatch.setattr(_updates.data, "local_batch", local_batch)
    learned = run("classify", config_of(classify={"baseline": "same", "baseline_steps": 120}))
    assert batches == list(range(120))
    assert seeds == {6}
    assert learned["classifiers"]["softmax network"]["accuracy"] > 0.8
    assert learned["num_parameters"] == {"energies": 3, "softmax network": 4 * 2 + 2}
    rows = ["energies", "softmax network"]
    assert list(learned["fitted_temperatures"]) == rows
    assert set(learned["classifiers"]) == {*rows, *(f"{row}, temperature fitted" for row in rows)}
    x, labels = held_out(1_000)
    with np.load(tmp_path / "classify/logits.npz") as stored:
        assert set(stored) == {"label", "energies", "softmax_network"}
        np.testing.assert_array_equal(stored["label"], labels)
        np.testing.assert_allclose(stored["energies"], -energies(x), rtol=1e-3, atol=1e-3)
        share = calibration.accuracy(stored["softmax_network"], labels)
    assert learned["classifiers"]["softmax network"]["accuracy"] == share
    made, init = [], _classes.softmax_classifier
    monkeypatch.setattr(
        _classes, "softmax_classifier", lambda n, **kw: made.append(kw) or init(n, **kw)
    )
    for field, steps in (("classify.baseline", 4), ("classify.baseline_steps", 7)):
        batches.clear()
        run("classify", changed(config_of(classify={"baseline": "same"}), field))
        assert len(batches) == steps
    assert made == [{"has_norm": False}, {"has_norm": True}]


def test_softmax_training_goes_on_where_it_stopped(run, monkeypatch, tmp_path):
    config = config_of(classify={"baseline": "same", "baseline_steps": 60})
    whole = run("classify", config)["classifiers"]["softmax network"]
    batches, usual, check = [], _updates.data.local_batch, _updates.check
    monkeypatch.setattr(
        _updates.data, "local_batch", lambda *a, **kw: batches.append(a[1]) or usual(*a, **kw)
    )

    def second_fails(values):
        return "interrupted" if len(batches) > 50 else check(values)

    with monkeypatch.context() as patch:
        patch.setattr(_updates, "check", second_fails)
        with pytest.raises(ConfigError, match="diverged at step 60: interrupted"):
            run("classify", config)
    batches.clear()
    assert run("classify", config)["classifiers"]["softmax network"] == whole
    assert batches == list(range(50, 60))


@shows(*rows_of("robustness"))
def test_robustness(run, monkeypatch):
    """What reaches the attacks and the chains, whose own tests say what they do with it."""
    asked = {}

    def spied(module, name):
        usual = getattr(module, name)

        def spy(*args, **options):
            asked.setdefault(name, []).append((args, options))
            return usual(*args, **options)

        monkeypatch.setattr(module, name, spy)

    for name in ("published_pgd", "strict_pgd", "random_search"):
        spied(attacks, name)
    for name in ("refined_logits", "expected_scores"):
        spied(robustness, name)
    config = config_of(*rows_of("robustness"))
    found = run("robustness", config)
    x, labels = held_out(10)
    (clean, row) = found["accuracy"]["linf"]
    assert list(found["accuracy"]) == ["linf"]
    assert [clean["radius"], row["radius"]] == [0, 0.2]
    right = calibration.accuracy(-energies(x), labels)
    some = clean["energies"]["accuracy"].pop("strict, first 4 images")
    assert some == calibration.accuracy(-energies(x[:4]), labels[:4])
    assert set(clean["energies"]["accuracy"].values()) == {right}
    assert "softmax network" not in row
    # In 0..1: the class of the nearer gray, where that is not .2 away and an offset.
    shift = (1 - 2 * labels).reshape(-1, 1, 1, 1) * 2 * 0.2
    worst = calibration.accuracy(-energies(np.clip(x + shift, -1, 1)), labels)
    assert row["energies"]["accuracy"]["strict"] == worst < right
    assert {kw["num_steps"] for _, kw in asked["published_pgd"]} == {3}
    starts = {(kw["num_steps"], kw["num_restarts"]) for _, kw in asked["strict_pgd"]}
    assert starts == {(4, 2), (6, 2), (5, 1)}
    through = [a for a, kw in asked["strict_pgd"] if kw["num_steps"] == 5]
    assert {kw["num_draws"] for _, kw in asked["random_search"]} == {9}
    used = {args[2] for args, _ in asked["refined_logits"]}
    free = refinement.Refinement(3, 0.02, 0.01, 0.05, 0.5)
    assert used == {free, free._replace(box=(0.0, 1.0))}
    assert {args[3] for args, _ in asked["expected_scores"]} == {2}
    assert len(through) == 1
    assert found["num_adaptive_images"] == 4
    shares = np.array(list(row["energies, refined"]["accuracy"].values())) * 3 * 10
    np.testing.assert_allclose(shares[:2], np.round(shares[:2]), atol=1e-9)  # of 3 draws

    batches, usual = [], _updates.data.local_batch
    monkeypatch.setattr(
        _updates.data, "local_batch", lambda *a, **kw: batches.append(a[1]) or usual(*a, **kw)
    )
    options = {"baseline": "same", "adaptive_images": 0, "linf_radii": (), "l2_radii": (0.3, 0.1)}
    found = run("robustness", changed(config_of(robustness=options), "robustness.baseline_steps"))
    assert batches == [0, 1, 2]
    assert [row["radius"] for row in found["accuracy"]["l2"]] == [0, 0.1, 0.3]
    assert "strict" in found["accuracy"]["l2"][0]["softmax network"]["accuracy"]
    refined = found["accuracy"]["l2"][0]["energies, refined"]["accuracy"]
    assert list(refined) == ["published", "strict attack on the energies"]


@shows(*rows_of("crossclass"))
def test_crossclass(run):
    """Chains without noise go to the mean of the class, by the same factor at each step."""
    every = {"num_rounds": 2, "steps_per_round": 4}
    left = 1 - STEP / STD**2
    clipped, others = rows_of("crossclass")[-1:], rows_of("crossclass")[:-1]
    for fields in ((), clipped, others):
        config = changed(config_of(crossclass=every), *fields)
        settings = config.crossclass
        found = run("crossclass", config)
        x, labels = held_out(settings.num_images)
        target = np.roll(labels, -1) if settings.target < 0 else np.full_like(labels, 1)
        x, target = x[target != labels], target[target != labels]
        assert found["measured_on"]["num_samples"] == len(x)
        assert found["pairs_of_one_class_left_out"] == len(labels) - len(x)
        assert len(found["states"]) == settings.num_rounds + 1
        mean, point = MEANS[target].reshape(-1, 1, 1, 1), x
        for i, row in enumerate(found["states"]):
            assert row["step"] == i * settings.steps_per_round
            length = np.sqrt(np.mean((point - x) ** 2, (1, 2, 3))).mean() / 2
            assert row["distance_to_start"] == pytest.approx(length, rel=1e-3, abs=1e-6)
            told = np.mean(energies(point).argmin(1) == target)
            assert row["lowest_energy_is_target"] == pytest.approx(told)
            for _ in range(settings.steps_per_round):
                if settings.clip_gradient:
                    point = point - STEP * np.clip((point - mean) / STD**2, -2, 2)
                else:
                    point = mean + left * (point - mean)
        fresh = found["references"]["fresh_sample"]
        assert fresh["lowest_energy_is_target"] == 1
        length = np.sqrt(np.mean((mean - x) ** 2, (1, 2, 3))).mean() / 2
        assert fresh["distance_to_start"] == pytest.approx(length, rel=1e-3)
        assert found["references"]["training_image_of_the_target"]["classifier_says_target"] > 0.7


@shows("ood.of_classes")
def test_energy_of_classes(run, monkeypatch):
    """The areas are those of min_y E, and of the mixture without."""
    asked, usual = [], ood.auroc
    monkeypatch.setattr(ood, "auroc", lambda *a, **kw: asked.append((a, kw)) or usual(*a, **kw))
    settings = {"num_images": 30, "sets": ("flipped",), "num_bootstrap": 5}
    x, _ = held_out(30)
    for fields, energy in (
        ((), lambda e: -np.log(np.exp(-e).sum(1))),
        (("ood.of_classes",), lambda e: e.min(1)),
    ):
        asked.clear()
        found = run("ood", config_of(*fields, ood=settings, sampling={"seed": 4}))
        (inside, _), how = asked[0]
        np.testing.assert_allclose(inside, energy(energies(x)), rtol=1e-3, atol=1e-3)
        assert how == {"num_bootstrap": 5, "seed": 4}
        assert found["energy_of_classes"] == ("minimum" if fields else "mixture")
    # What an interrupted command leaves is of the energy that it asked for.
    with monkeypatch.context() as patch:
        patch.setattr(ood, "auroc", lambda *_, **__: pytest.fail("interrupted"))
        with pytest.raises(pytest.fail.Exception):
            run("ood", config_of(ood=settings, sampling={"seed": 4}))
    again = run("ood", config_of("ood.of_classes", ood=settings, sampling={"seed": 4}))
    assert again["auroc"] == found["auroc"]


BAD = {
    "robustness.linf_radii=(-0.1,)": r"robustness\.linf_radii: expected a number >= 0, got -0\.1",
    "robustness.linf_radii=()": "robustness.linf_radii, l2_radii: expected one or more, got none",
    "robustness.strict_steps=()": r"robustness\.strict_steps: expected one or more, got none",
    "crossclass.target=2": r"crossclass\.target: expected a class, 0 to 1, or -1, got 2",
    "crossclass.num_images=2": None,
    "classify.baseline='sane'": r"expected one of same, plain, none, got 'sane'; did you mean 'sam",
}


@pytest.mark.parametrize(("change", "said"), BAD.items(), ids=BAD)
def test_bad_input_is_told_in_one_line(run, change, said):
    name, _, value = change.partition("=")
    mode, _, field = name.partition(".")
    config = config_of(robustness={"l2_radii": ()})
    with config[mode].ignore_type():
        config[mode][field] = eval(value)
    if said is None:
        run(mode, config)
        return
    with pytest.raises(ConfigError, match=said) as error:
        run(mode, config)
    assert "\n" not in str(error.value)


def test_models_that_do_not_fit(run):
    """Without classes; without a head for classes; without a bound on gradients."""
    for mode in ("classify", "robustness", "crossclass"):
        with pytest.raises(ConfigError, match=f"--mode={mode}: expected a model with an energy p"):
            run(mode, config_of(), Known(classes=0))
    with pytest.raises(ConfigError, match=r"ood\.of_classes: expected 'mixture'"):
        run("ood", config_of("ood.of_classes"), Known(classes=0))
    with pytest.raises(ConfigError, match="baseline: expected 'none', as Bare has no head"):
        run("classify", config_of(classify={"baseline": "same"}), Known(network=Bare()))
    assert value_of("crossclass.clip_gradient")


class Bare(nn.Module):
    """A network without logits."""

    num_classes: int = 2
