"""What the modes draw: the curves, shares and columns that are handed to `ebm_jax.io`."""

import types

import numpy as np
import pytest

from ebm_jax.data import Dataset
from ebm_jax.data.simulators import pendulum
from ebm_jax.evaluation.classification.calibration import reliability
from ebm_jax.evaluation.classification.continual import scores
from ebm_jax.evaluation.density import long_run
from ebm_jax.evaluation.density.baselines import Baseline
from ebm_jax.evaluation.density.log_likelihood import Bracket, Estimate, SplitEnergy, Units
from ebm_jax.evaluation.fidelity.classifier import ClassifierSummary
from ebm_jax.evaluation.images.quality import ImageQuality
from ebm_jax.io import charts, image_grids
from ebm_jax.tasks import (
    _film,
    _image_quality,
    classify,
    continual,
    crossclass,
    robustness,
    rollout,
)
from ebm_jax.tasks.likelihood import reporting
from ebm_jax.tasks.long_run import reporting as long_run_words


@pytest.fixture(autouse=True)
def drawn(monkeypatch):
    """Functions that draw return what they are given."""

    def given(*args, **keywords):
        return (*args, keywords) if keywords else args[0]

    for name in ("curves_picture", "shares_picture", "series_picture", "grids_picture"):
        monkeypatch.setattr(charts, name, given)


def plain(values):
    return np.asarray(values, float).tolist()


def described(panel):
    return panel.title, plain(panel.x), panel.x_label, panel.y_label, panel.log_x


BITS = 4 * np.log(2)


def test_likelihoods():
    """Forward log Z of one and two bits, reverse of two and three; images' energy one bit."""
    brackets = [
        Bracket(n, Estimate(k * BITS, 0.1 * k, 1.0), Estimate((k + 1) * BITS, 0.2 * k, 1.0))
        for n, k in ((10, 1), (100, 2))
    ]
    energies = {"training": SplitEnergy(0.0, 0.1, 5), "held out": SplitEnergy(BITS, 0.1, 5)}
    gaussian = Baseline(1, {"training": np.zeros(2), "held out": np.full(2, -4 * BITS)})
    log_z, bits = reporting.figure(brackets, energies, [gaussian], Units(4, 0.5))
    assert described(log_z) == (
        "log Z of the lowest level", [10, 100], "number of temperatures", "nats", True,
    )  # fmt: skip
    assert plain(log_z.lines["forward"]) == pytest.approx([BITS, 2 * BITS])
    assert plain(log_z.lines["reverse"]) == pytest.approx([2 * BITS, 3 * BITS])
    assert plain(log_z.errors["forward"]) == pytest.approx([0.1, 0.2])
    assert plain(log_z.errors["reverse"]) == pytest.approx([0.2, 0.4])
    assert described(bits) == (
        "likelihood of images", [10, 100], "number of temperatures", "bits/dim", True,
    )  # fmt: skip
    found = {name: pytest.approx(plain(values)) for name, values in bits.lines.items()}
    assert found == {
        "training, forward": [2, 3], "training, reverse": [3, 4],
        "held out, forward": [3, 4], "held out, reverse": [4, 5],
        "held out, one Gaussian": [5, 5],
    }  # fmt: skip
    _, nats = reporting.figure(brackets, energies, [gaussian], Units(4, 0.0))
    assert nats.y_label == "log-likelihood, nats"
    assert plain(nats.lines["training, forward"]) == pytest.approx([-BITS, -2 * BITS])
    assert plain(nats.lines["held out, one Gaussian"]) == pytest.approx([-4 * BITS] * 2)


REAL = long_run.Reference(10.0, 2.0, 0.5, 0.1, None, frechet_floor=4.0, frechet_floor_std=0.1)


def record(step, level, energy):
    return long_run.Record(step, level, energy, 1.0, 3.0, step / 2, 1.0, 0.5, 0.1, 8.0)


def test_chains_at_one_level():
    """Without the start, beside real images."""
    records = [record(step, 2, 10.0 + step) for step in (0, 1, 10)]
    energy, grad, distance, frechet = long_run_words.curves(records, {2: REAL})
    x = "steps of the chain"
    assert described(energy) == ("energy", [1, 10], x, "nats", True)
    assert energy.lines == {"chains": [11, 20], "real images, level 2": [10, 10]}
    assert described(grad) == (
        "norm of the energy's gradient", [1, 10], x, "nats per model unit", True,
    )  # fmt: skip
    assert grad.lines == {"chains": [3, 3]}
    assert described(distance) == ("distance from the start", [1, 10], x, "model units", True)
    assert distance.lines == {"chains": [0.5, 5]}
    assert described(frechet)[:4:3] == ("Frechet distance over pixels", "squared units")
    assert frechet.lines == {"chains": [8, 8], "real images, level 2": [4, 4]}
    assert len(long_run_words.curves(records, {2: REAL._replace(frechet_floor=np.nan)})) == 3
    passing = [record(0, 2, 1.0), record(1, 2, 1.0), record(2, 1, 1.0)]
    assert not long_run_words.curves(passing, {1: REAL})[0].log_x


def test_chains_at_every_level_anew():
    """Steps are counted from each level's first record; energies are those of real images less."""
    records = [record(step, 1, 10.0 + step) for step in (0, 1, 2, 4)]
    records += [record(step, 0, 20.0) for step in (5, 6)]
    real = {1: REAL, 0: REAL._replace(energy=16.0, frechet_floor=2.0)}
    energy, grad, distance, frechet = long_run_words.curves(records, real)
    assert described(energy) == (
        "energy less that of real images", [1, 2, 4], "steps at the level",
        "their standard deviations", True,
    )  # fmt: skip
    np.testing.assert_array_equal(energy.lines["level 1"], [0.5, 1, 2])
    np.testing.assert_array_equal(energy.lines["level 0"], [2, 2, np.nan])
    np.testing.assert_array_equal(grad.lines["level 0"], [3, 3, np.nan])
    np.testing.assert_array_equal(distance.lines["level 1"], [0.5, 1, 2])
    np.testing.assert_array_equal(frechet.lines["level 0"], [4, 4, np.nan])
    assert frechet.y_label == "that of as many real images"
    assert len(long_run_words.curves(records, real | {0: REAL._replace(frechet_floor=np.nan)})) == 3


def test_from_one_class_to_another():
    rows = [
        {"step": step, "lowest_energy_is_target": 0.1 * step, "classifier_says_target": says,
         "distance_to_start": 2.0 * step}
        for step, says in ((0, 0.5), (5, 0.75))
    ]  # fmt: skip
    references = {"fresh_sample": {"distance_to_start": 7.0}}
    shares, distances = crossclass._picture(rows, references)
    assert described(shares) == ("told to be the target", [0, 5], "step", "share", False)
    assert shares.lines == {
        "argmin of the energies": [0, 0.5], "independent classifier": [0.5, 0.75],
    }  # fmt: skip
    assert described(distances) == (
        "distance to the start", [0, 5], "step", "RMS over pixels, of the range", False,
    )  # fmt: skip
    assert distances.lines == {"pulled": [0, 10], "fresh sample": [7, 7]}
    alone = [row | {"classifier_says_target": None} for row in rows]
    assert list(crossclass._picture(alone, references)[0].lines) == ["argmin of the energies"]


def test_accuracy_under_attack():
    accuracy = {"published": 0.5, "adaptive": 0.1, "strict": 0.25}
    rows = {"l2": [{"radius": r, "energies": {"accuracy": accuracy}} for r in (0.0, 1.5)]}
    (panel,) = robustness._curves(rows)
    assert described(panel) == (
        "L2", [0, 1.5], "epsilon, of the range of the intensities", "accuracy", False,
    )  # fmt: skip
    assert panel.lines == {"energies: published": [0.5] * 2, "energies: strict": [0.25] * 2}


def test_reliability():
    logits = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.1, 0.9]]))
    curves = {"energies": reliability(logits, np.array([0, 1, 0, 1]), 2)}
    right, shares = classify._picture(curves)
    assert described(right) == ("reliability", [0.25, 0.75], "confidence", "accuracy", False)
    assert plain(right.lines["as sure as right"]) == [0.25, 0.75]
    np.testing.assert_array_equal(right.lines["energies"], [np.nan, 0.75])
    assert described(shares) == ("examples", [0.25, 0.75], "confidence", "share", False)
    assert plain(shares.lines["energies"]) == [0, 1]


def test_continual_learning():
    """Two tasks of two classes; the energies are minus the logits."""
    logits = np.stack([np.diag([4.0, 4, 0, 0]), np.diag([0.0, 0, 4, 4])])
    found = scores(logits, np.arange(4), ((0, 1), (2, 3)))
    joint = scores(logits[1:], np.arange(4), ((0, 1), (2, 3)))
    pictures = continual._pictures({"energies": [found, found], "softmax_joint": [joint]})
    shares, confusion = pictures["confusion"]
    assert confusion == {"x_label": "decision", "y_label": "class", "first": 0}
    np.testing.assert_array_equal(
        shares["energies"], [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    )
    matrices, accuracy = pictures["accuracy"]
    assert accuracy == {"x_label": "on classes of task", "y_label": "after task"}
    assert list(matrices) == ["energies"]
    np.testing.assert_array_equal(matrices["energies"], [[1, 0], [0.5, 1]])
    everywhere, own = pictures["energies"]
    assert described(everywhere) == (
        "of all held-out examples", [1, 2], "after task", "mean energy", False,
    )  # fmt: skip
    assert own.title == "of those of the class"
    assert plain(everywhere.lines["class 0"]) == [-1, 0]
    assert plain(own.lines["class 3"]) == [0, -4]
    assert set(continual._pictures({"softmax_joint": [joint]})) == {"confusion"}


def test_rollouts():
    one = rollout.Competitor(np.array([[0.0, 0, 1, 2], [0, 0, 3, 4]]), None)
    series, keywords = rollout._picture({"energies": one}, 2)
    assert plain(series["energies"]) == [2, 3]
    assert keywords == {
        "x_label": "steps after the last true frame",
        "y_label": "Frechet distance, squared z-scores", "first": 1, "log_y": True,
    }  # fmt: skip


def test_images_beside_real_ones(monkeypatch):
    monkeypatch.setattr(image_grids, "image_grid", lambda images: len(images))
    held_out = Dataset(
        "digits", "test", np.zeros((150, 8, 8, 1), np.uint8), np.zeros(150), 2, (0, 255)
    )
    summary = ClassifierSummary(5, np.array([0.25, 0.75]), 0.5, None)
    found = ImageQuality(
        None, "few", 0.0, summary, summary._replace(class_share=np.array([0.5, 0.5])), None, 10
    )
    grids, keywords = _image_quality.figure(found, np.zeros((1_200, 8, 8, 1), np.uint8), held_out)
    assert grids == {"generated: 100 of 1,200": 100, "real, held out: 100 of 150": 100}
    assert {name: plain(v) for name, v in keywords["bars"].items()} == {
        "generated": [0.25, 0.75], "real, held out": [0.5, 0.5],
    }  # fmt: skip
    assert keywords["x_label"] == "class, as the classifier has it"
    assert keywords["y_label"] == "fraction of the images"
    assert keywords["text"] == _image_quality.lines(found, "digits")
    few, keywords = _image_quality.figure(
        found._replace(samples=None), np.zeros((3, 8, 8, 1), np.uint8), held_out
    )
    assert list(few) == ["generated: 3 of 3", "real, held out: 3 of 150"]
    assert keywords["bars"] == {}


def trajectories(columns, mean, std):
    return types.SimpleNamespace(columns=columns, mean=np.array(mean), std=np.array(std))


def test_the_plane_of_a_film():
    """Four standard deviations about the mean of the first two columns; of one, both of it."""
    scene, seconds, extent = _film._scene("x", trajectories(("a", "b"), [1.0, 2.0], [0.5, 1.0]))
    assert seconds == 0
    assert extent == pytest.approx((-1, 3, -2, 6), abs=1e-5)
    states = np.arange(9.0).reshape(3, 3)
    (line,) = scene(states)
    np.testing.assert_array_equal(line, states[:, :2])
    scene, _, extent = _film._scene("x", trajectories(("a",), [1.0], [0.5]))
    assert extent == pytest.approx((-1, 3, -1, 3), abs=1e-5)
    np.testing.assert_array_equal(scene(np.array([[5.0], [6.0]]))[0], [[5, 5], [6, 6]])


def test_a_pendulum_hangs_and_leaves_its_last_second():
    """State (cos, sin): 0 is below. The trace is of 1 / STEP_SECONDS states."""
    scene, seconds, extent = _film._scene("pendulum", trajectories((), [0.0], [1.0]))
    assert (seconds, extent) == (pendulum.STEP_SECONDS, (-1.3, 1.3, -1.3, 1.3))
    angles = np.linspace(0, 1, 100)
    states = np.stack([np.cos(angles), np.sin(angles), angles], axis=1)
    rod, trace = scene(states)
    np.testing.assert_allclose(rod, [[0, 0], [np.sin(1), -np.cos(1)]])
    assert len(trace) == round(1 / pendulum.STEP_SECONDS)
    np.testing.assert_allclose(trace[-1], rod[1])
    np.testing.assert_allclose(scene(states[:1])[0], [[0, 0], [0, -1]])


def test_hands_are_within_twelve_centimeters(monkeypatch):
    """The last state's lines alone, as they are seen."""
    center = np.array([[1.0, 0.93, 0.16]])
    monkeypatch.setattr(_film.shadow_hand, "load_hand", lambda: "hand")
    monkeypatch.setattr(
        _film.shadow_hand, "lines", lambda hand, state: [center] * len(hand) + [center + state]
    )
    of_hand = trajectories(_film.shadow_hand.COLUMNS, [0.0], [1.0])
    scene, seconds, extent = _film._scene("hand", of_hand)
    assert (seconds, extent) == (_film.shadow_hand.STEP_SECONDS, (-0.12, 0.12, -0.12, 0.12))
    *still, last = scene(np.array([[9.0, 9, 9], [0.5, 0, 0]]))
    np.testing.assert_allclose(still, np.zeros((4, 1, 2)), atol=1e-12)
    np.testing.assert_allclose(last, [[0.5, 0]], atol=1e-12)


def test_hands_are_seen_from_above():
    """The center is the origin; elevation .9: up is cos .9 of z and sin .9 of y."""
    seen = _film._seen(np.array([[1.0, 0.93, 0.16], [1.5, 0.93, 0.16], [1, 1.93, 0.16],
                                 [1, 0.93, 1.16]]))  # fmt: skip
    np.testing.assert_allclose(
        seen, [[0, 0], [0.5, 0], [0, np.sin(0.9)], [0, np.cos(0.9)]], atol=1e-12
    )


def test_a_film_of_a_pendulum(monkeypatch):
    """All times in the film, six in the picture; each tile is told its time."""
    tiles, columns = [], []

    def lines_tile(lines, *, extent, size, text):
        tiles.append((size, text))
        return np.full((2, 2, 3), len(tiles) - 1, np.uint8)

    monkeypatch.setattr(image_grids, "lines_tile", lines_tile)
    monkeypatch.setattr(image_grids, "columns_picture", lambda given: columns.append(given) or 0)
    monkeypatch.setattr(
        image_grids, "gif", lambda frames, milliseconds: (len(frames), milliseconds)
    )
    states = np.ones((11, 3))
    made = _film.film("pendulum", trajectories((), [0.0], [1.0]), {"true": states, "x": states})
    milliseconds = round(1000 * pendulum.STEP_SECONDS)
    assert made.files == {"film.gif": (11, milliseconds)}
    assert set(made.figures) == {"film"}
    assert tiles[:2] == [(150, "0.0 s"), (150, f"{pendulum.STEP_SECONDS:.1f} s")]
    assert len(columns) == 12
    still = max(columns, key=lambda given: len(given["true"]))
    assert still["true"][:, 0, 0, 0].tolist() == [0, 2, 4, 6, 8, 10]
    assert still["x"][:, 0, 0, 0].tolist() == [11, 13, 15, 17, 19, 21]
    made = _film.film("x", trajectories((), [0.0], [1.0]), {"true": np.ones((2, 1))})
    assert made.files == {"film.gif": (2, 100)}
    assert tiles[-2:] == [(150, "0"), (150, "1")]


def test_a_film_is_of_the_first_trajectory(monkeypatch):
    """In the units of the data, of so many states; or none, and why."""
    filmed = []
    monkeypatch.setattr(rollout._film, "film", lambda *given: filmed.append(given) or "a film")
    trained = types.SimpleNamespace(run=types.SimpleNamespace(dataset=Dataset("hand", *[None] * 5)))
    scaled = trajectories(("a", "b"), [1.0, 2.0], [0.5, 4.0])
    rows = {"true": np.arange(12.0, dtype=np.float32).reshape(2, 3, 2)}
    assert rollout._film_of(trained, scaled, rows, 2) == ("a film", [])
    ((name, given, shown),) = filmed
    assert (name, given) == ("hand", scaled)
    np.testing.assert_array_equal(shown["true"], [[1.0, 6.0], [2.0, 14.0]])
    assert shown["true"].dtype == np.float64
    assert rollout._film_of(trained, scaled, rows, 0) == (_film.Film({}, {}), [])

    def missing(*_):
        raise ImportError("pip install it")

    monkeypatch.setattr(rollout._film, "film", missing)
    nothing, said = rollout._film_of(trained, scaled, rows, 2)
    assert (nothing, said) == (_film.Film({}, {}), ["no film: pip install it"])
