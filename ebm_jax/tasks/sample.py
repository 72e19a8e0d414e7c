"""--mode=sample: new samples from the EMA weights, as a figure and an array."""

import dataclasses

from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs import preview
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun

IMAGES_ONLY = False


@dataclasses.dataclass(frozen=True)
class Settings:
    """None of its own: `sampling.num_samples` says how many."""


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`sample/`: samples.png, samples.npy (model units) and samples.json."""
    del settings
    number = trained.run.sampling.num_samples
    work.begin("sampling", number)
    samples = trained.samples(work, number)
    return Result(
        num_examples=number,
        metrics={},
        summary=[f"{number} samples from the EMA weights of step {trained.step}"],
        figures={"samples": preview.figure(trained.run, trained.params, samples)},
        arrays={"samples": samples},
        file_name="samples",
    )
