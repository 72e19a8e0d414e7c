"""Trajectories: simulators against their moments, and how they are cut into contexts."""

import contextlib
import functools
from types import SimpleNamespace

import numpy as np
import pytest

from ebm_jax.data import load_dataset
from ebm_jax.data.simulators import generate, linear_gaussian, pendulum, shadow_hand
from ebm_jax.data.sources import trajectories


def test_linear_system_has_its_moments():
    number, length = 20_000, 12
    states = linear_gaussian.simulate(np.random.default_rng(0), number, length)
    means, covariances = linear_gaussian.moments(length)
    # Four standard errors: of a mean sqrt(v / n), of a covariance below 2 v / sqrt(n).
    largest = np.sqrt(np.max(covariances) / number)
    np.testing.assert_allclose(states.mean(0), means, atol=4 * largest)
    found = np.stack([np.cov(states[:, t].T) for t in range(length)])
    np.testing.assert_allclose(found, covariances, atol=8 * np.max(covariances) / number**0.5)


def test_a_system_without_noise_takes_its_powers():
    """x_t = A^t m, and covariances A^t S_0 (A^t)' beside what noise adds, written out."""
    turn = 0.98 * np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    np.testing.assert_allclose(linear_gaussian.SYSTEM.transition, turn, rtol=1e-15)
    assert [array.dtype for array in linear_gaussian.SYSTEM] == [np.float64] * 4
    nothing = np.zeros((2, 2))
    system = linear_gaussian.SYSTEM._replace(covariance=nothing, noise=nothing)
    found = linear_gaussian.simulate(np.random.default_rng(0), 2, 4, system=system)
    powers = [np.linalg.matrix_power(turn, t) for t in range(4)]
    np.testing.assert_allclose(found, [[a @ [2.0, 0.0] for a in powers]] * 2, atol=1e-12)
    rng = np.random.default_rng(7)
    x, usual = rng.multivariate_normal([2.0, 0.0], np.diag([0.5, 0.1]), 3), linear_gaussian.SYSTEM
    moved = x @ turn.T + rng.multivariate_normal([0.0, 0.0], usual.noise, 3)
    drawn = linear_gaussian.simulate(np.random.default_rng(7), 3, 2)
    np.testing.assert_allclose(drawn, np.stack([x, moved], axis=1), atol=1e-12)
    means, covariances = linear_gaussian.moments(4)
    np.testing.assert_allclose(means, found[0], atol=1e-12)
    begun, noise = np.diag([0.5, 0.1]), np.array([[0.04, 0.02], [0.02, 0.09]])
    for t, a in enumerate(powers):
        added = [b @ noise @ b.T for b in powers[:t]]
        np.testing.assert_allclose(covariances[t], sum(added, a @ begun @ a.T), atol=1e-12)


def test_pendulum_is_its_equation_in_steps_of_a_hundredth_of_a_second():
    """Semi-implicit Euler: the angle moves with the new velocity. Angles, velocities, noise."""
    found = pendulum.simulate(np.random.default_rng(3), 2, 3)
    rng = np.random.default_rng(3)
    theta, omega = rng.uniform(-np.pi, np.pi, 2), rng.standard_normal(2)
    for t in range(3):
        expected = np.stack([np.cos(theta), np.sin(theta), omega], 1)
        np.testing.assert_allclose(found[:, t], expected, rtol=1e-12)
        for noise in rng.standard_normal((10, 2)):
            omega = omega + 0.01 * (-4.0 * np.sin(theta) - 0.2 * omega) + 0.1 * noise
            theta = theta + 0.01 * omega


def test_pendulum_alone_keeps_its_energy():
    states = pendulum.simulate(np.random.default_rng(0), 50, 100, damping=0.0, push=0.0)
    np.testing.assert_allclose(states[..., 0] ** 2 + states[..., 1] ** 2, 1.0, rtol=1e-12)
    energy = states[..., 2] ** 2 / 2 - pendulum.OMEGA_0**2 * states[..., 0]
    np.testing.assert_allclose(energy, energy[:, :1] * np.ones(100), atol=0.2)  # steps of .01 s
    assert np.ptp(energy[:, 0]) > 5


def test_pushed_pendulum_comes_to_its_temperature():
    """In the long run omega ~ N(0, PUSH^2 / (2 DAMPING)) whatever theta is: Boltzmann's law."""
    last = pendulum.simulate(np.random.default_rng(1), 2_000, 300)[:, -50:]
    variance = pendulum.PUSH**2 / (2 * pendulum.DAMPING)
    assert np.mean(last[..., 2] ** 2) == pytest.approx(variance, rel=0.08)
    # <cos theta> = I1(k) / I0(k), k = OMEGA_0^2 / variance, of the density exp(k cos theta).
    k = pendulum.OMEGA_0**2 / variance
    angles = np.linspace(-np.pi, np.pi, 2_001)[:-1]
    weights = np.exp(k * np.cos(angles))
    expected = np.sum(weights * np.cos(angles)) / np.sum(weights)
    assert np.mean(last[..., 0]) == pytest.approx(expected, abs=0.04)


def test_cut_into_contexts():
    states = np.arange(2 * 5 * 2, dtype=np.float64).reshape(2, 5, 2)
    training = np.random.default_rng(0).normal(3.0, 7.0, (4, 5, 2))
    cut = trajectories.cut("made", "test", states, of_training=training, columns="ab", context=2)
    mean, std = training.reshape(-1, 2).mean(0), training.reshape(-1, 2).std(0)
    scores = (states - mean) / (std + 1e-5)
    np.testing.assert_allclose(cut.trajectories.states, scores, rtol=1e-5)
    assert cut.images.shape == (6, 2)
    assert cut.label_size == 4
    example = 4  # of the second trajectory, the second: given its frames 1 and 2, frame 3
    np.testing.assert_allclose(cut.images[example], scores[1, 3], rtol=1e-5)
    np.testing.assert_allclose(cut.labels[example], scores[1, 1:3].ravel(), rtol=1e-5)
    assert (cut.name, cut.split, cut.num_classes, cut.value_range) == ("made", "test", 1, (-10, 10))
    assert (cut.trajectories.columns, cut.trajectories.context) == (("a", "b"), 2)
    for found, expected in ((cut.trajectories.mean, mean), (cut.trajectories.std, std + 1e-5)):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert cut.trajectories.actions.shape == (2, 5, 0)
    assert {a.dtype for a in (cut.images, cut.labels, *cut.trajectories[:1])} == {np.dtype("f4")}


def test_contexts_and_scores_up_to_their_bounds():
    """4 frames of 5 are a context, 5 are not; a z-score of 10 is taken, one beyond it is not."""
    training = np.array([-1.0, 1.0]).reshape(2, 1, 1)  # mean 0, standard deviation 1
    cut = functools.partial(trajectories.cut, "made", "train", of_training=training, columns="a")
    states = np.arange(5.0).reshape(1, 5, 1)
    whole = cut(states, context=4)
    np.testing.assert_allclose(whole.images, [[4]], rtol=1e-4)
    np.testing.assert_allclose(whole.labels, [[0, 1, 2, 3]], rtol=1e-4)
    message = "^data.context: expected 1 to 4, as trajectories of made have 5 states, got "
    for context in (0, 5):
        with pytest.raises(ValueError, match=f"{message}{context}$"):
            cut(states, context=context)
    at_bound = np.full((1, 2, 1), -10 * (1 + 1e-5))
    assert cut(at_bound, context=1).images.tolist() == [[-10]]
    with pytest.raises(ValueError, match=r"^made: expected states .* mean, got one at 11$"):
        cut(1.1 * at_bound, context=1)


def test_sets_by_name():
    train, test = (load_dataset("linear_gaussian", split, context=4) for split in ("train", "test"))
    assert (test.name, test.split) == ("linear_gaussian", "test")
    assert train.trajectories.states.shape == (3_000, 100, 2)
    assert test.images.shape == (96_000, 2)
    assert test.labels.shape == (96_000, 8)
    np.testing.assert_allclose(train.trajectories.states.mean((0, 1)), 0, atol=1e-4)
    np.testing.assert_allclose(train.trajectories.states.std((0, 1)), 1, atol=1e-3)
    np.testing.assert_array_equal(test.trajectories.mean, train.trajectories.mean)
    for part, seed, number in ((train, 0, 3_000), (test, 1, 1_000)):
        states = linear_gaussian.simulate(np.random.default_rng(seed), number, 100)
        raw = part.trajectories.mean + part.trajectories.std * part.trajectories.states
        np.testing.assert_allclose(raw, states, atol=1e-5)
    both = load_dataset("linear_gaussian", "train+test")
    assert both.trajectories.context == 1
    assert both.trajectories.states.shape == (4_000, 100, 2)
    assert both.images.shape == (4_000 * 99, 2)


def test_a_file_of_trajectories(tmp_path):
    states = np.random.default_rng(0).normal(size=(20, 6, 3)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", states=states, columns=["a", "b", "c"])
    train, test = (
        load_dataset("trajectories", split, path=tmp_path / "mine.npz", context=2)
        for split in ("train", "test")
    )
    assert (train.num_examples, test.num_examples) == (18 * 4, 2 * 4)
    assert test.trajectories.columns == ("a", "b", "c")
    raw = test.trajectories.mean + test.trajectories.std * test.trajectories.states
    np.testing.assert_allclose(raw, states[-2:], rtol=1e-4, atol=1e-5)
    np.save(tmp_path / "mine.npy", states)
    plain = load_dataset("trajectories", path=tmp_path / "mine.npy", context=2)
    np.testing.assert_array_equal(plain.labels, train.labels)
    assert plain.trajectories.columns == ("x_0", "x_1", "x_2")
    one = load_dataset("trajectories", path=tmp_path / "mine.npy")  # of context
    np.testing.assert_array_equal(one.labels[0], one.trajectories.states[0, 0])
    np.save(tmp_path / "few.npy", states[:3])  # a tenth of which is less than one
    few = [load_dataset("trajectories", s, path=tmp_path / "few.npy") for s in ("train", "test")]
    assert [part.trajectories.states.shape[0] for part in few] == [2, 1]


def test_actions_of_a_file(tmp_path):
    """In the label before the frames: the action that led to the state, a z-score of training."""
    rng = np.random.default_rng(0)
    states = rng.normal(size=(20, 6, 3)).astype(np.float32)
    actions = rng.normal(2.0, 3.0, (20, 6, 4)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", states=states, actions=actions)
    load = functools.partial(load_dataset, "trajectories", path=tmp_path / "mine.npz", context=2)
    plain, test = load("test"), load("test", actions=True)
    assert plain.trajectories.actions.shape == (2, 6, 0)
    training = actions[:18].reshape(-1, 4)
    scores = (actions[18:] - training.mean(0)) / (training.std(0) + 1e-5)
    np.testing.assert_allclose(test.trajectories.actions, scores, rtol=1e-4, atol=1e-5)
    example = 5  # of the second trajectory, the second: state 3
    np.testing.assert_allclose(test.labels[example, :4], scores[1, 3], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(test.labels[:, 4:], plain.labels)
    np.testing.assert_array_equal(test.images, plain.images)
    both = load("train+test", actions=True)
    np.testing.assert_array_equal(both.trajectories.actions[18:], test.trajectories.actions)
    np.savez(tmp_path / "none.npz", states=states)
    with pytest.raises(ValueError, match=r"data.actions: expected False, as .* no array 'actions'"):
        load_dataset("trajectories", path=tmp_path / "none.npz", actions=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"x": np.zeros((4, 3, 2))}, "no array 'states' but x"),
        ({"states": np.zeros((4, 3))}, "float64 of shape 4 x 3"),
        ({"states": np.zeros((4, 3, 2), int)}, "int64 of shape"),
        ({"states": np.zeros((4, 3, 2)), "columns": ["a"]}, "names 1 columns of 2"),
        ({"states": np.zeros((4, 3, 2)), "actions": np.zeros((4, 2, 1))}, "actions are float64 of"),
        ({"states": np.zeros((4, 3, 2)), "actions": np.zeros((4, 3))}, "float64 of shape 4 x 3"),
        ({"states": np.zeros((4, 3, 2)), "actions": np.zeros((4, 3, 1), int)}, "actions are int64"),
        ({"states": np.zeros((1, 3, 2))}, "float64 of shape 1 x 3 x 2"),
        ({"states": np.zeros((4, 3, 0))}, "float64 of shape 4 x 3 x 0"),
        ({"states": np.full((4, 3, 2), np.nan)}, "within 10 standard deviations"),
    ],
)
def test_files_that_are_refused(tmp_path, content, message):
    np.savez(tmp_path / "mine.npz", **content)
    with pytest.raises(ValueError, match=message) as error:
        load_dataset("trajectories", path=tmp_path / "mine.npz")
    assert len(str(error.value).splitlines()) == 1


def test_what_is_refused_of_names_and_numbers(tmp_path):
    for kind, options, message in (
        (ValueError, {"name": "pendulum", "split": "validation"}, "it has train and test"),
        (ValueError, {"name": "linear_gaussian", "context": 100}, "data.context: expected 1 to 99"),
        (ValueError, {"name": "trajectories"}, "data.path: expected"),
        (ValueError, {"name": "trajectories", "split": "val"}, "trajectories has no split 'val'"),
        (FileNotFoundError, {"name": "trajectories", "path": tmp_path / "no.npz"}, "no file"),
        (ValueError, {"name": "digits", "context": 2}, "no option 'context'"),
    ):
        with pytest.raises(kind, match=message):
            load_dataset(**options)


# ------------------------------------------------------------------ the hand


def test_quaternions_are_continuous_and_the_same_orientations():
    rng = np.random.default_rng(0)
    angle = np.linspace(0.0, 6.0, 40)  # half angles: beyond pi / 2 the sign of w changes
    axis = np.array([0.6, 0.0, 0.8])
    smooth = np.concatenate([np.cos(angle)[:, None], np.sin(angle)[:, None] * axis], axis=1)
    signs = rng.choice([-1.0, 1.0], 40)
    states = rng.normal(size=(40, shadow_hand.STATE_SIZE))
    states[:, -4:] = signs[:, None] * smooth
    found = shadow_hand.continuous_quaternions(states)
    np.testing.assert_array_equal(found[:, :-4], states[:, :-4])
    np.testing.assert_allclose(found[:, -4:], smooth, atol=1e-12)
    # Where w is 0, and at a right angle to the one before, a sign is as it was.
    states = np.zeros((3, 31))
    states[[0, 1, 2], [-3, -2, -2]] = -1.0, -1.0, 1.0
    found = shadow_hand.continuous_quaternions(states)
    np.testing.assert_array_equal(found[:, -3:-1], [[-1, 0], [0, -1], [0, -1]])


class Recorder:
    """In place of mujoco and of a model: what it is asked for, and a cube at a height."""

    def __init__(self, height=0.2):
        self.calls, self.height = [], height
        self.qpos0 = 10.0 + np.arange(38)
        self.actuator_ctrlrange = np.stack([-np.arange(20.0), 3.0 * np.arange(20) + 1], axis=1)
        self.qpos, self.qvel, self.ctrl = np.full(38, 7.0), np.ones(36), np.zeros(20)

    def mj_resetData(self, *_):
        self.calls.append("reset")

    def mj_forward(self, *_):
        self.calls.append("forward")
        self.begun = self.qpos.copy()

    def mj_step(self, *_, nstep):
        self.calls.append((nstep, self.ctrl.copy(), self.qpos[31:].copy(), self.qvel.copy()))
        self.qpos[26] = self.height


def test_an_attempt_from_its_generator():
    """By hand: the cube's place and turn, ten steps at rest, noise, every fourth action anew."""
    recorder = Recorder()
    hand = shadow_hand.Hand(recorder, recorder, recorder)
    states, actions = shadow_hand._attempt(hand, np.random.default_rng(5), 9)
    rng = np.random.default_rng(5)
    np.testing.assert_allclose(recorder.begun[24:27], rng.normal([1.0, 0.87, 0.2], 0.005))
    turn = rng.standard_normal(4)
    np.testing.assert_allclose(recorder.begun[27:31], turn / np.sqrt(np.sum(turn**2)))
    action, expected = np.zeros(20), []
    for t in range(9):
        if t in (3, 7):
            action = rng.uniform(-1, 1, 20)
        else:
            noise = rng.uniform(-np.sqrt(0.75), np.sqrt(0.75), 20)
            action = np.clip(0.9 * action + 0.44 * noise, -1, 1)
        expected.append(action)
    np.testing.assert_allclose(actions, expected, rtol=1e-12)
    assert states.shape == (9, 31)
    np.testing.assert_array_equal(states[:, 26], 0.2)
    np.testing.assert_array_equal(states[:, 27:], [recorder.begun[27:31]] * 9)
    assert recorder.calls[:2] == ["reset", "forward"]
    steps = recorder.calls[2:]
    assert [nstep for nstep, *_ in steps] == [20] * 19  # of 2 ms
    number = np.arange(20)  # targets between -number and 3 number + 1
    wanted = [np.zeros(20)] * 10 + expected
    targets = [(2 * number + 1) / 2 + action * (4 * number + 1) / 2 for action in wanted]
    np.testing.assert_allclose([target for _, target, *_ in steps], targets, atol=1e-12)
    for *_, goal, velocity in steps:  # of the cube that shows a goal
        np.testing.assert_array_equal(goal, 41.0 + np.arange(7))
        assert velocity.tolist() == [1] * 30 + [0] * 6


@pytest.mark.parametrize(
    ("height", "is_kept"), [(0.04, False), (0.0401, True), (np.nan, False), (-1.0, False)]
)
def test_a_cube_that_sinks_to_four_centimeters_is_dropped(height, is_kept):
    recorder = Recorder(height)
    hand = shadow_hand.Hand(recorder, recorder, recorder)
    found = shadow_hand._attempt(hand, np.random.default_rng(0), 2)
    assert (found is not None) == is_kept


def test_attempts_are_made_until_one_keeps_the_cube(monkeypatch):
    """Each with a generator of (seed, number, attempt); what is recorded is float32."""
    drawn = []

    def attempt(hand, rng, length):
        drawn.append(rng.random())
        if len(drawn) < 3:
            return None
        return np.full((length, 31), -0.5), np.full((length, 20), 0.25)

    monkeypatch.setattr(shadow_hand, "_attempt", attempt)
    episode = shadow_hand.simulate(None, seed=4, number=9, length=3)
    assert drawn == [np.random.default_rng([4, 9, i]).random() for i in range(3)]
    assert episode.num_discarded == 2
    np.testing.assert_array_equal(episode.states, [[-0.5] * 27 + [0.5] * 4] * 3)
    np.testing.assert_array_equal(episode.actions, np.full((3, 20), 0.25))
    assert episode.states.dtype == episode.actions.dtype == np.float32


class FakeHand:
    """In place of a simulator: states say seed and number; every third was dropped once."""

    calls = 0

    @classmethod
    def simulate(cls, hand, *, seed, number, length):
        cls.calls += 1
        states = np.full((length, shadow_hand.STATE_SIZE), 100.0 * seed + number, np.float32)
        actions = np.full((length, shadow_hand.NUM_ACTIONS), number / 1000, np.float32)
        return shadow_hand.Episode(states, actions, int(number % 3 == 0))


def test_generation_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shadow_hand, "load_hand", lambda: None)
    monkeypatch.setattr(shadow_hand, "simulate", FakeHand.simulate)
    path = tmp_path / "hand.npz"
    assert repr(generate.generate(path, num_trajectories=100, length=3, seed=2)) == "34"
    assert FakeHand.calls == 100
    (tmp_path / "hand.npz.parts" / "000050-000099.npz").unlink()
    assert generate.main([str(path), "--num_trajectories=150", "--length=3", "--seed=2"]) == 0
    assert FakeHand.calls == 200
    said, shown = capsys.readouterr()
    assert "150 trajectories of 3 states" in said
    last = shown.split("\r")[-1]  # a part of 50 was there
    assert last == "trajectories: 3 of 3 parts of 50, 0.0 min left\n"
    with np.load(path) as found:
        np.testing.assert_array_equal(found["states"][:, 0, 0], 200 + np.arange(150))
        np.testing.assert_allclose(found["actions"][:, -1, -1], np.arange(150) / 1000, rtol=1e-6)
        assert tuple(found["columns"]) == shadow_hand.COLUMNS
        assert (found["num_discarded"], found["seed"]) == (50, 2)
    assert generate.main([str(path), "--num_trajectories=150", "--length=4"]) == 1
    assert "was begun with seed 2 and length 3" in capsys.readouterr().err
    assert generate.main([str(path), "--num_trajectories=0"]) == 1
    assert "num_trajectories: expected at least 1" in capsys.readouterr().err
    assert generate.main([str(tmp_path / "hand.npy")]) == 1
    assert "ends in .npz" in capsys.readouterr().err


def test_command_by_default(tmp_path, monkeypatch, capsys):
    """A thousand of a hundred states, of seed 0; numbers that are given are numbers."""
    asked = []
    monkeypatch.setattr(generate, "generate", lambda *path, **given: asked.append((path, given)))
    assert generate.main([str(tmp_path / "hand.npz")]) == 0
    usual = {"num_trajectories": 1000, "length": 100, "seed": 0, "processes": 1}
    assert asked == [((tmp_path / "hand.npz",), usual)]
    assert "hand.npz: 1000 trajectories of 100 states in 0.0 min; " in capsys.readouterr().out
    given = {"num_trajectories": 7, "length": 2, "seed": 5, "processes": 3}
    generate.main([str(tmp_path / "hand.npz"), *(f"--{name}={n}" for name, n in given.items())])
    assert asked[1][1] == given
    with pytest.raises(SystemExit):
        generate.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    for text in ("a simulated Shadow hand.", "of the .npz that is written", "states, 40 ms apart"):
        assert text in said


def test_time_that_is_left(tmp_path, monkeypatch, capsys):
    """The mean time of the parts that are made, for those that are missing."""
    monkeypatch.setattr(shadow_hand, "load_hand", lambda: None)
    monkeypatch.setattr(shadow_hand, "simulate", FakeHand.simulate)
    monkeypatch.setattr("time.monotonic", iter([100.0, 160.0, 280.0, 281.0]).__next__)
    generate.generate(tmp_path / "hand.npz", num_trajectories=101, length=2)
    shown = [f"\rtrajectories: {i} of 3 parts of 50, {left} min left"
             for i, left in ((1, 2.0), (2, 1.5), (3, 0.0))]  # fmt: skip
    assert capsys.readouterr().err == "".join(shown) + "\n"


def test_parts_are_shared_among_processes(tmp_path, monkeypatch, capsys):
    """No more of them than parts that are missing, and none for one part; in any order."""
    monkeypatch.setattr(shadow_hand, "load_hand", lambda: None)
    monkeypatch.setattr(shadow_hand, "simulate", FakeHand.simulate)
    pools = []

    class Pool(contextlib.AbstractContextManager):
        def __init__(self, processes):
            pools.append(processes)

        def __exit__(self, *_):
            return None

        def imap_unordered(self, function, jobs):
            return map(function, reversed(jobs))

    contexts = {"spawn": SimpleNamespace(Pool=Pool)}
    monkeypatch.setattr("multiprocessing.get_context", contexts.__getitem__)
    path = tmp_path / "hand.npz"
    for number in (120, 200, 250):  # parts: 3, 2 more as the last grows, 1 more
        generate.generate(path, num_trajectories=number, length=2, seed=3, processes=4)
        with np.load(path) as found:
            np.testing.assert_array_equal(found["states"][:, -1, -1], 300 + np.arange(number))
    assert pools == [3, 2]
    assert "\rtrajectories: 3 of 4 parts of 50, " in capsys.readouterr().err
    other = tmp_path / "new" / "folder" / "other.npz"
    generate.generate(other, num_trajectories=120, length=2, processes=2)
    assert pools == [3, 2, 2]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_trajectories": 0}, "num_trajectories: expected at least 1, got 0"),
        ({"length": 1}, "length: expected at least 2, got 1"),
        ({"seed": -1}, "seed: expected at least 0, got -1"),
        ({"processes": 0}, "processes: expected at least 1, got 0"),
    ],
)
def test_numbers_that_cannot_be(tmp_path, monkeypatch, given, message):
    monkeypatch.setattr(shadow_hand, "load_hand", lambda: None)
    monkeypatch.setattr(shadow_hand, "simulate", FakeHand.simulate)
    least = {"num_trajectories": 1, "length": 2, "seed": 0, "processes": 1}
    with pytest.raises(ValueError, match=f"^{message}$"):
        generate.generate(tmp_path / "hand.npz", **least | given)
    assert not list(tmp_path.iterdir())
    generate.generate(tmp_path / "hand.npz", **least)
    assert len(np.load(tmp_path / "hand.npz")["states"]) == 1


def test_without_the_simulator_one_line_says_so(tmp_path, monkeypatch, capsys):
    import sys

    monkeypatch.setitem(sys.modules, "mujoco", None)
    assert generate.main([str(tmp_path / "hand.npz")]) == 1
    assert capsys.readouterr().err.strip() == (
        "error: the Shadow hand is simulated by mujoco: pip install 'ebm_jax[hand]'"
    )
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def hand():
    pytest.importorskip("mujoco")
    return shadow_hand.load_hand()


def test_the_hand_itself(hand, monkeypatch):
    """A trajectory is a function of (seed, number), within the joints' limits, the cube in hand."""
    names = [hand.model.joint(i).name.removeprefix("robot0:") for i in range(24)]
    assert list(shadow_hand.COLUMNS[:24]) == names
    first = shadow_hand.simulate(hand, seed=0, number=3, length=12)
    shadow_hand.simulate(hand, seed=0, number=4, length=5)
    again = shadow_hand.simulate(hand, seed=0, number=3, length=12)
    np.testing.assert_array_equal(first.states, again.states)
    np.testing.assert_array_equal(first.actions, again.actions)
    assert np.abs(first.actions).max() <= 1
    other = shadow_hand.simulate(hand, seed=1, number=3, length=12)
    assert np.abs(other.states - first.states).max() > 0.1
    low, high = hand.model.jnt_range[:24].T
    assert np.all((first.states[:, :24] > low - 0.1) & (first.states[:, :24] < high + 0.1))
    assert np.all(first.states[:, 26] > 0.04)
    np.testing.assert_allclose(np.linalg.norm(first.states[:, -4:], axis=1), 1, atol=1e-5)
    lowest = first.states[:, 26].min()
    for bound, is_kept in ((lowest - 1e-3, True), (lowest + 1e-3, False)):
        monkeypatch.setattr(shadow_hand, "_LOWEST_CUBE", bound)
        rng = np.random.default_rng([0, 3, first.num_discarded])
        assert (shadow_hand._attempt(hand, rng, 12) is not None) == is_kept


def test_lines_of_the_hand(hand):
    """The cube's edges are as long as the cube and about its center; bones keep their lengths."""
    states = shadow_hand.simulate(hand, seed=0, number=0, length=10).states
    lengths = []
    for state in (states[0], states[-1]):
        lines = shadow_hand.lines(hand, state)
        faces = np.stack(lines[:6])
        np.testing.assert_allclose(faces[:, :4].mean((0, 1)), state[24:27], atol=1e-4)
        edges = np.linalg.norm(np.diff(faces, axis=1), axis=2)
        np.testing.assert_allclose(edges, 2 * hand.model.geom("object").size[0], rtol=1e-3)
        lengths.append([np.linalg.norm(line[1] - line[0]) for line in lines[6:]])
        assert len(lines[6:]) == 23 + 5
    np.testing.assert_allclose(lengths[0], lengths[1], atol=1e-6)
