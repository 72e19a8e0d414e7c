"""--mode=long_run on densities that are known, or that are none."""

import json

import gaussian_runs as exact
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from ebm_jax import samplers
from ebm_jax.diffusion import NoiseSchedule, make_schedule
from ebm_jax.evaluation.density import long_run as chains
from ebm_jax.io.pace import Pace
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.methods.recovery_likelihood.densities import gaussian_densities
from ebm_jax.methods.recovery_likelihood.transitions import gaussian_transition
from ebm_jax.runs.settings import ConfigError


def small(config, **fields):
    config.long_run.update(num_steps=200, num_chains=64)
    config.long_run.update(fields)
    return config


def result_of(path):
    return json.loads((path / "long_run/long_run.json").read_text())


def test_chains_on_the_right_density_stay_also_after_an_interrupt(tmp_path, monkeypatch, capsys):
    config = small(exact.install(monkeypatch), sampler="hmc", num_leapfrog_steps=4)
    assert exact.run_mode("long_run", config, str(tmp_path / "whole")) == 0
    said = capsys.readouterr().out
    result = result_of(tmp_path / "whole")
    assert result["diagnosis"]["word"] == "stable"
    assert "64 chains of 200 steps of hmc from data, at level 0: stable" in said
    last = result["records"][-1]
    assert [r["step"] for r in result["records"]][:13] == [*range(11), 20, 30]
    assert last["step"] == 200
    # E = |x|^2 / 2v over four values: mean 2, standard deviation sqrt(2); contrast sqrt(v)
    assert abs(last["energy"] - 2) < 4 * np.sqrt(2 / 64)
    assert abs(last["energy_std"] - np.sqrt(2)) < 0.7
    assert last["contrast"] == pytest.approx(np.sqrt(float(exact.VARIANCE[0])), rel=0.2)
    assert 0.6 < np.mean([r["acceptance"] for r in result["records"][11:]]) < 0.95
    assert last["frechet"] < 0.02
    assert result["split_r_hat"]["largest"] < 1.05
    assert result["shown_steps"] == [0, 10, 100, 200]
    grid = Image.open(tmp_path / "whole/long_run/chains.png").size
    assert grid == (10 * 50 + 2, 4 * 50 + 2)

    directory = str(tmp_path / "interrupted")
    with monkeypatch.context() as patch:
        exact.interrupt_after(patch, 14, "energy")
        with pytest.raises(SystemExit):
            exact.run_mode("long_run", config, directory)
    assert exact.run_mode("long_run", config, directory) == 0
    assert result_of(tmp_path / "interrupted") == result


def test_all_levels_from_noise_end_in_the_data(tmp_path, monkeypatch):
    """Mean and variance of x_0 after 40 steps of Langevin at each of the six levels."""
    config = small(exact.install(monkeypatch), level=-1, start="noise", num_steps=240)
    assert exact.run_mode("long_run", config, str(tmp_path)) == 0
    result = result_of(tmp_path)
    assert [r["level"] for r in result["records"] if r["step"] % 40 == 0][:3] == [5, 5, 4]
    last = result["records"][-1]
    assert last["level"] == 0
    assert last["contrast"] == pytest.approx(0.2, rel=0.25)
    assert abs(last["energy"] - 2) < 1.0
    assert result["step_sizes_by_level"] == {}


def word_by_level(result):
    return {int(level): of["diagnosis"]["word"] for level, of in result["by_level"].items()}


def test_the_conditionals_of_every_level_keep_to_real_images(tmp_path, monkeypatch, capsys):
    """Given x_{t+1} of real images, chains of the exact conditional have the law of x_t."""
    config = small(exact.install(monkeypatch), level=-1, start="pairs", num_steps=6 * 60)
    assert exact.run_mode("long_run", config, str(tmp_path)) == 0
    result = result_of(tmp_path)
    assert result["levels"] == [5, 4, 3, 2, 1, 0]
    assert word_by_level(result) == dict.fromkeys(range(6), "stable")
    ends = {r["level"]: r for r in result["records"]}
    for level, variance in enumerate(np.asarray(exact.VARIANCE)):
        assert ends[level]["step"] == 60 * (6 - level)
        assert ends[level]["contrast"] == pytest.approx(np.sqrt(variance), rel=0.2)
        assert result["by_level"][str(level)]["real_images"]["contrast"] == pytest.approx(
            np.sqrt(variance), rel=0.1
        )
    first = [r["step"] for r in result["records"] if r["level"] == 4]
    assert first == [60 + n for n in (*range(1, 11), 20, 30, 40, 50, 60)]
    assert result["shown_steps"] == [60, 120, 180, 240, 300, 360]
    assert result["split_r_hat"]["energy"] == "NaN"
    said = capsys.readouterr().out
    assert "from x_{t+1} of real images and given it, at the levels 5 to 0, 60 each:" in said
    assert "  level 3: stable; the Frechet distance over pixels went from" in said


def test_a_level_with_a_wrong_conditional_is_named(tmp_path, monkeypatch):
    """Level 2 has energies four times too low: x_2 given x_3 is twice as wide as it should be."""

    def conditional(level, x_noisy):
        right = exact.conditional(level, x_noisy)
        return lambda x: right(x) - jnp.where(level == 2, 0.9, 0.0) * exact.energy(level)(x)

    densities = exact.DENSITIES._replace(conditional=conditional)
    config = small(exact.install(monkeypatch, densities), level=-1, start="pairs", num_steps=600)
    assert exact.run_mode("long_run", config, str(tmp_path)) == 0
    words = word_by_level(result_of(tmp_path))
    assert words.pop(2) != "stable"
    assert words == dict.fromkeys((0, 1, 3, 4, 5), "stable")


def test_pairs_at_one_level(tmp_path, monkeypatch):
    """The same after an interrupt; its starts are x_{t+1}, which is wider than x_t."""
    config = small(exact.install(monkeypatch), level=1, start="pairs", num_steps=60)
    assert exact.run_mode("long_run", config, str(tmp_path / "whole")) == 0
    result = result_of(tmp_path / "whole")
    start = np.sqrt(float(exact.VARIANCE[2])) / float(exact.SCHEDULE.multiplier[1])
    assert result["records"][0]["contrast"] == pytest.approx(start, rel=0.2)
    assert result["records"][-1]["contrast"] == pytest.approx(
        float(np.sqrt(exact.VARIANCE[1])), rel=0.2
    )
    assert result["diagnosis"] == result["by_level"]["1"]["diagnosis"]
    with monkeypatch.context() as patch:
        exact.interrupt_after(patch, 5, "energy")
        with pytest.raises(SystemExit):
            exact.run_mode("long_run", config, str(tmp_path / "cut"))
    assert exact.run_mode("long_run", config, str(tmp_path / "cut")) == 0
    assert result_of(tmp_path / "cut") == result


def test_the_law_of_x_noisy():
    x = exact.DENSITIES.noised(jax.random.key(0), 1, jnp.zeros((4_000, 2, 2, 1)), jnp.arange(4_000))
    above = exact.DENSITIES.noised_further(jax.random.key(1), 1, x, jnp.arange(4_000))
    assert float(jnp.var(above)) == pytest.approx(float(exact.SIGMA_BAR[2]) ** 2, rel=0.05)
    a_bar = exact.A_BAR
    covariance = float(jnp.mean(x * above))
    expected = float(a_bar[2] / a_bar[1] * exact.SIGMA_BAR[1] ** 2)
    assert covariance == pytest.approx(expected, rel=0.05)


class ImagesWithNoise(nn.Module):
    """The exact energy of x_{t+1}, in nats."""

    schedule: NoiseSchedule
    input_shape = (2, 2, 1)

    @nn.compact
    def __call__(self, x, level):
        a_bar, sigma_bar = self.schedule.a_bar[1:][level], self.schedule.sigma_bar[1:][level]
        return jnp.sum(x**2, (1, 2, 3)) / (2 * (a_bar**2 * 0.04 + sigma_bar**2))


def densities_of_gaussian_transitions():
    schedule = make_schedule(201)
    network = ImagesWithNoise(schedule)
    transition = gaussian_transition(schedule, variance="posterior")
    return gaussian_densities(
        lambda level: lambda x: network.apply({}, x, level), schedule, transition
    )


def test_hmc_through_fine_levels_keeps_to_their_widths(tmp_path, monkeypatch, capsys):
    """From noise by one transition per level and HMC; the first two levels are ten times wider."""
    densities = densities_of_gaussian_transitions()
    config = small(exact.install(monkeypatch, densities), level=-1, start="noise", num_steps=804)
    config.long_run.sampler = "hmc"
    assert exact.run_mode("long_run", config, str(tmp_path)) == 0
    result = result_of(tmp_path)
    moved = [r for r in result["records"] if r["step"] > 0]
    assert min(r["acceptance"] for r in moved) > 0.4
    for r in moved:
        level = r["level"]
        variance = densities.a_bar[level] ** 2 * 0.04 + densities.sigma_bar[level] ** 2
        assert r["contrast"] == pytest.approx(float(np.sqrt(variance)), rel=0.3)
    sizes = result["step_sizes_by_level"]
    assert sizes["200"] > 3 * sizes["197"]
    assert [r["step"] for r in moved if r["level"] == 0] == [801, 802, 803, 804]
    assert "no split R-hat: given its x_{t+1}" in capsys.readouterr().out
    assert result["shown_steps"] == [0, 161, 322, 482, 643, 804]


def test_levels_start_at_the_transition(tmp_path, monkeypatch):
    """With a step that is always refused nothing else moves the chains, and they still arrive."""
    config = small(exact.install(monkeypatch, densities_of_gaussian_transitions()), num_steps=201)
    config.long_run.update(level=-1, start="noise", sampler="hmc", step_size=1e4)
    assert exact.run_mode("long_run", config, str(tmp_path)) == 0
    records = result_of(tmp_path)["records"]
    assert max(r["acceptance"] for r in records if r["step"] > 0) == 0
    assert records[-1]["contrast"] == pytest.approx(0.2, rel=0.15)


def densities_of(energy_fn):
    def energy_in_x(level):
        return lambda x: energy_fn(jnp.sum(x**2, (1, 2, 3)))

    def kernel(energy_fn, level):
        return samplers.langevin(energy_fn, 0.002)

    return Densities(energy_in_x, jnp.ones(1), jnp.zeros(1), BaseDistribution(), kernel)


@pytest.mark.parametrize(
    ("energy_fn", "word"),
    [
        (lambda squares: -squares, "saturated"),  # runs away, slowly enough to stay finite
        (lambda squares: -(squares**2) * 100, "diverged"),
        (lambda squares: 100 * squares, "drifting"),  # to a third of the data's width
    ],
)
def test_other_densities_are_found_out(energy_fn, word, tmp_path, monkeypatch):
    config = small(exact.install(monkeypatch, densities_of(energy_fn)))
    assert exact.run_mode("long_run", config, str(tmp_path)) == 0
    assert result_of(tmp_path)["diagnosis"]["word"] == word


def test_chains_that_settle_far_from_the_data_have_drifted():
    """Beyond 1.5 times what real images have and three deviations, though nothing moves."""
    real = chains.Reference(0.0, 1.0, 0.5, 0.0, None, frechet_floor=1.0, frechet_floor_std=0.1)
    place = {"level": 0, "energy": 0.0, "energy_std": 1.0, "grad_norm": 1.0, "displacement": 1.0}
    shape = {"acceptance": 1.0, "contrast": 0.5, "saturated": 0.0}
    for distance, word in ((1.75, "stable"), (1.85, "drifting")):
        records = [
            chains.Record(step=step, frechet=distance, **place, **shape) for step in (0, 10, 100)
        ]
        assert chains.diagnose(records, real).word == word


def test_steps_in_pieces_are_those_of_run_chain():
    """However they are cut, to the last bit."""
    kernel = samplers.hmc(lambda x: jnp.sum(x**2, 1), 0.3, 3)
    key, x = jax.random.key(0), jax.random.normal(jax.random.key(1), (8, 2))
    state, info = samplers.run_chain(key, kernel, x, 7)
    move = jax.jit(lambda *piece: chains.advance(key, kernel, *piece))
    ends = []
    for cuts in ([7], [4, 3], [1, 0, 5, 1]):
        moving, accepted, done = jax.jit(kernel.init)(x), jnp.zeros(()), 0
        for number in cuts:
            moving, accepted = move(moving, accepted, done, number)
            done += number
        np.testing.assert_allclose(moving.x, state.x, rtol=1e-5, atol=1e-6)
        assert accepted / 7 == pytest.approx(float(np.mean(info.acceptance)), rel=1e-5)
        ends.append((*jax.tree.leaves(moving), accepted))
    for other in ends[1:]:
        for a, b in zip(ends[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_pieces_take_seconds(tmp_path, monkeypatch):
    """A thousand steps a second, and a run cut everywhere else, which is the same."""
    clock = [0.0]
    pace, numbers = Pace(lambda: clock[0]), []
    while sum(numbers) < 20_000:
        numbers.append(pace.next(20_000 - sum(numbers)))
        with pace.timed(numbers[-1]):
            clock[0] += 1e-3 * numbers[-1]
    assert numbers[:5] == [1, 8, 64, 512, 2_000]
    assert max(numbers) == 2_000
    with pace.timed(0):
        clock[0] += 100
    assert pace.next(10_000) == 2_000
    with pace.timed(2_000):
        clock[0] += 2_000
    assert pace.next(10_000) == 2

    config = small(exact.install(monkeypatch), num_steps=60, num_chains=16, sampler="mala")
    assert exact.run_mode("long_run", config, str(tmp_path / "as_it_comes")) == 0
    shown = []
    monkeypatch.setattr(Pace, "next", lambda self, left: min(left, 3))
    advance = ResumableWork.advance
    monkeypatch.setattr(
        ResumableWork, "advance",
        lambda self, number, shown_metrics: shown.append(number) or advance(self, number),
    )  # fmt: skip
    assert exact.run_mode("long_run", config, str(tmp_path / "in_threes")) == 0
    assert result_of(tmp_path / "in_threes") == result_of(tmp_path / "as_it_comes")
    assert (max(shown), sum(shown)) == (3, 60)


def test_steps_at_which_a_run_stops():
    assert chains.record_steps(25) == [0, *range(1, 11), 20, 25]
    assert chains.record_steps(100)[-3:] == [80, 90, 100]
    assert chains.figure_steps(100_000) == [0, 10, 100, 1_000, 10_000, 100_000]
    assert chains.figure_steps(250) == [0, 10, 100, 250]
    draws = chains.kept_steps(100_000)
    assert (len(draws), draws[0], draws[-1]) == (50, 51_000, 100_000)
    assert chains.kept_steps(7) == [4, 5, 6, 7]


def test_levels_that_tune_their_step():
    """Six wide apart each for itself; of a thousand, those that differ."""
    assert chains.tuned_places(np.geomspace(1, 0.01, 6)) == [0, 1, 2, 3, 4, 5]
    assert chains.tuned_places(np.ones(1)) == [0]
    places = chains.tuned_places(np.append(np.ones(500), np.geomspace(1, 0.01, 500)))
    assert places[:11] == list(range(0, 501, 50))
    assert 40 < len(places) < 70
    assert chains.tuned_places(np.array([1, 1, 0.1, 0.1, 0.2])) == [0, 1, 2, 3, 4]
    assert chains.tuned_places(np.append([1, 1], np.full(200, 0.1)))[:3] == [0, 2, 13]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"sampler": "nuts"}, "long_run.sampler: expected one of langevin, mala, hmc, got 'nuts'"),
        ({"start": "zero"}, "long_run.start: expected one of data, noise, pairs, got 'zero'"),
        ({"level": 6}, "expected one of the levels 0 to 5, or -1 for all of them, got 6"),
        ({"level": -1, "num_steps": 5}, "num_steps: expected at least 6, one for each level, "),
        ({"num_steps": 0}, "long_run.num_steps: expected a whole number >= 1, got 0"),
        ({"step_size": -1.0}, r"long_run.step_size: expected a number >= 0, got -1\.0"),
        ({"step_size": float("nan")}, "long_run.step_size: expected a number >= 0, got nan"),
        ({"num_chains": 9}, "num_chains: expected a multiple of the 8 devices, such as 8, got 9"),
    ],
)
def test_bad_settings_are_one_line(fields, says, tmp_path, monkeypatch):
    config = small(exact.install(monkeypatch), **fields)
    with pytest.raises(ConfigError, match=says):
        exact.run_mode("long_run", config, str(tmp_path))


def test_pairs_of_a_model_without_conditionals_are_refused(tmp_path, monkeypatch):
    config = small(exact.install(monkeypatch, densities_of(lambda squares: squares)), start="pairs")
    says = r"long_run\.start: expected data or noise, as this model has no energies of x_t given"
    with pytest.raises(ConfigError, match=says):
        exact.run_mode("long_run", config, str(tmp_path))


def test_a_method_without_chains_asks_for_a_sampler(tmp_path, monkeypatch):
    config = small(exact.install(monkeypatch, exact.DENSITIES._replace(native_kernel=None)))
    with pytest.raises(ConfigError, match=r"expected hmc or mala, or a long_run\.step_size"):
        exact.run_mode("long_run", config, str(tmp_path))
