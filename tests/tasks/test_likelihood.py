"""--mode=likelihood on densities that are known: its figures, and going on after an interrupt."""

import json

import gaussian_runs as exact
import numpy as np
import pytest
from PIL import Image

from ebm_jax.experiment import ConfigError
from ebm_jax.tasks import likelihood

TRUTH = 2 * np.log(2 * np.pi * float(exact.VARIANCE[0]))  # log Z at the lowest level


def small(config):
    config.likelihood.update(
        num_temperatures=(30, 120), num_chains=64, tuning_steps=20, num_images=100, reverse_steps=5
    )
    return config


def test_figures_are_those_of_the_density_also_after_an_interrupt(tmp_path, monkeypatch, capsys):
    config = small(exact.install(monkeypatch))
    assert likelihood.run(config, str(tmp_path / "whole")) == 0
    said = capsys.readouterr().out
    result = json.loads((tmp_path / "whole/likelihood/likelihood.json").read_text())
    assert [row["num_temperatures"] for row in result["log_z"]] == [30, 120]
    for way in ("forward", "reverse"):
        found = result["log_z"][-1][way]
        assert found["standard_error"] < 0.6  # 64 chains; closer in test_annealing
        assert abs(found["log_z"] - TRUTH) < 3 * found["standard_error"]
    for name in ("training", "held out"):
        split = result["splits"][name]
        # x_0 of these images has the variance of the model but for rounding to grey values
        assert abs(split["energy"]["mean"] - 2) < 4 * split["energy"]["standard_error"]
        nats = split["log_likelihood_nats"]
        assert nats["upper"] == pytest.approx(
            -split["energy"]["mean"] - result["log_z"][-1]["forward"]["log_z"]
        )
        bits = -nats["lower"] / (4 * np.log(2)) + np.log2(127.5)
        assert split["bits_per_dim"]["upper"] == pytest.approx(bits)
        assert f"{bits:.3f} bits/dim" in said
    assert "upper bounds, and bits/dim lower bounds" in said
    assert "normal noise of 0.01 model units" in result["statement"][0]
    assert result["measured_on"]["checkpoint_step"] == 7
    assert result["levels_passed"] == [5, 4, 3, 2, 1, 0]
    assert Image.open(tmp_path / "whole/likelihood/likelihood.png").size[0] > 600

    directory = str(tmp_path / "interrupted")
    with monkeypatch.context() as patch:
        exact.interrupt_after(patch, 9, "log w")  # six stretches forward, six in reverse
        with pytest.raises(SystemExit):
            likelihood.run(config, directory)
    assert likelihood.run(config, directory) == 0
    again = json.loads((tmp_path / "interrupted/likelihood/likelihood.json").read_text())
    assert again == result
    assert not (tmp_path / "interrupted/likelihood/pieces").exists()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"num_chains": 12}, "num_chains 12 does not divide among 8 devices: write 16"),
        ({"num_temperatures": ()}, "num_temperatures is empty: write one number or more"),
        ({"num_temperatures": (4,)}, "the path has 6 segments: write at least 6"),
        ({"max_levels": 0}, "likelihood.max_levels is 0: write at least 1"),
        ({"tuning_steps": 5}, "write at least 20 and 0"),
        ({"target_acceptance": 1.0}, "write 0 < a < 1"),
        ({"num_images": 0}, "likelihood.num_images is 0: write at least 1"),
    ],
)
def test_bad_settings_are_one_line(fields, says, tmp_path, monkeypatch):
    config = small(exact.install(monkeypatch))
    config.likelihood.update(fields)
    with pytest.raises(ConfigError, match=says):
        likelihood.run(config, str(tmp_path))
