"""The chains of a long run by hand: where they start, how they go on, and what moves them."""

import contextlib
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.evaluation.density import long_run
from ebm_jax.tasks.long_run import Settings, mode
from ebm_jax.tasks.long_run.chains import Chains
from ebm_jax.tasks.long_run.plan import Plan

KEY, COUNT = jax.random.key(7), np.float32(3)
EXAMPLES = np.arange(30.0, dtype=np.float32).reshape(5, 2, 3, 1)


def bits(key):
    return jax.random.key_data(key).tolist()


def fold(*numbers):
    key = KEY
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def chains(**fields):
    """What methods of `Chains` read, and no more."""
    usual = {
        "key": KEY, "params": None, "examples": EXAMPLES, "settings": Settings(num_chains=8),
        "plan": Plan([0, 4, 10], [0, 10], [], [2, 1, 0], 10, [0]),
    }  # fmt: skip
    here = types.SimpleNamespace(**usual | fields)
    here._starts = lambda: Chains._starts(here)
    here._energy = lambda *given: Chains._energy(here, *given)
    here._kernel = lambda *given: Chains._kernel(here, *given)
    return here


def test_images_of_which_chains_start_come_in_turn():
    np.testing.assert_array_equal(Chains._starts(chains()), EXAMPLES[[0, 1, 2, 3, 4, 0, 1, 2]])


def test_where_chains_start():
    """Images with the noise of the first level, noise, or pairs at it; the key is the third."""
    asked = []

    def noised(key, level, x, index):
        asked.append(("noised", bits(key), level, index.tolist()))
        return x + 0.5

    def sample(key, index, shape):
        asked.append(("sample", bits(key), index.tolist(), shape))
        return jnp.full((len(index), *shape), 0.25)

    def pairs(level):
        asked.append(("pairs", level))
        return EXAMPLES, EXAMPLES + 1

    densities = types.SimpleNamespace(noised=noised, base=types.SimpleNamespace(sample=sample))
    found = {}
    for start in ("data", "noise", "pairs"):
        settings = Settings(num_chains=8, start=start)
        found[start] = Chains.start(chains(settings=settings, densities=densities, _pairs=pairs))
    index, key = list(range(8)), bits(fold(3))
    assert asked == [
        ("noised", key, 2, index), ("sample", key, index, (2, 3, 1)), ("pairs", 2),
    ]  # fmt: skip
    np.testing.assert_array_equal(found["data"]["x"], EXAMPLES[[0, 1, 2, 3, 4, 0, 1, 2]] + 0.5)
    assert (found["noise"]["x"] == 0.25).all()
    for start in ("data", "noise"):
        state = found[start]
        assert state["x"] is state["start"] is state["x_noisy"]
        assert isinstance(state["x"], np.ndarray)
    assert found["pairs"]["x"] is found["pairs"]["start"] is EXAMPLES
    assert found["pairs"]["x_noisy"][0, 0, 0, 0] == 1
    state = found["data"]
    assert (state["step"], state["done"], float(state["accepted"])) == (-1, 0, 0.0)
    assert state["step_sizes"].tolist() == [0, 0, 0]
    assert state["is_stuck"].tolist() == [False] * 3
    assert state["records"].shape == (0, 10)
    assert (state["kept"].shape, state["kept_energies"].shape) == ((0, 8, 6), (0, 8))
    assert (state["shown"].shape, state["shown"].dtype) == ((0, 8, 2, 3, 1), np.uint8)
    assert {state[k].dtype for k in ("accepted", "kept", "kept_energies")} == {np.dtype("f4")}
    large = chains(
        settings=Settings(num_chains=24), densities=densities,
        examples=np.zeros((30, 20, 20, 1), np.float32),
    )  # fmt: skip
    many = Chains.start(large)
    assert many["shown"].shape == (0, 10, 20, 20, 1)
    assert many["kept"].shape == (0, 24, long_run.NUM_VALUES)


def test_pairs_are_noised_further_but_at_the_highest_level():
    asked = []

    def noised(key, level, x, index):
        asked.append(("noised", bits(key), level, index.tolist()))
        return x + 0.5

    def further(key, level, x, index):
        asked.append(("further", bits(key), level, index.tolist()))
        return x + 2.0

    def sample(key, index, shape):
        asked.append(("sample", bits(key), index.tolist(), shape))
        return np.full((len(index), *shape), -1.0)

    densities = types.SimpleNamespace(
        noised=noised, noised_further=further, num_conditionals=2,
        base=types.SimpleNamespace(sample=sample),
    )  # fmt: skip
    here = chains(densities=densities, _below=lambda level, x_noisy: (level, x_noisy))
    (level, given), x_noisy = Chains._pairs(here, 1)
    assert (level, given is x_noisy) == (1, True)
    np.testing.assert_array_equal(x_noisy, Chains._starts(here) + 2.5)
    noise_key, step_key = map(bits, jax.random.split(fold(5, 1)))
    index = list(range(8))
    assert asked[1:] == [("noised", noise_key, 1, index), ("further", step_key, 1, index)]
    asked.clear()
    _, x_noisy = Chains._pairs(here, 2)
    assert (x_noisy == -1).all()
    step_key = bits(jax.random.split(fold(5, 2))[1])
    assert asked == [("sample", step_key, index, (2, 3, 1))]


class Moving(typing.NamedTuple):
    """A kernel's state: places, and what is one number for all chains."""

    x: jax.Array
    count: np.float32 = COUNT


def test_chains_go_on_in_pieces():
    """Begun at a level with its step size; recorded at events alone; each piece after the last."""
    asked, recorded = [], []

    def begin(params, level, x_noisy, u, step_size):
        asked.append(("begin", level, step_size, float(x_noisy[0]), float(u[0])))
        return types.SimpleNamespace(x=u)

    def move(params, level, x_noisy, step_size, moving, accepted, done, number):
        asked.append(("move", level, step_size, done, number))
        return Moving(moving.x + number, moving.count), accepted + 0.5 * number

    def record(state, event, level):
        recorded.append((event, level, state["done"]))
        state["step"] = event

    @contextlib.contextmanager
    def timed(number):
        asked.append(("timed", number))
        yield

    here = chains(
        begin=lambda *given: Moving(begin(*given).x), move=move, _record=record,
        pace=types.SimpleNamespace(next=lambda left: min(left, 3), timed=timed),
        _begin=lambda params, level, x_noisy, u, step_size: Moving(u),
        _tuned=lambda state, level, x_noisy, u: {"step_sizes": np.array([0.25, 0, 0])},
    )  # fmt: skip
    here._unflatten = lambda *given: Chains._unflatten(here, *given)
    before = {
        "step": -1, "done": 0, "accepted": np.float32(0), "x": np.full(8, 5.0, np.float32),
        "x_noisy": np.full(8, 9.0, np.float32), "step_sizes": np.zeros(3),
    }  # fmt: skip
    state = Chains.go_on(here, before)
    assert "leaf_0" not in before  # the state that is given stays as it is
    assert asked == [("begin", 2, 0.25, 9.0, 5.0), ("timed", 0), ("move", 2, 0.25, 0, 0)]
    assert recorded == [(0, 2, 0)]
    asked.clear()
    for done in (3, 4, 7, 10):
        state = Chains.go_on(here, state)
        assert state["done"] == done
        np.testing.assert_array_equal(state["x"], np.full(8, 5.0 + done))
        assert float(state["accepted"]) == 0.5 * done
        np.testing.assert_array_equal(state["leaf_0"], state["x"])
        assert float(state["leaf_1"]) == 3.0
    assert [row for row in asked if row[0] == "move"] == [
        ("move", 2, 0.25, 0, 3), ("move", 2, 0.25, 3, 1), ("move", 2, 0.25, 4, 3),
        ("move", 2, 0.25, 7, 3),
    ]  # fmt: skip
    assert recorded[1:] == [(4, 2, 4), (10, 2, 10)]


def test_a_level_ends_where_the_next_begins():
    """The chains go down by a transition, given where they are, or start at it anew."""
    x = np.arange(48.0, dtype=np.float32).reshape(8, 2, 3, 1) / 24 - 1
    real = long_run.Reference(0, 1, 1, 0, None, 0, 0)
    plan = Plan([0, 1, 2, 3], [], [], [2, 1, 0], 1, [0])
    run = types.SimpleNamespace(data=types.SimpleNamespace(low=-1.0, high=1.0))
    for is_anew in (False, True):
        here = chains(
            plan=plan, run=run, real_at=lambda level: real,
            settings=Settings(num_chains=8, start="pairs" if is_anew else "data"),
            measure=lambda params, level, u: (x, np.zeros(8), np.ones_like(x)),
            _below=lambda level, x_noisy: ("below", level, x_noisy),
            _pairs=lambda level: (("anew", level), "above"),
        )  # fmt: skip
        state = {
            "x": np.zeros((8, 1)), "start": x, "step": 0, "accepted": 0.5, "leaf_0": 1, "leaf_1": 2,
            "records": np.zeros((0, 10)), "x_noisy": None,
        }  # fmt: skip
        Chains._record(here, state, 1, 2)
        assert "leaf_0" not in state
        assert "leaf_1" not in state
        assert state["start"] is state["x"]
        if is_anew:
            assert (state["x"], state["x_noisy"]) == (("anew", 1), "above")
        else:
            assert state["x"] == ("below", 1, x)
            assert state["x_noisy"] is x
        assert long_run.Record(*state["records"][0]).acceptance == 0.5
        assert (state["step"], float(state["accepted"])) == (1, 0.0)


def test_real_images_have_the_noise_of_the_level_or_of_the_last():
    here = chains(_real={0: "last", 1: "middle"})
    assert [Chains.real_at(here, level) for level in (0, 1, 2)] == ["last", "middle", "last"]


DENSITIES = types.SimpleNamespace(
    energy=lambda level: lambda u: 10 * level + u,
    conditional=lambda level, x_noisy: lambda u: 100 * level + x_noisy + u,
    base=types.SimpleNamespace(reflect=abs),
    native_kernel=lambda energy_fn, level: ("native", energy_fn(-3), level),
)


@pytest.mark.parametrize(
    ("fields", "energy"),
    [
        ({}, 20 - 3),  # the method's own chain knows its walls
        ({"sampler": "hmc"}, 20 + 3),
        ({"step_size": 0.5}, 20 + 3),
        ({"level": -1, "sampler": "hmc"}, 200 + 7 - 3),
        ({"start": "pairs"}, 200 + 7 - 3),
    ],
)
def test_energies_of_chains(fields, energy):
    """In reflected coordinates where MALA and HMC run, and given x_{t+1} as that is."""
    settings = Settings(num_chains=8, **fields)
    assert Chains._energy(chains(settings=settings), DENSITIES, 2, 7)(-3) == energy
    here = chains(
        settings=settings, make_kernel=lambda energy_fn, step: ("made", energy_fn(-3), step),
        run=types.SimpleNamespace(
            method=types.SimpleNamespace(densities=lambda params: DENSITIES)
        ),
    )  # fmt: skip
    kernel = Chains._kernel(here, None, 2, 7, 0.125)
    assert kernel == (("native", energy, 2) if settings.is_native else ("made", energy, 0.125))


def test_what_is_measured_is_where_the_walls_reflect():
    """Energies and gradients of x, and not of the place beyond the wall."""
    reflect = types.SimpleNamespace(reflect=lambda u: jnp.where(u > 1, 2 - u, u))
    densities = types.SimpleNamespace(
        energy=lambda level: lambda x: jnp.sum(x**2 * (1 + level), 1), base=reflect,
        conditional_start=lambda key, level, x_noisy: (bits(key), level, x_noisy),
    )  # fmt: skip
    method = types.SimpleNamespace(densities=lambda params: densities)
    here = chains(run=types.SimpleNamespace(method=method))
    u = jnp.array([[1.25, 0.5], [0.0, -1.0]])
    x, energies, grads = Chains._measure(here, None, 1, u)
    np.testing.assert_allclose(x, [[0.75, 0.5], [0.0, -1.0]])
    np.testing.assert_allclose(energies, [2 * (0.5625 + 0.25), 2])
    np.testing.assert_allclose(grads, 4 * np.asarray(x))
    assert Chains._descend(here, None, 1, 9) == (bits(fold(4, 1)), 1, 9)


def test_keys_of_tuning_and_moving(monkeypatch):
    monkeypatch.setattr(long_run, "tuned_step", lambda *given: given)
    monkeypatch.setattr(long_run, "advance", lambda *given: given)
    densities = types.SimpleNamespace(densities=lambda params: DENSITIES)
    here = chains(
        settings=Settings(sampler="hmc"), make_kernel=lambda *given: "kernel",
        run=types.SimpleNamespace(method=densities),
    )  # fmt: skip
    key, kernel, energy_fn, u, first = Chains._tune(here, None, 2, 7, "u", 0.5)
    assert (bits(key), kernel, u, first) == (bits(fold(1, 2)), here.make_kernel, "u", 0.5)
    assert energy_fn(-3) == 23
    key, *others = Chains._move(here, None, 2, 7, 0.125, "state", "accepted", 40, 5)
    assert bits(key) == bits(fold(2))
    assert others == ["kernel", "state", "accepted", 40, 5]


def test_roughness_is_at_the_last_level():
    here = chains(jumps=lambda params, level, u: jnp.float32(level) + u[0])
    state = {"x": np.full(8, 0.25, np.float32), "records": np.array([[0, 2, 7], [9, 1, 5]])}
    assert Chains.roughness(here, state) == 1.25


def test_a_chain_of_the_method_itself_has_no_step_to_tune():
    here = chains(tune=lambda *_: pytest.fail("tuned"))
    state = {"step_sizes": np.zeros(3), "is_stuck": np.zeros(3, bool)}
    found = Chains._tuned(here, state, 2, None, None)
    assert found["step_sizes"].tolist() == [0, 0, 0]
    hmc = chains(settings=Settings(sampler="hmc"), tune=here.tune)
    state["step_sizes"][0] = 0.5  # as it was tuned before
    assert Chains._tuned(hmc, state, 2, None, None)["step_sizes"].tolist() == [0.5, 0, 0]


@pytest.mark.parametrize("start", ["data", "pairs"])
def test_what_chains_are_compared_with(start, monkeypatch):
    """Two thousand images beside those they start from: at the last level, or at each anew."""
    made = []
    monkeypatch.setattr(long_run, "make_kernel", lambda *given: given)
    monkeypatch.setattr(
        Chains, "_reference", lambda self, trained, level: (f"at {level}", f"none at {level}")
    )
    run = types.SimpleNamespace(
        key=lambda name: name, dataset="training",
        random_examples=lambda dataset, number: made.append((dataset, number)) or EXAMPLES,
    )  # fmt: skip
    trained = types.SimpleNamespace(run=run, params={})
    settings = Settings(num_chains=24, sampler="hmc", num_leapfrog_steps=5, start=start)
    here = Chains(trained, settings, Plan([0], [], [], [2, 1, 0], 10, [0]), None)
    assert made == [("training", 2_024)]
    assert (here.make_kernel, here.key) == (("hmc", 5), "long_run")
    compared = [2, 1, 0] if start == "pairs" else [0]
    assert here._real == {level: f"at {level}" for level in compared}
    assert here.no_frechet == f"none at {compared[0]}"


def test_real_images_are_noised_by_a_key_of_their_own(monkeypatch):
    monkeypatch.setattr(long_run, "reference", lambda *given, **how: (given, how))
    densities = types.SimpleNamespace(
        noised=lambda key, level, x, index: x + jax.random.uniform(key) + level + len(index)
    )
    trained = types.SimpleNamespace(energies=lambda key, level, x: (bits(key), level, len(x)))
    run = types.SimpleNamespace(data=types.SimpleNamespace(low=-2.0, high=4.0))
    here = chains(densities=densities, run=run)
    (noised, energies, number), how = Chains._reference(here, trained, 2)
    np.testing.assert_allclose(noised, EXAMPLES + float(jax.random.uniform(fold(0))) + 7, rtol=1e-6)
    assert energies == (bits(fold(0)), 2, 5)
    assert (number, how) == (8, {"low": -2.0, "high": 4.0})


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_long_run_keeps_what_it_has_done(monkeypatch, is_kept):
    """Piece by piece; a command that was interrupted goes on from there."""
    done, record = [], np.arange(10.0)

    def go_on(state):
        if state["step"] == 8:
            raise InterruptedError
        return state | {"step": 8, "done": state["done"] + 5, "records": [record - 1, record]}

    fresh = {"step": np.int32(0), "done": np.int32(0), "records": [], "x": np.zeros(1)}
    kept = fresh | {"step": np.int32(4), "done": np.int32(6)} if is_kept else None
    run = types.SimpleNamespace(start=lambda: fresh, go_on=go_on)
    monkeypatch.setattr(mode, "make_plan", lambda settings, densities: (settings, densities))
    monkeypatch.setattr(mode, "Chains", lambda *given: done.append(given) or run)
    work = types.SimpleNamespace(
        load={"chains": kept}.get,
        **{name: lambda *given, name=name: done.append((name, *given))
           for name in ("begin", "skip", "save_state", "advance")},
    )  # fmt: skip
    densities = types.SimpleNamespace()
    method = types.SimpleNamespace(densities=lambda params: densities)
    trained = types.SimpleNamespace(run=types.SimpleNamespace(method=method), params=None)
    chosen = Settings(num_chains=8, num_steps=11)
    with pytest.raises(InterruptedError):
        mode._run(trained, chosen, work)
    asked, begun, skipped, (saved, name, state), advanced = done
    assert asked == (trained, chosen, (chosen, densities), densities)
    assert begun == ("begin", "long chains", 11)
    assert skipped == ("skip", 6 if kept else 0)
    assert (saved, name, state["done"]) == ("save_state", "chains", 11 if kept else 5)
    shown = dict(zip(long_run.Record._fields, record, strict=True))
    shown = {name: shown[name] for name in ("energy", "displacement")}
    assert advanced == ("advance", 5, shown)
    assert {type(skipped[1]), type(advanced[1])} == {int}  # of numbers that are kept as arrays
    monkeypatch.setattr(long_run, "r_hat", lambda *_: pytest.fail("at its end"))
    monkeypatch.setattr(long_run, "diagnose", lambda records, real: None)
    run.real_at = lambda level: None
    at_its_end = {"step": 11, "done": 11, "records": []}
    diverged = {"step": 4, "done": 4, "records": [record], "x": np.array([np.nan])}
    for state in (at_its_end, diverged):
        done.clear()
        work.load = {"chains": fresh | {"kept": 0, "kept_energies": 0} | state}.get
        with pytest.raises(pytest.fail.Exception, match="at its end"):
            mode._run(trained, chosen, work)
        assert [name for name, *_ in done[1:]] == ["begin", "skip"]
