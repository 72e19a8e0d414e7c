"""Annealing from both sides by hand: what is asked in which order, kept, and said of it."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax.evaluation.density import annealing
from ebm_jax.evaluation.density.annealing import AdaptedTemperature, Ladder
from ebm_jax.evaluation.density.baselines import Baseline
from ebm_jax.evaluation.density.log_likelihood import Bracket, Estimate, Units
from ebm_jax.io import files
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.tasks.likelihood import ends as annealed_ends
from ebm_jax.tasks.likelihood import mode, reporting, two_directions
from ebm_jax.tasks.likelihood.reverse_starts import Starts
from ebm_jax.tasks.likelihood.settings import Settings
from ebm_jax.tasks.likelihood.two_directions import Annealed, TwoDirections

KEY = jax.random.key(7)


def fold(*numbers):
    key = KEY
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def bits(key):
    return jax.random.key_data(key).tolist()


class Work:
    """What is kept by name, and how far the bar is."""

    def __init__(self, **kept):
        self.kept, self.bar = kept, []

    def load(self, name):
        """Or None."""
        return self.kept.get(name)

    def save_state(self, name, arrays):
        """In memory."""
        self.kept[name] = {k: np.asarray(v) for k, v in arrays.items()}

    def begin(self, name, total):
        """A bar."""
        self.bar.append((name, total))

    def skip(self, amount):
        """What was done before."""
        self.bar.append(("skip", amount))

    def advance(self, amount, shown):
        """What is done."""
        self.bar.append((amount, shown))


def sample(key, index, shape):
    return jax.random.normal(key, (len(index), *shape))


LADDER = Ladder(np.array([0, 0, 1, 1]), np.arange(12.0).reshape(4, 3), np.arange(8.0).reshape(4, 2))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("first", [0, 3])
def test_log_weights_add_up_chunk_by_chunk(reverse, first):
    """Each with its key, and the first segment known as such; gone on with where it was."""
    asked = []

    def anneal(params, key, chunk, u, *, is_first):
        asked.append((params, bits(key), int(chunk.segment), chunk.betas.tolist(), is_first))
        return types.SimpleNamespace(x=u + 1, log_weights=jnp.full(8, 0.5 + chunk.segment))

    kept = {"10": {"next": np.asarray(3), "u": np.full((8, 2), 5.0), "log_weights": np.arange(8.0)}}
    works = [Work(), Work(**kept if first else {})]
    here = types.SimpleNamespace(key=KEY, params="params")
    here.forward, here.reverse = works if reverse else works[::-1]
    here.work = Work()
    u = np.zeros((8, 2), np.float32)
    log_weights, x = TwoDirections._log_weights(here, anneal, LADDER, u, 10, reverse=reverse)
    assert asked == [
        ("params", bits(fold(4 + reverse, 10, n)), n // 2, LADDER.betas[n].tolist(), n < 2)
        for n in range(first, 4)
    ]
    assert log_weights.dtype == np.float64
    np.testing.assert_allclose(log_weights, np.arange(8) + 1.5 if first else np.full(8, 4.0))
    np.testing.assert_allclose(x, np.full((8, 2), 6.0 if first else 4.0))
    assert works[0].kept == {}
    assert works[1].kept["10"]["next"] == 4
    shares = [2, 3, 3, 2]  # of 10 temperatures in 4 chunks: ends at 2.5, 5 and 7.5, to even ones
    assert works[1].bar[0] == ("skip", sum(shares[:first]))
    assert [amount for amount, _ in works[1].bar[1:]] == shares[first:]
    assert works[1].bar[-1][1] == {"log w": pytest.approx(np.mean(log_weights))}


def tune_step(rng_key, path, segment, beta, u_earlier, u, step_size, **options):
    """Halves the step, goes half of the segment on; chains are moved by one."""
    assert options == {"num_steps": 21, "num_leapfrog_steps": 2, "target_acceptance": 0.7}
    acceptance = jax.random.uniform(rng_key)
    length = jnp.mean(u - u_earlier)
    return beta + 0.5, u + 1.0, step_size / 2, acceptance, length, (segment == 1) & (beta > 0.4)


def test_temperatures_are_tuned_one_after_the_other(monkeypatch):
    """Four of two segments: 40 of the bar; the same after an interrupt."""
    monkeypatch.setattr(annealing, "tune_step", tune_step)

    def tuned(forward):
        here = types.SimpleNamespace(
            settings=Settings(
                num_chains=8, tuning_steps=21, num_leapfrog_steps=2, target_acceptance=0.7
            ),
            key=KEY, params=None, path=lambda params: None, shape=(2,), num_segments=2,
            base=types.SimpleNamespace(sample=sample), forward=forward, work=Work(),
        )  # fmt: skip
        here._share = lambda *given: TwoDirections._share(here, *given)
        return TwoDirections._tune(here, 40), here.work.bar

    forward = Work()
    found, bar = tuned(forward)
    assert [(point.segment, point.beta) for point in found] == [(0, 0.5), (0, 1), (1, 0.5), (1, 1)]
    np.testing.assert_allclose([point.step_size for point in found], 0.1 / 2 ** np.arange(1, 5))
    kinds = [type(value) for value in found[0]]
    assert kinds == [int, float, float, float, float, bool]  # as they are again from a file
    keys = [jax.random.uniform(fold(1, n)) for n in range(4)]
    np.testing.assert_allclose([point.acceptance for point in found], keys)
    starts = [np.asarray(sample(fold(1, n), range(8), (2,))) for n in (0, 1)]
    lengths = [np.mean(starts[1] - starts[0]), 1, 1, 1]
    np.testing.assert_allclose([point.length for point in found], lengths, rtol=1e-5)
    assert [point.is_stuck for point in found] == [False, False, False, True]
    assert [amount for amount, _ in bar] == [10, 10, 10, 10]
    assert [shown["beta"] for _, shown in bar] == [0.5, 1, 1.5, 2]
    assert bar[1][1]["acceptance"] == found[1].acceptance
    kept = forward.kept["tuned"]
    np.testing.assert_allclose(kept["u"], starts[1] + 4, rtol=1e-5)
    np.testing.assert_allclose(kept["u_earlier"], starts[1] + 3, rtol=1e-5)
    half = {name: kept[name][:2] for name in AdaptedTemperature._fields}
    half |= {"u": kept["u"] - 2, "u_earlier": kept["u_earlier"] - 2}
    again, bar = tuned(Work(tuned=half))
    np.testing.assert_allclose(again, found, rtol=1e-4)
    assert bar[0] == ("skip", 20)
    assert [amount for amount, _ in bar[1:]] == [10, 10]
    again, bar = tuned(Work(tuned=kept))
    assert (again, bar) == (found, [("skip", 40)])


def test_reverse_annealing_starts_at_noised_images(monkeypatch):
    """Of three images eight chains, in turn; moved with the lowest level's step."""

    def settled(key, path, x, step_size, first, number, *, num_leapfrog_steps):
        told = [step_size, first, number, num_leapfrog_steps, jax.random.uniform(key)]
        return x + jnp.stack([jnp.asarray(value, jnp.float32) for value in told])

    monkeypatch.setattr(two_directions, "settled", lambda *given: given)
    monkeypatch.setattr(annealing, "settle", settled)
    images = np.arange(6, dtype=np.float32).reshape(3, 2)
    densities = types.SimpleNamespace(
        noised=lambda key, level, x, index: (
            x + 10 * level + jax.random.uniform(key) + index[:, None]
        )
    )
    here = types.SimpleNamespace(
        settings=Settings(num_chains=8, num_leapfrog_steps=2, reverse_steps=33), key=KEY,
        path=lambda params: types.SimpleNamespace(densities=densities), params=None,
        images=images, reverse="of reverse",
    )  # fmt: skip
    work, noised, settle, num_steps, amount = TwoDirections._reverse_starts(here, 0.125, 17)
    assert (work, num_steps, amount) == ("of reverse", 33, 17)
    expected = images[[0, 1, 2, 0, 1, 2, 0, 1]] + np.arange(8)[:, None]
    np.testing.assert_allclose(noised(), expected + jax.random.uniform(fold(2, 0)), rtol=1e-6)
    told = settle(jnp.zeros((8, 5)), 4, 3)
    expected = [0.125, 4, 3, 2, float(jax.random.uniform(fold(2, 1)))]
    np.testing.assert_allclose(told, np.tile(expected, (8, 1)), rtol=1e-6)


def test_both_directions_with_each_number_of_temperatures(monkeypatch):
    """The ends are those of the most temperatures, in whichever order they are asked for."""
    monkeypatch.setattr(annealing, "allocate", lambda tuned, number, length: (number, length))
    monkeypatch.setattr(annealing, "reversed_ladder", lambda ladder: ("reversed", *ladder))
    asked = []

    def log_weights(along, ladder, u, number, *, reverse):
        asked.append((ladder, reverse, u if reverse else np.asarray(u).shape))
        return np.full(4, 2.0 * number) if reverse else np.full(4, 1.0 * number), f"u of {number}"

    def anneal(**fields):
        settings = Settings(num_chains=4, num_temperatures=(40, 20), **fields)
        here = types.SimpleNamespace(
            settings=settings, work=Work(), key=KEY, shape=(3, 2), base=BaseDistribution(0.5, 2.0),
            _tune=lambda amount: [AdaptedTemperature(0, 1.0, 0.25, amount, 1.0)],
            _reverse_starts=lambda step, amount: Starts((step, amount), None),
            _log_weights=log_weights, _roughness=lambda x: 0.75,
            _ends=lambda u, log_weights: (u, log_weights.tolist()),
        )  # fmt: skip
        return TwoDirections.anneal(here), here.work.bar

    found, bar = anneal()
    assert bar == [("annealing", 120 + 24 + 24)]
    assert found.tuned[0].acceptance == 24
    assert (found.starts.x, found.roughness) == ((0.25, 24), 0.75)
    assert found.ends == ("u of 40", [40.0] * 4)
    assert asked == [
        ((40, 10), False, (4, 3, 2)), (("reversed", 40, 10), True, (0.25, 24)),
        ((20, 10), False, (4, 3, 2)), (("reversed", 20, 10), True, (0.25, 24)),
    ]  # fmt: skip
    log_z = BaseDistribution(0.5, 2.0).log_z(6)
    for bracket, number in zip(found.brackets, (40, 20), strict=True):
        assert bracket.num_temperatures == number
        assert bracket.forward.log_z == pytest.approx(log_z + number)
        assert bracket.reverse.log_z == pytest.approx(log_z - 2 * number)
    none, bar = anneal(reverse_steps=0)
    assert bar == [("annealing", 120 + 24)]
    assert none.starts.x == (0.25, 0)


def test_what_is_said_of_annealing(monkeypatch):
    """Held-out examples at the noise of level 0 stand beside its ends."""
    densities = Densities(
        None, jnp.array([0.5, 0.25]), jnp.array([0.75, 0.875]), BaseDistribution()
    )
    run = types.SimpleNamespace(method=types.SimpleNamespace(densities=lambda params: densities))
    trained = types.SimpleNamespace(run=run, params=None)
    bracket = Bracket(10, Estimate(0.0, 0.1, 50.0), Estimate(0.25, 0.1, 50.0))
    tuned = [
        AdaptedTemperature(0, 1.0, 0.1, 0.7, 1.0),
        AdaptedTemperature(2, 0.12345, 0.1, 0.7, 1.0, is_stuck=True),
    ]
    rough = Bracket(5, Estimate(30.0, 0.1, 50.0), Estimate(-40.0, 0.1, 50.0))
    annealed = Annealed([rough, bracket], tuned, Starts(None, None), 0.125, "ends")
    monkeypatch.setattr(
        mode, "TwoDirections", lambda *given: types.SimpleNamespace(anneal=lambda: annealed)
    )
    asked = []
    found = annealed_ends.Found(1.0, 2.0, 0.25, 0.5, 0.75, None)
    monkeypatch.setattr(
        annealed_ends, "where", lambda *given: asked.append(given) or (found, {"annealed": "p"})
    )
    monkeypatch.setattr(reporting, "figure", lambda *given: "f")
    held_out = np.ones((3, 2), np.float32)
    energies = {"training": np.array([1.0, 3.0]), "held out": np.array([2.0, 4.0, 9.0])}
    fitted = [Baseline(1, {"held out": np.array([-8.0, -9.0, -13.0])})]
    measured = mode.Measured({"training": held_out[:2], "held out": held_out}, KEY, energies,
                             fitted, Units(2, 0.0))  # fmt: skip
    settings = Settings(num_leapfrog_steps=5, reverse_steps=0)
    part = mode._annealed(trained, settings, None, measured, (1, 0))
    ((where_run, ends, of_held_out, noisy, a_bar),) = asked
    assert (where_run, ends, a_bar) == (run, "ends", 0.5)
    assert of_held_out is energies["held out"]
    np.testing.assert_array_equal(noisy, densities.noised(KEY, 0, jnp.ones((3, 2)), jnp.arange(3)))
    assert part.figures == {"likelihood": "f", "annealed": "p"}
    assert part.metrics["sampler"] == "HMC, 5 leapfrog steps, one move per temperature"
    assert part.metrics["levels_passed"] == (1, 0)
    assert [row["num_temperatures"] for row in part.metrics["log_z"]] == [5, 10]
    assert part.metrics["splits"]["training"]["energy"]["mean"] == 2.0
    assert part.metrics["reverse_starts"]["num_steps"] == 0
    assert part.metrics["annealed"]["heaviest"] == 0.75
    (margin,) = part.metrics["more_nats_held_out_than_baselines"]
    assert margin["upper"] == pytest.approx(5.0)  # energies of 5 in the mean, log p of -10
    assert part.metrics["tuned"][1]["beta"] == 0.12345
    assert part.metrics["warm_up_left_stuck"] == ["2.123"]
    assert part.metrics["roughness"]["nats"] == 0.125
    assert part.meaning[1].endswith("Its starts are training examples: as far as these are not "
                                    "the model's own, it bounds nothing.")  # fmt: skip
    assert part.meaning[-1].startswith("held out, this model beats one Gaussian (+4.75 ")
    (warning,) = part.warnings
    assert warning.endswith("hardly move at 1 tuned temperatures (2.123)")
    bare = mode._annealed(trained, settings, None, measured._replace(fitted=[]), (1, 0))
    assert list(bare.meaning) == list(part.meaning[:-1])
    annealed.brackets[-1] = bracket._replace(reverse=Estimate(-5.0, 0.1, 50.0))
    inverted = mode._annealed(trained, settings, None, measured, (1, 0))
    assert "Reverse lies 5.0 nats below forward" in inverted.meaning[3]


def test_levels_that_annealing_passes():
    densities = types.SimpleNamespace(sigma_bar=jnp.array([0.1, 0.2, 0.4, 0.8]))

    def levels(**fields):
        return mode._levels(densities, Settings(**{"num_chains": 8} | fields))

    assert levels() == (3, 2, 1, 0)
    assert levels(max_levels=2) == (3, 0)
    assert levels(num_temperatures=(), num_chains=9) == ()
    assert levels(num_temperatures=(4, 9)) == (3, 2, 1, 0)
    with pytest.raises(ValueError, match=r"^likelihood\.num_temperatures: .*at least 4, .* got 3$"):
        levels(num_temperatures=(9, 3, 7))
    with pytest.raises(ValueError, match=r"^likelihood\.num_chains: expected a multiple of the 8 "):
        levels(num_chains=9)


def test_a_claim_is_of_the_lowest_level():
    energies = {"training": np.array([1.0, 3.0], np.float32), "held out": np.array([5.0])}
    measured = mode.Measured({}, KEY, energies, [], Units(2, 0.0))
    densities = types.SimpleNamespace(log_z=jnp.array([0.5, 7.0]))
    part = mode._claim(densities, measured)
    assert part.metrics["claimed"]["log_likelihood_nats"] == {"training": -2.5, "held out": -5.5}
    assert len(part.lines) == 1
    densities.log_z = None
    assert mode._claim(densities, measured) == mode.Part(metrics={"claimed": None})


def test_ends_are_at_their_energies():
    """Reflected at the walls; energies of level 0."""
    densities = types.SimpleNamespace(
        base=types.SimpleNamespace(reflect=lambda u: jnp.where(u > 1, 2 - u, u)),
        energy=lambda level: lambda x: jnp.sum(x, 1) + 1e6 * level,  # rough but at level 0
    )
    here = types.SimpleNamespace(
        params=None, base=densities.base,
        path=lambda params: types.SimpleNamespace(densities=densities),
    )  # fmt: skip
    u = np.tile(np.array([[1.25, 0.5]], np.float32), (8, 1))
    found = TwoDirections._ends(here, u, "weights")
    np.testing.assert_allclose(found.x, np.tile([[0.75, 0.5]], (8, 1)))
    np.testing.assert_allclose(found.energies, np.full(8, 1.25))
    assert (found.energies.dtype, found.log_weights) == (np.float64, "weights")
    assert 0 <= TwoDirections._roughness(here, u) < 1e-3


def test_what_is_kept_depends_on():
    """Forward annealing on no image and no step before reverse annealing."""
    densities = types.SimpleNamespace(base="base")
    run = types.SimpleNamespace(
        method=types.SimpleNamespace(densities=lambda params: densities), key=lambda name: name,
        dataset=types.SimpleNamespace(example_shape=(2, 3, 1)),
    )  # fmt: skip
    trained = types.SimpleNamespace(run=run, params={}, fingerprint=lambda **values: values)
    work = types.SimpleNamespace(piece=lambda *given, keep: (*given, keep))
    fields = {
        "num_chains": 24, "num_leapfrog_steps": 5, "target_acceptance": 0.625, "tuning_steps": 41,
    }  # fmt: skip
    images = np.arange(6.0)
    settings = Settings(**fields, reverse_steps=17, num_images=9, num_temperatures=(7,))
    found = TwoDirections(trained, settings, work, (2, 0), images)
    assert found.forward == ("forward", {"levels": (2, 0), **fields}, True)
    name, depends_on, keep = found.reverse
    assert depends_on.pop("images_sha256") != files.arrays_sha256(images + 1)
    assert (name, keep) == ("reverse", True)
    assert depends_on == {"levels": (2, 0), **fields, "reverse_steps": 17}
    assert (found.num_segments, found.key, found.base) == (2, "likelihood", "base")
