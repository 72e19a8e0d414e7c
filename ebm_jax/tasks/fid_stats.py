"""--mode=fid_stats: mean and covariance of a split's features, for --mode=fid."""

import pathlib

import jax
import ml_collections
import numpy as np

from ebm_jax.evaluation.fidelity import frechet
from ebm_jax.evaluation.fidelity.reference_statistics import Statistics, write_statistics
from ebm_jax.io import files
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs import build
from ebm_jax.runs.lock import Lock
from ebm_jax.runs.modes import check_images
from ebm_jax.runs.settings import one_line, read_section
from ebm_jax.runs.workdir import check_workdir
from ebm_jax.tasks import fid
from ebm_jax.tasks._features import describe_reference, make_extractor, reference_features


def main(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> int:
    """Writes `fid_stats/`: stats.npz and fid_stats.json. Needs no checkpoint."""
    settings = read_section(config, "fid", fid.Settings)
    out = check_workdir(workdir, config, "evaluate") / "fid_stats"
    run = build.build(config)
    check_images(run, "fid_stats")
    split = run.load_split(settings.split)
    with one_line():
        extractor = make_extractor(run, settings.weights, settings.batch_size)
        reason = frechet.why_undefined(split.num_examples, extractor.num_features)
        if reason is not None:
            raise ValueError(f"--mode=fid_stats: {split.name}, {split.split}: {reason}")
    described = describe_reference(split, extractor)
    depends_on = {**described, "images_sha256": files.arrays_sha256(split.images)}
    with Lock(out), one_line(), ResumableWork(out / "partial", depends_on) as work:
        work.begin("features", split.num_examples)
        none_kept = np.zeros(0, np.int64)
        fit = reference_features(work, extractor, split.images, none_kept).moments.fit()
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
