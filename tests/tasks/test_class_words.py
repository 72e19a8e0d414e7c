"""What the modes that classify say of results that are given: tables and sentences word by word."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import default
from ebm_jax.data import Dataset
from ebm_jax.evaluation.classification import calibration
from ebm_jax.evaluation.classification.continual import scores
from ebm_jax.io import files
from ebm_jax.methods.base import MethodState
from ebm_jax.runs.settings import General
from ebm_jax.tasks import (
    _classes,
    classify,
    continual,
    crossclass,
    robustness,
)
from ebm_jax.training.state import TrainState


def approx(values):
    return pytest.approx(values, rel=1e-9)


def test_calibration_as_a_table():
    """Of four examples three are right; each is sure by .8, so that the error is .05."""
    logits = np.log(np.array([[4.0, 1], [4, 1], [1, 4], [1, 4]]) / 5)
    row = classify._row(logits, np.array([0, 0, 1, 0]), 4)
    assert row["accuracy"] == 0.75
    assert row["accuracy_standard_error"] == approx(np.sqrt(3 / 64))
    assert row["negative_log_likelihood"] == approx(-(3 * np.log(0.8) + np.log(0.2)) / 4)
    assert row["expected_calibration_error"] == approx(0.05)
    assert row["reliability"]["count"].tolist() == [0, 0, 0, 4]
    table = {"energies": row, "energies, temperature fitted": row}
    assert classify._lines(table, {"energies": (0.5, 1234.5)}, "digits", "test", 2) == [
        "2 classes of digits, test                         accuracy      NLL      ECE",
        "  energies                                 0.7500 ± 0.2165   0.5697   0.0500",
        "  energies, temperature fitted             0.7500 ± 0.2165   0.5697   0.0500",
        "  temperatures, each fitted on the other half: energies 0.5 and 1.23e+03",
    ]


def test_the_bins_of_confidence():
    """Confidence 1 falls into the last bin; bins above the highest confidence are there, empty."""
    sure = np.array([[0.0, -1e9], [0.0, -1e9]])
    found = calibration.reliability(sure, np.array([0, 1]), 5)
    assert list(found.count) == [0, 0, 0, 0, 2]
    assert found.error == 0.5
    assert found.edges == approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    unsure = np.zeros((3, 4))
    found = calibration.reliability(unsure, np.array([0, 1, 2]), 8)
    assert list(found.count) == [0, 0, 3, 0, 0, 0, 0, 0]
    assert found.error == approx(1 / 3 - 1 / 4)
    one = calibration.reliability(unsure, np.array([0, 1, 2]), 1)
    assert list(one.count) == [3]


def test_temperatures_of_those_who_know_all_or_nothing():
    """At the ends of what is looked for: exp(-20), exp(20)."""
    labels = np.arange(10) % 2
    right = np.eye(2)[labels]
    assert np.log(calibration.fit_temperature(right, labels)) < -2
    assert np.log(calibration.fit_temperature(-right, labels)) > 19


SEEDS = [
    scores(np.log(np.array(p)), np.array([0, 1, 2, 3]), ((0, 1), (2, 3)))
    for p in (
        [[[8.0, 1, 1, 1], [1, 8, 1, 1], [1, 2, 1, 1], [1, 2, 1, 1]],
         [[1, 1, 9, 1], [1, 9, 1, 1], [1, 1, 9, 1], [1, 1, 1, 9]]],
        [[[8.0, 1, 1, 1], [1, 8, 1, 1], [1, 2, 1, 1], [1, 2, 1, 1]],
         [[1, 1, 9, 1], [1, 1, 9, 1], [1, 1, 9, 1], [1, 1, 1, 9]]],
    )
]  # fmt: skip


def test_continual_learning_over_seeds():
    """Accuracies .75 and .5 after the last task; forgetting .5 and 1."""
    assert [s.final for s in SEEDS] == [0.75, 0.5]
    found = continual._over_seeds(SEEDS)
    assert found["final"]["mean"] == 0.625
    assert found["final"]["std"] == approx(np.sqrt(2) / 8)
    assert found["final"]["by_seed"] == [0.75, 0.5]
    assert found["forgetting"]["mean"] == 0.75
    np.testing.assert_array_equal(found["confusion"], SEEDS[0].confusion + SEEDS[1].confusion)
    alone = continual._over_seeds(SEEDS[:1])
    assert alone["final"] == {"mean": 0.75, "std": None, "by_seed": [0.75]}
    joint = continual._over_seeds([SEEDS[0]._replace(forgetting=None)])
    assert "forgetting" not in joint


@pytest.mark.parametrize(
    ("passes", "seeds", "said"), [(1, 1, "1 pass, 1 seed"), (2, 2, "2 passes, 2 seeds")]
)
def test_continual_learning_as_a_table(passes, seeds, said):
    plan = types.SimpleNamespace(
        models=types.SimpleNamespace(
            run=types.SimpleNamespace(dataset=types.SimpleNamespace(name="digits"))
        ),
        settings=types.SimpleNamespace(num_passes=passes, num_seeds=seeds),
        tasks=((0, 1), (2, 3)),
    )
    joint = [s._replace(forgetting=None) for s in SEEDS]
    found = {"energies": SEEDS[:seeds], "energies_joint": joint[:seeds]}
    head, first, second, note = continual._lines(found, plan)
    assert head == f"{f'2 tasks of digits, {said}':<44}" + "".join(
        f"{name:>14}"
        for name in ("accuracy", "tasks' mean", "forgetting", "within task", "centered")
    )
    assert first[:44] == f"  {'energies':<42}"
    assert second[:44] == f"  {'energies, all tasks at once':<42}"
    cells = [first[44 + 14 * i : 58 + 14 * i].strip() for i in range(5)]
    if seeds == 1:
        assert cells[:3] == ["0.750", "0.750", "0.500"]
    else:
        assert cells[:3] == ["0.625 ± 0.177", "0.625 ± 0.177", "0.750 ± 0.354"]
    assert second[72:86].strip() == ""
    assert note.startswith("  accuracy: one decision")


def test_from_one_class_to_another():
    rows = [
        {"step": 0, "lowest_energy_is_target": 0.25, "classifier_says_target": None,
         "distance_to_start": 0.0},
        {"step": 40, "lowest_energy_is_target": 1.0, "classifier_says_target": 0.5,
         "distance_to_start": 1.25},
    ]  # fmt: skip
    references = {"fresh_sample": rows[1], "training_image": {"distance_to_start": 2.0}}
    assert crossclass._lines(rows, references, 0.125, 8) == [
        "8 images, of another class         lowest energy    classifier      distance",
        "  after 0 steps                            0.250             -         0.000",
        "  after 40 steps                           1.000         0.500         1.250",
        "  fresh sample                             1.000         0.500         1.250",
        "  training image                               -             -         2.000",
        "  nearer to the start than the fresh sample is: 12.5%",
    ]


def test_distances_of_images():
    """Root mean squares over pixels; in units of the range."""
    x, y = np.zeros((2, 2, 2, 1)), np.stack([np.full((2, 2, 1), 1.0), np.full((2, 2, 1), -3.0)])
    assert crossclass._distances(x, y) == approx([1.0, 3.0])
    run = types.SimpleNamespace(data=types.SimpleNamespace(low=-1.0, high=3.0))
    assert crossclass._rms(x, y, run) == 0.5


def test_images_of_a_class_in_turn():
    dataset = types.SimpleNamespace(images=np.arange(5)[:, None], labels=np.array([0, 1, 0, 1, 1]))
    run = types.SimpleNamespace(dataset=dataset)
    found = crossclass._of_class(run, np.array([1, 0, 1, 1, 1, 0]))
    assert found[:, 0].tolist() == [1, 2, 4, 1, 3, 2]


def test_robustness_as_a_table():
    rows = {"l2": [{"radius": r, "energies": {"accuracy": {"strict": r, "a_b": 1 - r}}}
                   for r in (0.0, 0.5)]}  # fmt: skip
    lines = robustness._lines(rows, 10, 3)
    assert lines == [
        "accuracy, 10 images, L2                   epsilon       0     0.5",
        f"  {'energies: strict':<48}   0.000   0.500",
        f"  {'energies: a b':<48}   1.000   0.500",
    ]
    (*same, warning) = robustness._lines(rows, 10, 0)
    assert same == lines
    assert "no attack went through the chains" in warning
    refined = {"energies, refined": {"accuracy": {"a_b": 0.75}}, "radius": 0.5}
    assert robustness._flat(refined | {"energies": {"accuracy": {"published": 0.25}}}) == {
        "energies: published": 0.25, "energies, refined: a_b": 0.75,
    }  # fmt: skip


def test_accuracies_of_margins():
    assert robustness._accuracy(np.array([-1.0, 0.0, 1e-9, 2.0])) == 0.5
    with pytest.raises(ValueError, match="not finite"):
        robustness._accuracy(np.array([1.0, np.nan]))
    assert robustness._error(0.2, 4) == approx(0.2)
    assert [
        robustness._is_drawn(f"x: {attack}")
        for attack in ("published", "strict", "either, first 2", "strict, first 2", "adaptive")
    ] == [True, True, True, True, False]


def test_examples_of_two_radii():
    """The middle one, the lower of two, and the largest; one where there is one."""

    def chosen(values):
        examples = {f"{n}, L2 {r:g}": (n, r) for n in "ab" for r in values}
        return list(robustness._some(examples, {"l2": list(values)}, "ab"))

    assert chosen((0.0, 1.0, 2.0)) == ["a, L2 1", "b, L2 1", "a, L2 2", "b, L2 2"]
    assert chosen((0.0, 1.0, 2.0, 3.0)) == ["a, L2 1", "b, L2 1", "a, L2 3", "b, L2 3"]
    assert chosen((0.0,)) == ["a, L2 0", "b, L2 0"]


def test_examples_of_a_class_in_model_units():
    """Points from the range of the data to that of the model; images as the run scales them."""
    units = types.SimpleNamespace(low=-1.0, high=3.0)
    dataset = types.SimpleNamespace(value_range=(0.0, 8.0))
    run = types.SimpleNamespace(has_images=False, dataset=dataset, data=units)
    found = _classes.examples(run, np.array([[0.0, 2.0], [8.0, 4.0]]))
    np.testing.assert_allclose(found, [[-1, 0], [3, 1]])
    assert found.dtype == np.float32
    run = types.SimpleNamespace(has_images=True, scale=lambda stored: stored + 0.5)
    np.testing.assert_array_equal(_classes.examples(run, np.ones((2, 2))), np.full((2, 2), 1.5))


X = np.ones((3, 1, 2, 1), np.float32)
CHANGE = np.array([[0.0, -1.0], [3.0, -4.0], [2.0, 2.0]]).reshape(X.shape)


class Attacked:
    """Work in which each attack is done: points and margins by the title of the attack."""

    def __init__(self, **found):
        self.found, self.asked, self.programs = found, {}, {}

    def map_batches(self, name, fn, params, arrays, *, batch_size):
        """Those of the title between the classifier and the norm."""
        self.asked[name] = [*map(np.asarray, arrays), params, batch_size]
        self.programs[name] = fn
        title = name.removeprefix("energies_").rpartition("_l")[0]
        return self.found[title]


def attacks(work, **chosen):
    """On three images of classes 1, 0, 1."""
    usual = {"strict_steps": (2, 7), "num_random": 4, "adaptive_images": 2, "num_draws": 4}
    sampling = types.SimpleNamespace(batch_size=5)
    trained = types.SimpleNamespace(
        params="parameters", run=types.SimpleNamespace(sampling=sampling, key=lambda name: name)
    )
    labels = np.array([1, 0, 1], np.int32)
    settings = robustness.Settings(**usual | chosen)
    return trained, robustness._Attacks(trained, settings, work, X, labels, 2)


def found_by_attacks():
    return Attacked(
        published={"x": X + CHANGE, "margin": np.array([1.0, -1.0, 0.0])},
        strict_2_steps={"x": X + 2, "margin": np.array([1.0, -1.0, 2.0])},
        strict_7_steps={"x": X + 7, "margin": np.array([3.0, 1.0, -2.0])},
        random_search={"x": X + 4, "margin": np.array([0.5, 2.0, 1.0])},
    )


@pytest.mark.parametrize(("norm", "largest"), [("linf", 4.0), ("l2", 5.0)])
def test_the_worst_of_all_attacks(norm, largest):
    """Image by image, of the strict ones: random search, 2 steps, 7 steps. One is right."""
    work = found_by_attacks()
    _, attack = attacks(work)
    found, points = attack.on("energies", None, "parameters", norm, 0.5)
    assert found["accuracy"] == approx(
        {"published": 1 / 3, "strict, 2 steps": 2 / 3, "strict, 7 steps": 2 / 3,
         "random search": 1.0, "strict": 1 / 3, "strict, first 2 images": 0.5}
    )  # fmt: skip
    assert found["standard_error"] == approx(np.sqrt(2 / 27))
    assert found["largest_change_of_published"] == largest
    np.testing.assert_array_equal(points["published"], X + CHANGE)
    assert points["strict"][:, 0, 0, 0].tolist() == [5, 3, 8]
    titles = ("published", "strict_2_steps", "strict_7_steps", "random_search")
    assert list(work.asked) == [f"energies_{title}_{norm}_0.5" for title in titles]
    for x, labels, radius, index, params, batch_size in work.asked.values():
        np.testing.assert_array_equal(x, X)
        assert (labels.tolist(), index.tolist()) == ([1, 0, 1], [0, 1, 2])
        assert (radius.tolist(), radius.dtype) == ([0.5] * 3, np.float32)
        assert (params, batch_size) == ("parameters", 5)
    _, attack = attacks(found_by_attacks(), num_random=0, adaptive_images=9)
    found, _ = attack.on("energies", None, None, norm, 0.5)
    assert "random search" not in found["accuracy"]
    assert found["accuracy"]["strict, first 3 images"] == approx(1 / 3)
    _, attack = attacks(found_by_attacks(), adaptive_images=0)
    found, _ = attack.on("energies", None, None, norm, 0.5)
    assert not [name for name in found["accuracy"] if "first" in name]


def test_images_that_are_not_attacked_are_classified_by_one_program():
    """Whatever the norm; attacks are a program of each."""
    work = found_by_attacks()
    work.found["clean"] = {"x": X, "margin": np.array([1.0, 1.0, -1.0])}
    _, attack = attacks(work)
    for norm in ("linf", "l2"):
        found, points = attack.on("energies", None, None, norm, 0.0)
        assert set(found["accuracy"]) == {
            "published", "strict, 2 steps", "strict, 7 steps", "random search", "strict",
            "strict, first 2 images",
        }  # fmt: skip
        assert found["accuracy"]["published"] == found["accuracy"]["strict"] == approx(2 / 3)
        assert found["largest_change_of_published"] == 0
        np.testing.assert_array_equal(points["strict"], X)
        attack.on("energies", None, None, norm, 0.5)
    of = work.programs
    assert of["energies_clean_linf_0"] is of["energies_clean_l2_0"]
    for title in ("published", "strict_2_steps", "random_search"):
        assert of[f"energies_{title}_linf_0.5"] is not of[f"energies_{title}_l2_0.5"]


def test_accuracies_through_chains():
    """Of four draws: the better attack image by image, by how often it is told right."""
    margins = {
        "published": [[1, 1, 1, 1], [1, 1, -1, -1], [1, 0, -1, -1]],
        "strict": [[1, 1, 0, -1], [1, 1, 1, 1], [-1, -1, -1, -1]],
        "adaptive": [[1, 1, 1, 0], [1, 0, -1, -1]],
    }
    work = Attacked(adaptive={"x": X[:2] + 9})
    work.found |= {f"refined_{k}": {"margin": np.array(v, float)} for k, v in margins.items()}
    points = {"published": X + 1, "strict": X + 2}
    starts = {"refined_published": 2, "refined_strict": 3}
    for radius, adaptive in ((0.5, {"adaptive": 1, "refined_adaptive": 10}),
                             (0.0, {"refined_adaptive": 1})):  # fmt: skip
        work.asked.clear()
        trained, attack = attacks(work)
        found = attack.refined(trained, points, "l2", radius)
        assert found["accuracy"] == approx(
            {"published": 7 / 12, "strict attack on the energies": 0.5,
             "adaptive, first 2 images": 0.5, "either, first 2 images": 3 / 8}
        )  # fmt: skip
        assert found["standard_error"] == approx(np.sqrt(35 / 144 / 3))
        begun = {name: values[0] for name, values in work.asked.items()}
        assert {name: x[0, 0, 0, 0] for name, x in begun.items()} == {
            f"{name}_l2_{radius:g}": start for name, start in (starts | adaptive).items()
        }
        assert [len(x) for x in begun.values()] == [3, 3] + [2] * len(adaptive)
        assert all(len(array) == len(values[0])
                   for values in work.asked.values() for array in values[1:4])  # fmt: skip
    trained, attack = attacks(work, adaptive_images=0)
    found = attack.refined(trained, points, "l2", 0.5)
    assert list(found["accuracy"]) == ["published", "strict attack on the energies"]


def test_chains_move_in_the_unit_range(monkeypatch):
    """On energies of x between -2 and 4; free ones keep to no box."""
    asked = []

    def refined_logits(class_energy, num_classes, refinement, key, x, index):
        asked.append((num_classes, refinement, index))
        return jnp.stack([class_energy(jnp.asarray(y))(x) for y in range(num_classes)], axis=1)

    def class_energy(level, label):
        return lambda x: 7.0 * level + label * x[:, 0] ** 2

    monkeypatch.setattr(robustness, "refined_logits", refined_logits)
    work = Attacked(refined_published={"margin": np.ones((3, 4))}, refined_strict=None)
    work.found["refined_strict"] = work.found["refined_published"]
    chosen = {"refine_steps": 6, "refine_step_size": 2.0, "refine_noise": 0.5,
              "refine_radius": 0.75, "num_draws": 3, "adaptive_images": 0}  # fmt: skip
    trained, attack = attacks(work, **chosen, refine_max_grad=1.5)
    attack.key = jax.random.key(0)
    trained.run.data = types.SimpleNamespace(low=-2.0, high=4.0)
    densities = types.SimpleNamespace(class_energy=class_energy)
    trained.run.method = types.SimpleNamespace(densities=lambda params: densities)
    attack.refined(trained, {"published": X, "strict": X}, "l2", 0.5)
    x, label, index = jnp.array([[0.0], [0.75]]), jnp.array([1, 0]), jnp.array([4, 5])
    for name, box in (("published", None), ("strict", (0.0, 1.0))):
        asked.clear()
        found = work.programs[f"refined_{name}_l2_0.5"](None, x, label, 0.5, index)
        # At -2 and 2.5, energies of class 1 are squares: the first is right and the second wrong.
        np.testing.assert_allclose(found["margin"], [[4] * 3, [-6.25] * 3])
        ((num_classes, refinement, given),) = asked
        assert (num_classes, given is index) == (2, True)
        assert refinement == (6, 2.0, 0.5, 0.75, 1.5, box)
    assert attacks(work)[1].published.max_grad is None


@pytest.mark.parametrize(("buffer", "memory"), [("kept", 8.0), ("emptied", 0.0)])
def test_a_task_begins(buffer, memory):
    """With moments of its own, and with chains that are there or not; all else goes on."""
    moments, optimizer = {"w": np.ones(2)}, optax.adam(0.1)

    def state(value):
        return TrainState(
            step=np.int32(value), params={"w": np.full(2, value)},
            ema_params={"w": np.full(2, value + 1)}, opt_state=optimizer.init(moments),
            method_state=MethodState(np.float32(value + 2), np.full(8, value)),
            attempt=np.int32(0), finite_so_far=np.bool_(True),
        )  # fmt: skip

    before = state(8.0)
    moved = optimizer.update({"w": np.ones(2)}, before.opt_state, before.params)[1]
    begun = continual._next_task(before._replace(opt_state=moved), state(0.0), optimizer, buffer)
    assert begun.method_state.shared == 10
    np.testing.assert_array_equal(begun.method_state.sharded, np.full(8, memory))
    for field in ("step", "params", "ema_params", "attempt", "finite_so_far"):
        assert getattr(begun, field) is getattr(before, field)
    for leaf in jax.tree.leaves(begun.opt_state):
        assert isinstance(leaf, np.ndarray)
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))


def test_examples_of_the_classes_of_a_task():
    images = np.arange(6).reshape(6, 1, 1, 1)
    whole = Dataset("made", "train", images, np.array([2, 0, 1, 2, 0, 3]), 4, (0, 255))
    found = continual._of_classes(whole, (2, 3))
    assert found.images.ravel().tolist() == [0, 3, 5]
    assert found.labels.tolist() == [2, 2, 3]
    assert (found.name, found.num_classes) == ("made", 4)


def test_seeds_of_continual_learning_begin_with_that_of_the_run():
    models = types.SimpleNamespace(run=types.SimpleNamespace(general=General(seed=4)))
    chosen = continual.Settings(num_seeds=2)
    assert continual._Plan(models, chosen, None, None, (), ()).seeds == [4, 5]


def test_what_a_model_of_continual_learning_depends_on():
    """All of them on how many there are; one on its seed, and not on that."""
    config = default.get_config()
    chosen = continual.Settings(num_tasks=3, num_seeds=7, learners=("energies",))
    whole = continual._fingerprint(config, chosen)
    one = continual._fingerprint(config, chosen, seed=0)
    assert (whole["seed"], one["seed"]) == (config.seed, 0)
    assert continual._fingerprint(config, chosen, seed=5)["seed"] == 5
    assert whole["config"] == one["config"]
    assert set(whole["config"]) == {
        "data", "network", "method", "sampler", "optimizer", "training", "compute",
        "held_out_split",
    }  # fmt: skip
    assert whole["config"]["data"] == config.data.to_dict()
    of_one = {"num_tasks": 3, "num_passes": 1, "buffer": "emptied"}
    assert one["continual"] == of_one
    assert whole["continual"] == of_one | {"num_seeds": 7, "learners": ("energies",)}
    assert one["versions"] == files.versions()
