"""Learning rates, schedules, lists of leaves and what services are sent, by hand."""

import json
import types
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ebm_jax.data.batches import batch_indices
from ebm_jax.data.dataset import Dataset
from ebm_jax.runs import init_from
from ebm_jax.tasks import _updates
from ebm_jax.training import checkpoint_files, checkpoints, manifest, optimizers, trackers
from ebm_jax.training.loop import Schedule
from ebm_jax.training.metric_writers import _entries, _step_of, flatten_metrics


def rates(optimizer, num_steps, steps):
    schedule = optimizer.learning_rate_at(num_steps)
    return [float(schedule(step)) for step in steps]


def test_learning_rates():
    """Up in a line, then constant, or half a cosine down to the last."""
    constant = optimizers.Adam(learning_rate=0.5)
    assert rates(constant, 10, (0, 5, 100)) == [0.5, 0.5, 0.5]
    warm = optimizers.Adam(learning_rate=0.5, warmup_steps=4)
    assert rates(warm, 10, (0, 1, 4, 9)) == pytest.approx([0, 0.125, 0.5, 0.5])
    cosine = {"schedule": "cosine", "learning_rate": 0.5, "final_learning_rate": 0.1}
    found = rates(optimizers.Adam(**cosine), 10, (0, 5, 10))
    assert found == pytest.approx([0.5, 0.3, 0.1])
    both = optimizers.IgebmAdam(**cosine, warmup_steps=2)
    assert rates(both, 10, (0, 1, 2, 6, 10)) == pytest.approx([0, 0.25, 0.5, 0.3, 0.1])
    assert rates(optimizers.Adam(**cosine), 0, (0, 9)) == [0.5, 0.5]
    with pytest.raises(ValueError, match="expected fewer than the 2 steps of a cosine, got 2"):
        both.learning_rate_at(2)
    both.learning_rate_at(3)


def first_update(optimizer, grads):
    """Of parameters 0, after one gradient."""
    params = jax.tree.map(jnp.zeros_like, grads)
    return optimizer.update(grads, optimizer.init(params), params)[0]


def test_adam_clips_by_the_global_norm():
    """The ratio of gradients is kept; a bound beyond the norm, 0 and inf change nothing."""
    grads = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0, 0.0])}
    plain = {"learning_rate": 1.0, "b1": 0.9, "b2": 0.999}
    for bound, factor in ((0.0, 1.0), (np.inf, 1.0), (10.0, 1.0), (1.0, 0.2)):
        made = optimizers.Adam(**plain, max_grad_norm=bound).make(5)
        state = made.init(grads)
        expected = optax.adam(1.0, b1=0.9, b2=0.999)
        clipped = jax.tree.map(lambda g, factor=factor: factor * g, grads)
        moments = jax.tree.leaves(made.update(grads, state, grads)[1])
        wanted = jax.tree.leaves(expected.update(clipped, expected.init(grads), grads)[1])
        arrays = [leaf for leaf in moments if jnp.ndim(leaf)]
        for one, other in zip(arrays, [w for w in wanted if jnp.ndim(w)], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("is_igebm", [False, True])
def test_three_updates_by_hand(is_igebm):
    """With every setting at an unusual value; the learning rate is 0 at first."""
    settings = {"learning_rate": 0.5, "b1": 0.5, "b2": 0.75, "warmup_steps": 4}
    if is_igebm:
        made = optimizers.IgebmAdam(**settings).make(10)
    else:
        made = optimizers.Adam(**settings, max_grad_norm=2.0).make(10)
    params = jnp.array([1.0, -2.0])
    state, p, m, v = made.init(params), np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for t, gradient in enumerate(([3.0, -4.0], [0.5, 1.0], [-0.01, 0.25]), start=1):
        updates, state = made.update(jnp.array(gradient), state, params)
        params = optax.apply_updates(params, updates)
        g = np.array(gradient)
        if is_igebm:
            bound = 3 * np.sqrt(v / (1 - 0.75**t)) + 0.1
            g = np.clip(g, -bound, bound)
        else:
            g = g * min(1, 2 / np.linalg.norm(g))
        m, v = (m + g) / 2, 0.75 * v + 0.25 * g**2
        size = 0.5 * (t - 1) / 4 * np.sqrt(1 - 0.75**t) / (1 - 0.5**t)
        p = p - size * m / (np.sqrt(v) + 1e-8)
        np.testing.assert_allclose(params, p, rtol=1e-5)


def test_settings_of_optimizers_are_checked_and_have_names():
    for kind in (optimizers.LearningRate, optimizers.Adam, optimizers.IgebmAdam):
        with pytest.raises(TypeError):
            kind(0.5)
        with pytest.raises(ValueError, match=r"^optimizer\.learning_rate: expected"):
            kind(learning_rate=0.0)


def test_optimizers_for_groups_of_parameters():
    grads = {"a": jnp.ones(2), "b": jnp.ones(2)}
    made = optimizers.partition({"a": optax.sgd(0.5), "b": optax.sgd(0.25)})
    found = first_update(made, grads)
    np.testing.assert_allclose(found["a"], -0.5 * np.ones(2))
    np.testing.assert_allclose(found["b"], -0.25 * np.ones(2))
    with pytest.raises(ValueError, match="a section for each of a, b, got a, c"):
        optimizers.partition({"a": optax.sgd(1.0), "c": optax.sgd(1.0)}).init(grads)


def test_when_what_is_done():
    """The last step always; 0 for samples is at the end alone."""
    steps = range(1, 11)
    schedule = Schedule(num_steps=10, log_every=4, sample_every=3, checkpoint_every=5)
    assert [s for s in steps if schedule.logs(s)] == [4, 8, 10]
    assert [s for s in steps if schedule.samples(s)] == [3, 6, 9, 10]
    assert [s for s in steps if schedule.saves(s)] == [5, 10]
    at_the_end = schedule._replace(sample_every=0)
    assert [at_the_end.samples(s) for s in steps] == [False] * 9 + [True]
    assert {type(at_the_end.samples(s)) for s in steps} == {bool}


def test_names_of_metrics():
    flat = flatten_metrics({"loss": np.array(1.5), "gap": np.array([2.0, 3.0])})
    assert flat == {"loss": 1.5, "gap/level_0": 2.0, "gap/level_1": 3.0}
    assert all(type(value) is float for value in flat.values())
    entries = _entries({"a": 1, "b": np.array([2.0])})
    assert entries == {"a": 1.0, "b/0": 2.0}
    assert all(type(value) is float for value in entries.values())
    lines = (b'{"step": 3}\n', b'{"step": 3}', b'{"other": 3}\n', b"[1]\n", b"3\n", b"half\n")
    assert [_step_of(line) for line in lines] == [3, None, None, None, None, None]


def test_leaves_have_names_shapes_and_types():
    tree = {"a": (np.zeros((2, 3), np.float32), 5), "b": {"c": jnp.zeros((), jnp.bfloat16)}}
    specs = manifest.leaf_specs(tree)
    assert {name: str(spec) for name, spec in specs.items()} == {
        "a/0": "float32[2,3]", "a/1": "int64[]", "b/c": "bfloat16[]",
    }  # fmt: skip
    assert list(manifest.leaf_specs(np.zeros(2))) == ["value"]
    with pytest.raises(ValueError, match="two leaves are both called a/b"):
        manifest.leaf_specs({"a/b": 1, "a": {"b": 1}})
    for leaf, said in (
        (jax.random.key(0), "x is a PRNG key"), ("text", "x is a str: a checkpoint holds"),
        (np.array(["a"]), "x is a ndarray"), (object(), "x is a object"),
        (np.zeros(1, "datetime64[s]"), "x is a ndarray"), (np.zeros(1, [("f", "f4")]), "x is a"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=said):
            manifest.named_arrays({"x": leaf})
    named = manifest.named_arrays({"x": jax.random.key_data(jax.random.key(0)), "y": 5})
    assert {type(array) for array in named.values()} == {np.ndarray}


def test_the_first_difference_and_the_first_damage():
    spec = manifest.LeafSpec((2,), "float32")
    other = spec._replace(shape=(3,))
    assert manifest.first_difference({"a": spec}, {"a": spec}) is None
    assert manifest.first_difference({"a": spec}, {"a": other}) == (
        "a is float32[2] in it and float32[3] is wanted"
    )
    assert manifest.first_difference({}, {"a": spec}) == "a (float32[2]) is wanted and is not in it"
    assert manifest.first_difference({"b": spec}, {}) == "b (float32[2]) is in it and is not wanted"
    arrays = {"a": np.arange(3.0), "b": np.ones((2, 2), np.int32)}
    made = manifest.build(7, arrays, pinned=True, config={"x": 1})
    assert (made["step"], made["pinned"], made["config"], made["format"]) == (7, True, {"x": 1}, 1)
    assert [leaf["crc32"] for leaf in made["leaves"]] == [
        zlib.crc32(arrays[name].tobytes()) for name in "ab"
    ]
    assert manifest.intact(made)
    assert manifest.intact(json.loads(json.dumps(made)))
    assert manifest.intact(dict(reversed(made.items())))
    columns = {"a": np.arange(6.0).reshape(2, 3).T, "b": np.arange(8)[::2]}
    crcs = [leaf["crc32"] for leaf in manifest.build(1, columns, pinned=False)["leaves"]]
    assert crcs == [zlib.crc32(array.tobytes()) for array in columns.values()]
    for broken in (made | {"step": 8}, made | {"format": 2}, [made], {}):
        assert not manifest.intact(broken)
    assert manifest.stored_specs(made)["b"] == manifest.LeafSpec((2, 2), "int32")
    assert manifest.first_damaged(made, arrays) is None
    assert manifest.first_damaged(made, {"b": arrays["b"]}) is None
    for name, array in (
        ("a", np.arange(1.0, 4.0)), ("a", np.arange(3, dtype=np.float32)),
        ("b", np.ones((4,), np.int32)), ("b", np.ones((2, 2), np.uint32)),
    ):  # fmt: skip
        assert manifest.first_damaged(made, arrays | {name: array}) == name


def test_values_that_are_not_finite():
    arrays = {"i": np.array([1]), "a": np.ones(2), "b": np.array([1.0, np.inf]),
              "c": np.array([np.nan])}  # fmt: skip
    assert manifest.first_non_finite(arrays) == "b"
    assert manifest.first_non_finite({"a": arrays["a"], "i": arrays["i"]}) is None
    assert manifest.first_non_finite({"z": np.array([1j * np.inf])}) == "z"
    short = {"h": jnp.array([jnp.nan], jnp.bfloat16)}
    assert manifest.first_non_finite(manifest.named_arrays(short)) == "h"


def test_the_newest_and_the_pinned_are_kept():
    infos = [types.SimpleNamespace(step=step) for step in (1, 2, 3, 4)]
    policy = checkpoints._LatestAndPinned(2, {1})
    assert policy.should_preserve(infos, context=None) == [True, False, True, True]


def test_first_lines_of_errors():
    assert checkpoint_files._first_line(ValueError("\n one \ntwo")) == "one "
    assert checkpoint_files._first_line(ValueError()) == "ValueError"
    assert checkpoint_files._first_line(ValueError("x" * 160)) == "x" * 160
    assert checkpoint_files._first_line(ValueError("x" * 161)) == "x" * 157 + "..."
    with pytest.raises(checkpoint_files.CheckpointError, match=r"^it could not be written: full$"):
        with checkpoint_files.writing("it"):
            raise OSError("full")
    with pytest.raises(checkpoint_files.DamagedCheckpointError):
        with checkpoint_files.writing("it"):
            raise checkpoint_files.DamagedCheckpointError("as it is")
    for error in (PermissionError("not yours"), MemoryError("full")):  # of the machine, not of it
        with pytest.raises(checkpoint_files.CheckpointError) as caught:
            with checkpoint_files._reading("it"):
                raise error
        assert type(caught.value) is checkpoint_files.CheckpointError
        assert str(caught.value) == f"it could not be read: {error}"
    with pytest.raises(checkpoint_files.DamagedCheckpointError, match=r"^it is damaged: 'a'$"):
        with checkpoint_files._reading("it"):
            raise KeyError("a")


def test_configs_for_services():
    """Fields by the way to them; values as text of 500 characters."""
    config = {"a": {"b": (1, 2), "c": {"d": 0.5}}, "e": "x" * 600}
    assert trackers._flat(config) == {"a.b": "(1, 2)", "a.c.d": "0.5", "e": "x" * 500}


def test_where_parameters_are_taken_from(tmp_path):
    for name, expected in (
        ("runs/x", ("runs/x", None)), ("runs/x@30", ("runs/x", 30)), ("a@b", ("a@b", None)),
        ("a@b@7", ("a@b", 7)), ("a@", ("a@", None)),
    ):  # fmt: skip
        path, step = init_from._split(f"{tmp_path}/{name}")
        assert (str(path.relative_to(tmp_path)), step) == expected


def test_states_that_were_kept():
    """Leaves by number, of the same structure; their updates are counted as done."""
    state = types.SimpleNamespace
    skipped = []

    def kept(saved):
        return state(load=lambda name: saved, skip=skipped.append)

    from ebm_jax.training.state import TrainState

    start = TrainState(np.int32(0), {"w": np.zeros(2)}, {"w": np.zeros(2)}, (), (), np.int32(0),
                       np.array(True))  # fmt: skip
    assert _updates.load_state(kept(None), start) is start
    other = start._replace(step=np.int32(30), params={"w": np.array([1.0, 2.0])})
    saved = _updates._numbered(other)
    assert sorted(saved) == [f"leaf_{i}" for i in range(5)]
    found = _updates.load_state(kept(saved), start)
    assert int(found.step) == 30
    np.testing.assert_array_equal(found.params["w"], [1, 2])
    assert skipped == [30]
    assert _updates.train(None, None, None, found, 30, what="x") is found


def test_batches_of_a_task_are_shared_by_the_processes(monkeypatch):
    """The second of two processes of eight devices has the second half of the global batch."""
    images = np.arange(100, dtype=np.float32)[:, None]
    dataset = Dataset("made", "train", images, np.arange(100, dtype=np.int32), 100, (0.0, 100.0))

    def batch():
        return _updates.local_batch(dataset, 3, seed=5, batch_size=32)["label"]

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    first = batch()
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    second = batch()
    assert first.shape == second.shape == (8, 2)
    whole = batch_indices(100, 32, 3, 5)
    np.testing.assert_array_equal(np.concatenate([first, second]).reshape(-1), whole)
