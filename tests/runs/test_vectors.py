"""Points of the plane with every method: trained, sampled and evaluated by main.py."""

import json

import numpy as np
import pytest
from main_processes import run_main

METHODS = {
    "recovery_likelihood": {"num_pairs": 3, "num_steps": 3},
    "contrastive_divergence": {
        "num_steps": 3, "step_size": 0.05, "max_grad": 0.0, "buffer_size": 64, "buffer_shards": 2,
        "buffer_storage": "float",
    },
    "denoising_score_matching": {"num_levels": 4, "min_noise": 0.1, "max_noise": 1.0},
}  # fmt: skip
SAMPLERS = {
    "denoising_score_matching": {"num_hot": 2, "num_cooling": 8, "num_final": 4},
}
CONFIG = """
from configs import default, toy2d

def get_config():
    config = toy2d.get_config()
    config.network = default.network("mlp", width=8, depth=1)
    config.method = default.method({name!r}, **{method!r})
    config.sampler = default.sampler({name!r}, **{sampler!r})
    config.optimizer = default.optimizer("adam", learning_rate=1e-3)
    config.training.update(batch_size=16, num_steps=20)
    config.train.update(log_every=5, sample_every=0, checkpoint_every=20)
    config.sampling.update(num_samples=40, batch_size=40)
    config.evaluate.num_samples = 400
    config.cpu_devices = 2
    return config
"""


@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_points(name, tmp_path):
    file, workdir = tmp_path / "config.py", tmp_path / "run"
    settings = {"name": name, "method": METHODS[name], "sampler": SAMPLERS.get(name, {})}
    file.write_text(CONFIG.format(**settings))
    for mode in ("train", "sample", "evaluate"):
        result = run_main(f"--config={file}", f"--workdir={workdir}", f"--mode={mode}")
        assert result.code == 0, result.err
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 15, 20]
    samples = np.load(workdir / "sample" / "samples.npz")["x"]
    assert samples.shape == (40, 2)
    assert np.isfinite(samples).all()
    evaluation = json.loads((workdir / "evaluate" / "evaluation.json").read_text())
    assert evaluation["measured_on"]["method"]["name"] == name
    for picture in ("samples/step_0000020", "sample/samples", "evaluate/evaluation"):
        assert (workdir / f"{picture}.png").stat().st_size > 1_000
