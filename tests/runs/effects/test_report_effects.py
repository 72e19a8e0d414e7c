"""What --mode=report makes of its settings: which pages, and how many pictures in them."""

import json
import re

import numpy as np
from effects_table import shows, value_of

from configs import default
from ebm_jax import tasks
from ebm_jax.io import image_grids

RNG = np.random.default_rng(0)


def make_run(path):
    """A workdir with a line of metrics and four grids of samples of about 5 kB."""
    (path / "samples").mkdir(parents=True)
    (path / "metrics.jsonl").write_text(json.dumps({"step": 1, "time": 0, "loss": 1.0}) + "\n")
    for step in range(4):
        image = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
        image_grids.save_image(path / f"samples/step_{step:07d}.png", image)


@shows("report.workdirs")
def test_another_run_is_on_a_page_of_both(tmp_path):
    for name in ("run", "other"):
        make_run(tmp_path / name)
    config = default.get_config()
    assert tasks.run("report", config, tmp_path / "run") == 0
    assert not (tmp_path / "run/comparison.html").exists()
    config.report.workdirs = tuple(str(tmp_path / name) for name in value_of("report.workdirs"))
    assert tasks.run("report", config, tmp_path / "run") == 0
    text = (tmp_path / "run/comparison.html").read_text()
    assert re.findall(r'"name":"(.*?)"', text) == ["run", "other"]


@shows("report.max_sample_mb")
def test_fewer_grids_of_samples(tmp_path):
    make_run(tmp_path)
    config = default.get_config()
    steps = {}
    for value in (config.report.max_sample_mb, value_of("report.max_sample_mb")):
        config.report.max_sample_mb = value
        assert tasks.run("report", config, tmp_path) == 0
        text = (tmp_path / "report.html").read_text()
        steps[value] = [int(step) for step in re.findall(r'alt="Samples at step (\d)"', text)]
    assert list(steps.values()) == [[0, 1, 2, 3], [0, 3]]
