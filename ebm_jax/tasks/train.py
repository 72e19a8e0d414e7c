"""--mode=train: trains, or goes on training, the run of a workdir."""

import ml_collections

from ebm_jax.training import loop


def run(config: ml_collections.ConfigDict, workdir: str) -> int:
    """Returns the exit code of `training.loop.train`."""
    return loop.train(config, workdir)
