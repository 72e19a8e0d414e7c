"""--mode=sample: new samples from the EMA weights, as a picture, an array and their provenance."""

import pathlib

import jax
import ml_collections
import numpy as np

from ebm_jax import experiment, workdir
from ebm_jax.io import files, plotting
from ebm_jax.io.progress import Progress


def run(config: ml_collections.ConfigDict, directory: str) -> int:
    """Writes `sample/`: samples.png, samples.npy (model units) and samples.json."""
    trained = workdir.load_trained(config, directory)
    num_samples = config.sampling.num_samples
    with Progress(num_samples, "sampling") as progress:
        samples = workdir.sample(config, trained, num_samples, progress)
    if jax.process_index() == 0:
        out = pathlib.Path(directory) / "sample"
        out.mkdir(exist_ok=True)
        np.save(out / "samples.npy", samples)
        picture = experiment.picture(config, trained.parts, trained.params, samples)
        plotting.save_image(out / "samples.png", picture)
        files.write_json(out / "samples.json", workdir.measured_on(config, trained, num_samples))
        print(f"{num_samples} samples: {out}/samples.png and samples.npy")
    return 0
