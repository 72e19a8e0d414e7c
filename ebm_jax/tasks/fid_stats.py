"""--mode=fid_stats: mean and covariance of a split's features, for --mode=fid."""

import functools

import jax
import ml_collections
import numpy as np

from ebm_jax import experiment, workdir
from ebm_jax.evaluation.fidelity import frechet
from ebm_jax.evaluation.fidelity.reference_statistics import Statistics, write_statistics
from ebm_jax.experiment import ConfigError
from ebm_jax.io import files
from ebm_jax.io.resumable import ResumableWork


def run(config: ml_collections.ConfigDict, directory: str) -> int:
    """Writes `fid_stats/`: stats.npz and fid_stats.json. Needs no checkpoint."""
    out = workdir.check_workdir(directory, config) / "fid_stats"
    split = experiment.load_split(config, config.fid.split)
    extractor = experiment.feature_extractor(config)
    if (reason := frechet.why_undefined(split.num_examples, extractor.num_features)) is not None:
        raise ConfigError(f"--mode=fid_stats: {split.name}, {split.split}: {reason}")
    described = experiment.reference_description(config, split, extractor)
    with ResumableWork(out / "parts", described, "features", split.num_examples) as parts:
        map_batches = functools.partial(parts.map_batches, batch_size=config.fid.batch_size)
        features = extractor.extract("reference", split.images, map_batches)["features"]
        fit = frechet.fit_gaussian(np.asarray(features))
        if jax.process_index() == 0:
            write_statistics(out / "stats.npz", Statistics(fit, described))
            files.write_json(
                out / "fid_stats.json",
                {
                    "mode": "fid_stats",
                    **described,
                    "num_images": fit.num_examples,
                    "num_features": extractor.num_features,
                    "versions": files.versions(),
                },
            )
            print(
                f"{fit.num_examples:,} images of {split.name}, {split.split}: {out}/stats.npz; "
                f"use it with --mode=fid --config.fid.stats={out}/stats.npz",
                flush=True,
            )
    return 0
