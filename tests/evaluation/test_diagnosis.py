"""The bounds of the diagnosis of long chains, each from both sides."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebm_jax import samplers
from ebm_jax.evaluation.density import long_run

REAL = long_run.Reference(10.0, 2.0, 0.5, 0.1, None, frechet_floor=1.0, frechet_floor_std=0.1)
RECORD = long_run.Record(
    step=0, level=0, energy=10.0, energy_std=2.0, grad_norm=1.0, displacement=1.0, acceptance=1.0,
    contrast=0.5, saturated=0.1, frechet=1.0,
)  # fmt: skip


def word(**last):
    """Of a run whose last step differs so from one that is stable."""
    records = [RECORD._replace(step=step) for step in (0, 1, 10, 50)]
    return long_run.diagnose([*records, RECORD._replace(step=100, **last)], REAL).word


@pytest.mark.parametrize(
    ("field", "within", "beyond", "said"),
    [
        ("contrast", 0.5 * 1.24, 0.5 * 1.26, "saturated"),
        ("contrast", 0.5 * 0.76, 0.5 * 0.74, "drifting"),
        ("saturated", 0.1 + 0.19, 0.1 + 0.21, "saturated"),
        ("energy", 10 + 1.9, 10 + 2.1, "drifting"),  # since a tenth, in deviations of 2
        ("energy", 10 - 1.9, 10 - 2.1, "drifting"),
        ("frechet", 1.79, 1.81, "drifting"),
        ("energy", 10.0, np.nan, "diverged"),
        ("grad_norm", 1e9, np.inf, "diverged"),
        ("displacement", 1e9, np.inf, "diverged"),
    ],
)
def test_bounds(field, within, beyond, said):
    assert word(**{field: within}) == "stable"
    assert word(**{field: beyond}) == said


def test_reasons_name_what_was_measured():
    records = [RECORD._replace(step=step) for step in (0, 10, 100)]
    last = RECORD._replace(step=100, energy=13.0, contrast=0.6, saturated=0.15, frechet=1.5)
    moved, away, values, displaced, frechet = long_run.diagnose([*records, last], REAL).reasons
    assert "from step 10 to 100" in moved
    assert "+1.50 standard" in moved
    assert "from 10 to 13 nats" in moved
    assert "+1.50 standard" in away
    assert "1.200 times" in values
    assert "+5.0% more" in values
    assert "1 model units" in displaced
    assert "from 1 to 1.5" in frechet
    assert "1 ± 0.1" in frechet
    unknown = RECORD._replace(step=10, frechet=np.nan)
    for some in ([unknown, last], [records[1], last._replace(frechet=np.nan)]):
        assert len(long_run.diagnose([records[0], *some], REAL).reasons) == 4


@pytest.mark.parametrize(("away", "said"), [(2.9, "stable"), (3.1, "drifting"), (-3.1, "drifting")])
def test_far_from_real_images_from_the_start(away, said):
    """Nothing moves, and energies are that many deviations of real ones away."""
    records = [RECORD._replace(step=step, energy=10 + 2 * away) for step in (0, 10, 100)]
    assert long_run.diagnose(records, REAL).word == said


def test_the_first_tenth_and_other_levels_do_not_count():
    other = [RECORD._replace(step=step, level=1, energy=500.0) for step in (0, 100)]
    here = [RECORD._replace(step=100 + step) for step in (0, 10, 50, 100)]
    early = here[0]._replace(energy=400.0)
    assert long_run.diagnose([*other, early, *here[1:]], REAL).word == "stable"
    late = [*here[:1], here[1]._replace(energy=400.0), *here[2:]]
    assert long_run.diagnose([*other, *late], REAL).word == "drifting"


def test_saturated_values_are_within_a_hundredth_of_the_ends():
    x = np.array([-1.5, -1.0, -0.981, -0.979, 0.0, 0.979, 0.981, 1.0, 3.0, 0.5])
    assert long_run.saturated_share(x, -1, 1) == pytest.approx(0.6)
    assert long_run.saturated_share(x, -2, 4) == 0


def test_the_reference_is_of_other_images_than_its_floor():
    x = np.random.default_rng(0).normal(size=(60, 2, 2, 1))
    energies = np.arange(60.0)
    found, reason = long_run.reference(x, energies, 20, low=-1, high=1)
    assert reason is None
    assert found.energy == 29.5
    assert found.energy_std == pytest.approx(np.std(energies, ddof=1))
    assert found.contrast == pytest.approx(np.std(x))
    assert found.fit.num_examples == 40
    # Of C = I in d = 4, with v = 1/20 + 1/40: d v of the means, d (d + 1) v / 4 of covariances
    assert found.frechet_floor == pytest.approx(4 * 0.075 + 4 * 5 * 0.075 / 4, rel=0.3)
    assert 0.05 < found.frechet_floor_std / found.frechet_floor < 0.8
    few, reason = long_run.reference(x[:24], energies[:24], 20, low=-1, high=1)  # four of d = 4
    assert few.fit is None
    assert reason.startswith("4 examples leave the covariance of 4 features singular")
    assert np.isnan(few.frechet_floor)
    rng = np.random.default_rng(0)
    floors = []
    for _ in range(20):  # all images in a random order, the first as many as there are chains
        fits = [
            long_run.frechet.fit_gaussian(part) for part in np.split(x[rng.permutation(60)], [20])
        ]
        floors.append(long_run.frechet.frechet_distance(*fits))
    assert found.frechet_floor == pytest.approx(np.mean(floors))
    assert found.frechet_floor_std == pytest.approx(np.std(floors, ddof=1))
    found, reason = long_run.reference(x[:25], energies[:25], 20, low=-1, high=1)
    assert (found.fit.num_examples, reason) == (5, None)


def test_a_record_of_chains():
    start = np.zeros((2, 2, 2, 1))
    start[0] = 0.25
    x = np.stack([np.full((2, 2, 1), 1.0), np.full((2, 2, 1), -0.5)])
    grad = np.stack([np.full((2, 2, 1), 3.0), np.full((2, 2, 1), 1.0)])
    found = long_run.record(
        5, 1, x, start, np.array([1.0, 3.0]), grad, 0.7, REAL, low=-1, high=1
    )  # fmt: skip
    assert found[:4] == (5, 1, 2.0, 1.0)
    assert found.grad_norm == pytest.approx(4.0)  # 6 and 2
    assert found.displacement == pytest.approx(1.25)  # 1.5 and 1
    assert found.acceptance == 0.7
    assert found.contrast == pytest.approx(0.75)
    assert found.saturated == 0.5
    assert np.isnan(found.frechet)


@pytest.mark.parametrize(
    ("last", "real"),
    [
        ({"frechet": 1.5 * 1.0 + 3 * 0.1}, {}),
        ({"contrast": 0.625}, {}),
        ({"contrast": 0.375}, {}),
        ({"saturated": 0.2}, {"saturated": 0.0}),
        ({"energy": 12.0}, {}),
        ({"energy": 8.0}, {}),
        ({"energy": 16.0, "energy_std": 2.0}, {"energy": 16.0 + 6.0}),
    ],
)
def test_at_the_bounds_chains_are_stable(last, real):
    """At 1.5 floors and three deviations, 1.25 and .75 of the contrast, one deviation, three."""
    begin = last["energy"] if "energy" in real else RECORD.energy
    records = [RECORD._replace(step=step, energy=begin) for step in (0, 10)]
    found = long_run.diagnose([*records, RECORD._replace(step=100, **last)], REAL._replace(**real))
    assert found.word == "stable"


def test_without_spread_the_smallest_change_is_a_drift():
    """The spread is then a millionth of the energy; nothing is divided by 0."""
    still = RECORD._replace(energy_std=0.0)
    for energy, said in ((10 + 0.9e-5, "stable"), (10 + 1.1e-5, "drifting")):
        records = [still._replace(step=0), still._replace(step=10)]
        records.append(still._replace(step=100, energy=energy))
        assert long_run.diagnose(records, REAL).word == said
    none = [RECORD._replace(step=step, energy=0.0, energy_std=0.0, contrast=0.0) for step in (0, 9)]
    real = REAL._replace(energy=0.0, energy_std=0.0, contrast=0.0)
    found = long_run.diagnose(none, real)
    assert found.word == "drifting"  # its contrast is none of theirs
    assert "moved by +0.00" in found.reasons[0]
    begin, last = none[0], none[1]
    for changed, said in (
        ({"energy": 1.5e-12}, "moved by +1.50 "),
        ({"energy": -3e-12}, "it is -3.00 "),
        ({"contrast": 0.8e-12}, "is 0.800 times"),
    ):
        found = long_run.diagnose([begin, begin._replace(step=1), last._replace(**changed)], real)
        assert any(said in reason for reason in found.reasons)


def test_the_ends_of_a_range_are_a_hundredth_of_it():
    """Of a range of 6: .06 from each end, and the bound itself counts."""
    x = np.array([-1.95, -1.9, 3.95, 3.9])
    assert long_run.saturated_share(x, -2, 4) == 0.5
    assert long_run.saturated_share(np.array([1.0, 99.0, 2.0, 98.0]), 0, 100) == 0.5


def test_steps_that_are_recorded_shown_and_kept():
    assert long_run.record_steps(1) == [0, 1]
    assert long_run.record_steps(10) == [*range(11)]
    assert long_run.record_steps(25) == [*range(11), 20, 25]
    assert long_run.record_steps(200) == [*range(11), *range(20, 101, 10), 200]
    assert long_run.figure_steps(5) == [0, 5]
    assert long_run.figure_steps(10) == [0, 10]
    assert long_run.figure_steps(11) == [0, 10, 11]
    assert long_run.figure_steps(1_000) == [0, 10, 100, 1_000]
    assert long_run.kept_steps(10) == [6, 7, 8, 9, 10]
    assert long_run.kept_steps(400) == [*range(204, 401, 4)]
    assert long_run.kept_steps(101) == [*range(52, 102)]


def test_places_where_steps_are_tuned_anew():
    """A tenth apart in width, either way, or a twentieth of all levels away."""
    assert long_run.tuned_places(np.array([1.0])) == [0]
    assert long_run.tuned_places(np.ones(100)) == [*range(0, 100, 5)]
    assert long_run.tuned_places(np.ones(84)) == [*range(0, 84, 5)]  # a twentieth is 4.2
    some = np.concatenate([[1.0, 0.92, 0.9], np.full(97, 0.9)])
    assert long_run.tuned_places(some)[:3] == [0, 2, 7]
    grown = np.concatenate([[1.0, 1.09, 1.12], np.full(97, 1.12)])
    assert long_run.tuned_places(grown)[:3] == [0, 2, 7]
    assert long_run.tuned_places(np.concatenate([[1.0], np.zeros(9)])) == [*range(10)]


def test_r_hat_needs_four_draws():
    """Chains that agree: about 1; chains apart by much more than they move: 1.5 and more."""
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(40, 6, 3))
    draws[:, :3, 2] += 10
    found = long_run.r_hat(draws, draws[..., 2])
    assert found["energy"] > 1.5
    assert found["largest"] == pytest.approx(found["energy"])
    assert found["median_of_values"] < 1.2
    assert all(np.isnan(value) for value in long_run.r_hat(draws[:3], draws[:3, :, 0]).values())
    assert all(np.isfinite(v) for v in long_run.r_hat(draws[:4], draws[:4, :, 0]).values())


@pytest.mark.filterwarnings("error")
def test_chains_that_are_nowhere_have_no_distance():
    real = REAL._replace(fit=long_run.frechet.fit_gaussian(np.random.default_rng(0).normal(
        size=(40, 2, 2, 1)
    )))  # fmt: skip
    x = np.random.default_rng(1).normal(size=(20, 2, 2, 1))

    def distance(x):
        zeros = np.zeros_like(x)
        return long_run.record(
            0, 0, x, zeros, np.zeros(len(x)), zeros, 1.0, real, low=-1, high=1
        ).frechet

    expected = long_run.frechet.frechet_distance(long_run.frechet.fit_gaussian(x), real.fit)
    assert distance(x) == pytest.approx(expected)
    x[0, 0, 0, 0] = np.inf
    assert np.isnan(distance(x))


def normal(x):
    return jnp.sum(x**2 / jnp.array([1.0, 4.0]), 1) / 2


@pytest.mark.parametrize("name", long_run.SAMPLERS)
def test_samplers_by_name_and_their_steps(name):
    """Steps 2, 3 and 4 one by one, and the mean acceptance of each added up."""
    kernel = long_run.make_kernel(name, 3)(normal, jnp.float32(0.9))
    expected = {
        "langevin": samplers.langevin(normal, 0.9),
        "mala": samplers.mala(normal, 0.9),
        "hmc": samplers.hmc(normal, 0.9, 3),
    }[name]
    key, x = jax.random.key(0), jnp.array([[3.0, -1.0], [0.5, 2.0], [0.0, 0.1]])
    advance = jax.jit(lambda state, *rest: long_run.advance(key, kernel, state, *rest))
    found, accepted = advance(kernel.init(x), 0.25, 2, 3)
    state, total = expected.init(x), 0.25
    for n in (2, 3, 4):
        state, info = jax.jit(expected.step)(samplers.random.fold_in(key, n), state)
        total += float(np.mean(info.acceptance))
    np.testing.assert_allclose(found.x, state.x, rtol=1e-5)
    assert float(accepted) == pytest.approx(total, rel=1e-5)


def test_a_sampler_of_another_name_is_refused():
    said = "^sampler: expected one of langevin, mala, hmc, got 'nuts'$"
    with pytest.raises(ValueError, match=said):
        long_run.make_kernel("nuts", 3)


def test_steps_are_tuned_from_the_one_before(monkeypatch):
    """In 50 steps and without a mass, which the chains after it have not either."""
    asked = {}

    def warmup(rng_key, make, x, num_steps, **options):
        asked.update(options, x=x, num_steps=num_steps, kernel=make("step", "mass"))
        return types.SimpleNamespace(step_size="found", is_stuck="stuck")

    monkeypatch.setattr(samplers, "warmup", warmup)
    found = long_run.tuned_step(None, lambda *given: given, normal, "x", 0.3)
    assert found == ("found", "stuck")
    assert asked == {
        "initial_step_size": 0.3, "target_acceptance": 0.75, "adapt_mass": False, "x": "x",
        "num_steps": 50, "kernel": (normal, "step"),
    }  # fmt: skip


def test_a_tuned_step_is_accepted_three_times_of_four():
    """Of MALA on a narrow law, from a first step that is about right for it."""
    scale = 1e-4
    energy_fn = lambda x: normal(x / scale)  # noqa: E731
    make = long_run.make_kernel("mala", 1)
    x = scale * jnp.array([1.0, 2.0]) * jax.random.normal(jax.random.key(1), (500, 2))

    @jax.jit
    def accepted(x):
        step, is_stuck = long_run.tuned_step(jax.random.key(2), make, energy_fn, x, scale**2)
        kernel = make(energy_fn, step)
        _, total = long_run.advance(jax.random.key(3), kernel, kernel.init(x), 0.0, 0, 20)
        return total / 20, is_stuck

    acceptance, is_stuck = accepted(x)
    assert acceptance == pytest.approx(0.75, abs=0.03)
    assert not is_stuck
