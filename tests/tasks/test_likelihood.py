"""--mode=likelihood on densities that are known: its metrics, and going on after an interrupt."""

import json

import gaussian_runs as exact
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ebm_jax.evaluation.density import annealing
from ebm_jax.methods.probability_flow import ProbabilityFlow
from ebm_jax.runs.settings import ConfigError
from ebm_jax.tasks.likelihood import ends as annealed_ends
from ebm_jax.tasks.likelihood import through_flow, two_directions

TRUTH = 2 * np.log(2 * np.pi * float(exact.VARIANCE[0]))  # log Z at the lowest level


def small(config):
    # Reverse weights have heavy tails: of four seeds two are three of their own errors off.
    config.sampling.seed = 1
    config.likelihood.update(
        num_temperatures=(30, 120), num_chains=64, tuning_steps=20, num_images=100, reverse_steps=5,
        num_conditional_images=40, num_conditional_temperatures=20,
    )  # fmt: skip
    return config


def test_metrics_are_those_of_the_density_also_after_an_interrupt(tmp_path, monkeypatch, capsys):
    config = small(exact.install(monkeypatch))
    assert exact.run_mode("likelihood", config, str(tmp_path / "whole")) == 0
    said, shown = capsys.readouterr()
    assert "annealing: 420/420 " in shown  # 150 both ways, a fifth for tuning, one for settling
    result = json.loads((tmp_path / "whole/likelihood/likelihood.json").read_text())
    assert [row["num_temperatures"] for row in result["log_z"]] == [30, 120]
    for way in ("forward", "reverse"):
        found = result["log_z"][-1][way]
        assert found["standard_error"] < 0.6  # 64 chains; closer in test_annealing
        assert abs(found["log_z"] - TRUTH) < 3 * found["standard_error"]
    for name in ("training", "held out"):
        split = result["splits"][name]
        # x_0 of these images has the variance of the model but for rounding to pixel intensities
        assert abs(split["energy"]["mean"] - 2) < 4 * split["energy"]["standard_error"]
        nats = split["log_likelihood_nats"]
        assert nats["upper"] == pytest.approx(
            -split["energy"]["mean"] - result["log_z"][-1]["forward"]["log_z"]
        )
        bits = -nats["lower"] / (4 * np.log(2)) + np.log2(127.5)
        assert split["bits_per_dim"]["upper"] == pytest.approx(bits)
        assert f"{bits:.3f} bits/dim" in said
    assert "upper bounds, and bits/dim lower bounds" in said
    check_beside(result, said)
    ends = result["annealed"]
    assert abs(ends["mean_energy"] - 2) < 1  # of 64 chains, weighted
    assert ends["below"] + ends["above"] < 0.3
    assert not ends["is_spurious"]
    assert 0.7 < ends["distance_over_data"] < 1.4
    assert "forward annealing ends at a mean energy of" in said
    assert Image.open(tmp_path / "whole/likelihood/annealed.png").size[0] > 200
    assert "Gaussian noise of 0.01 model units" in result["statement"][0]
    assert result["measured_on"]["checkpoint_step"] == 7
    assert result["levels_passed"] == [5, 4, 3, 2, 1, 0]
    assert Image.open(tmp_path / "whole/likelihood/likelihood.png").size[0] > 600

    directory = str(tmp_path / "interrupted")
    with monkeypatch.context() as patch:
        exact.interrupt_after(patch, 9, "log w")  # six segments forward, six in reverse
        with pytest.raises(SystemExit):
            exact.run_mode("likelihood", config, directory)
    assert exact.run_mode("likelihood", config, directory) == 0
    again = json.loads((tmp_path / "interrupted/likelihood/likelihood.json").read_text())
    assert again == result
    kept = {path.name for path in (tmp_path / "interrupted/likelihood/partial").iterdir()}
    assert kept == {"forward", "reverse", "baselines", "conditionals"}

    def fail(*_, **__):
        raise AssertionError("annealed again")

    with monkeypatch.context() as patch:  # once more, where nothing is left to do
        patch.setattr(two_directions.annealing, "anneal", fail)
        patch.setattr(two_directions.annealing, "tune_step", fail)
        assert exact.run_mode("likelihood", config, directory) == 0
    again = json.loads((tmp_path / "interrupted/likelihood/likelihood.json").read_text())
    assert again == result


def test_what_is_kept_of_other_data_is_not_taken(tmp_path, monkeypatch):
    """As in a folder that has changed: all as where nothing is kept, and forward annealing is."""
    plain, anneal, knows_it_is_first = exact.images, annealing.anneal, []

    def annealed(key, path, chunk, *given, **options):
        knows_it_is_first.append(isinstance(chunk.segment, int))
        return anneal(key, path, chunk, *given, **options)

    monkeypatch.setattr(annealing, "anneal", annealed)

    def found(folder):
        config = exact.small_config(exact.install(monkeypatch))
        assert exact.run_mode("likelihood", config, tmp_path / folder) == 0
        return json.loads((tmp_path / folder / "likelihood/likelihood.json").read_text())

    before = found("kept")
    # In the first segment a network whose energy has no weight yet is not evaluated.
    assert knows_it_is_first[0]
    assert not all(knows_it_is_first)
    monkeypatch.setattr(
        exact, "images", lambda split: plain(split)._replace(images=plain(split).images // 2)
    )
    after = found("kept")
    assert after == found("anew")
    ((first,), (second,)) = before["log_z"], after["log_z"]
    assert first["forward"] == second["forward"]
    assert first["reverse"] != second["reverse"]
    for name in ("splits", "through_conditionals", "baselines"):
        assert before[name] != after[name]


def test_without_annealing_the_samplers_own_likelihood_is_left(tmp_path, monkeypatch, capsys):
    """Of a flow whose law at level 0 is exact; resumed from what is kept."""
    shrunk = float(exact.A_BAR[0]) ** 2 * 0.04  # the variance of a_bar x

    def energy(y, t):
        squares = jnp.sum(y**2, (1, 2, 3)) / (shrunk + t)
        return 0.5 * (squares + 4 * jnp.log(2 * np.pi * (shrunk + t)))

    flow = ProbabilityFlow(
        lambda log_t: lambda y: energy(y, jnp.exp(log_t)),
        lambda y: energy(y, 9.0),
        jnp.linspace(np.log(9.0), 2 * np.log(float(exact.SIGMA_BAR[0])), 200),
    )
    densities = exact.DENSITIES._replace(flow=flow, conditional=None, num_conditionals=0)
    config = small(exact.install(monkeypatch, densities))
    config.likelihood.update(num_temperatures=(), num_chains=12, num_flow_images=40)  # of 8 devices
    steps, usual = [], through_flow.flow_log_density

    def spied(rng_key, flow, y, index):
        steps.append(len(flow.log_t) - 1)
        return usual(rng_key, flow, y, index)

    monkeypatch.setattr(through_flow, "flow_log_density", spied)
    assert exact.run_mode("likelihood", config, str(tmp_path)) == 0
    assert set(steps) == {199, 99}
    said = capsys.readouterr().out
    folder = tmp_path / "likelihood"
    result = json.loads((folder / "likelihood.json").read_text())
    assert {path.name for path in folder.iterdir()} == {"likelihood.json", "flow.png", "partial"}
    assert Image.open(folder / "flow.png").size[0] > 600
    assert result["measured_on"]["num_samples"] == 100
    assert result["through_conditionals"] == {}
    assert "log_z" not in result
    for name in ("training", "held out"):
        split = result["through_flow"]["splits"][name]
        assert split["num_images"] == 40
        # By the law of exp(-energy) / Z, for images that have it but for rounding.
        assert abs(split["log_likelihood_nats"] + 2 + TRUTH) < 4 * split["standard_error"]
        assert split["with_half_the_steps_nats"] == pytest.approx(
            split["log_likelihood_nats"], abs=0.05
        )
    gaussian, _ = result["through_flow"]["more_nats_held_out_than_baselines"]
    assert abs(gaussian["mean"]) < 0.5  # which is of the same family
    assert "through the flow, held out, 40 images: " in said
    assert " Held out, on the same 40 images, it " in said

    def fail(*_, **__):
        raise AssertionError("carried again")

    monkeypatch.setattr(through_flow, "flow_log_density", fail)
    assert exact.run_mode("likelihood", config, str(tmp_path)) == 0
    assert json.loads((folder / "likelihood.json").read_text()) == result


def test_a_claim_and_a_grid_of_the_plane(tmp_path, monkeypatch, capsys):
    """The method's own log Z, here half a nat too large, and an integral over the box beside it."""
    images = exact.images

    def points(split):  # the same values, two to a point, in model units
        values = images(split).images.reshape(-1, 2) / np.float32(127.5) - 1
        return images(split)._replace(
            images=values, labels=np.zeros(len(values), np.int32), value_range=(-1.0, 1.0)
        )

    monkeypatch.setattr(exact, "images", points)
    densities = exact.DENSITIES._replace(
        log_z=jnp.log(2 * np.pi * exact.VARIANCE) + 0.5, conditional=None, num_conditionals=0
    )
    config = exact.install(monkeypatch, densities)
    config.data.low, config.data.high = -1.0, 1.0
    config.data.split, config.held_out_split = "others", "validation"
    config.likelihood.update(num_temperatures=(), num_images=200)
    assert exact.run_mode("likelihood", config, str(tmp_path)) == 0
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "likelihood/likelihood.json").read_text())
    assert result["log_z_on_grid"] == pytest.approx(TRUTH / 2, abs=1e-3)
    assert result["splits_are"] == {"training": "others", "held out": "validation"}
    assert f"by a grid, log Z is {result['log_z_on_grid']:.4f}" in said
    claimed = result["claimed"]
    assert claimed["log_z"] == pytest.approx(TRUTH / 2 + 0.5)
    for name in ("training", "held out"):  # mean energy 1, of 200 points
        assert claimed["log_likelihood_nats"][name] == pytest.approx(-1 - TRUTH / 2 - 0.5, abs=0.3)
    assert f"the model claims a log Z of {claimed['log_z']:.2f}" in said


def check_beside(result, said):
    """The sampler's own likelihood, exact here, and the Gaussians, of which this model is one."""
    truth = -2 - TRUTH  # E log p(x_0) of four values
    for name in ("training", "held out"):
        through = result["through_conditionals"][name]
        nats = through["log_likelihood_nats"]
        assert through["num_images"] == 40
        assert nats["lower"] < truth + 4 * nats["standard_error_lower"]
        assert nats["upper"] > truth - 4 * nats["standard_error_upper"]
        assert -0.5 < nats["upper"] - nats["lower"] < 3  # of six log Z, 20 temperatures each
        assert len(through["widths_of_log_z_by_level"]) == 6
        bits = -nats["upper"] / (4 * np.log(2)) + np.log2(127.5)
        assert through["bits_per_dim"]["lower"] == pytest.approx(bits)
    gaussian, mixture = result["baselines"]
    assert gaussian["num_components"] == 1
    assert mixture["num_components"] in (2, 5, 10, 20)
    held_out = gaussian["splits"]["held out"]
    assert abs(held_out["log_likelihood_nats"] - truth) < 4 * held_out["standard_error"]
    assert "one Gaussian, exact: training" in said
    assert "held out, this model cannot, by this bracket and its errors, be told from one" in said
    assert result["claimed"] is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_components": (2, 97)}, "num_components: expected at most 96, the images .* got 97"),
        ({"num_conditional_images": -1}, "num_conditional_images: expected a whole number >= 0"),
        ({"num_chains": 12}, "num_chains: expected a multiple of the 8 devices, such as 16, "),
        ({"num_temperatures": (4,)}, "num_temperatures: expected at least 6, .* got 4"),
        ({"max_levels": 0}, "likelihood.max_levels: expected a whole number >= 1, got 0"),
        ({"tuning_steps": 5}, "tuning_steps: expected a whole number >= 20, got 5"),
        ({"reverse_steps": -1}, "reverse_steps: expected a whole number >= 0, got -1"),
        ({"target_acceptance": 1.0}, "expected a number > 0 and < 1, got 1.0"),
        ({"num_images": 0}, "likelihood.num_images: expected a whole number >= 1, got 0"),
    ],
)
def test_bad_settings_are_one_line(fields, says, tmp_path, monkeypatch):
    config = small(exact.install(monkeypatch))
    config.likelihood.update(fields)
    with pytest.raises(ConfigError, match=says):
        exact.run_mode("likelihood", config, str(tmp_path))


@pytest.mark.parametrize(
    ("good", "says"),
    [
        (0, "energies at the base distribution are not finite: train longer"),
        (2, r"annealing does not get beyond beta = 0\.2 of segment 0"),
        (99, r"annealing does not get beyond beta = 0\.4 of segment 0"),
    ],
)
def test_an_annealing_that_ends_nowhere_is_one_line(good, says, tmp_path, monkeypatch):
    """At once, after two temperatures, and where there are more of them than can be."""

    def tune_step(rng_key, path, segment, beta, u_earlier, u, step_size, **_):
        step = jnp.where(beta < 0.1 * good - 0.05, step_size, jnp.nan)
        others = [1.0] * (len(annealing.AdaptedTemperature._fields) - 3)
        return beta + 0.1, u, step, *others

    monkeypatch.setattr(annealing, "tune_step", tune_step)
    monkeypatch.setattr(two_directions, "_MOST_TUNED", 4)
    config = small(exact.install(monkeypatch))
    with pytest.raises(ConfigError, match=says):
        exact.run_mode("likelihood", config, str(tmp_path))


def far_mode(level):
    """Exact energies, and a second mode of fifty times the mass at 3 in every pixel."""
    energy_fn = exact.energy(level)
    return lambda x: -jnp.logaddexp(-energy_fn(x), np.log(50.0) - energy_fn(x - 3.0))


def test_a_mode_that_is_no_data_is_found_and_said(tmp_path, monkeypatch, capsys):
    densities = exact.DENSITIES._replace(
        energy=far_mode, conditional=None, num_conditionals=0,
        base=exact.BaseDistribution(1.5, 3.0),
    )  # fmt: skip
    config = exact.small_config(exact.install(monkeypatch, densities))
    config.likelihood.update(num_temperatures=(100,), num_chains=256)
    assert exact.run_mode("likelihood", config, str(tmp_path)) == 0
    result = json.loads((tmp_path / "likelihood/likelihood.json").read_text())
    ends = result["annealed"]
    assert ends["is_spurious"]
    assert ends["below"] > 0.8
    assert ends["mean_energy"] == pytest.approx(2 - np.log(50), abs=1)
    assert ends["distance_over_data"] > 5
    assert "the model's mass is in modes that are no data" in capsys.readouterr().out


def test_shares_are_of_the_weight():
    """Four chains with weights .4, .3, .2 and .1; data at 0 to 100 nats."""
    energies, data = np.array([-5.0, 50.0, 60.0, 200.0]), np.linspace(0, 100, 1_001)
    log_weights = 7 + np.log([0.4, 0.3, 0.2, 0.1])
    ends = annealed_ends.Ends(np.zeros((4, 2)), energies, log_weights)
    distances, of_data = np.array([8.0, 2.0, 4.0, 1.0]), np.array([1.0, 2.0, 3.0])
    found = annealed_ends.compare(ends, data, distances, of_data)
    assert found.below == pytest.approx(0.4)
    assert found.above == pytest.approx(0.1)
    assert found.heaviest == pytest.approx(0.4)
    assert found.mean_energy == pytest.approx(0.4 * -5 + 0.3 * 50 + 0.2 * 60 + 0.1 * 200)
    assert found.data_energy == pytest.approx(50)
    assert found.distance_over_data == 4 / 2  # .1 at 1, .3 at 2, .2 at 4: .6 of the weight
    assert annealed_ends.compare(ends, data, None, None).distance_over_data is None
    assert not annealed_ends.metrics(found)["is_spurious"]
    (said,) = annealed_ends.lines(found)
    assert said.endswith("(annealed.png)")
