"""--mode=sample: new samples from the EMA weights, as arrays, as a figure, as PNG files."""

import dataclasses

import numpy as np

from ebm_jax.io.resumable import Arrays, ResumableWork
from ebm_jax.runs import preview
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting

IMAGES_ONLY = False

_SHOWN_IMAGES, _SHOWN_POINTS = 100, 2_000  # of the figure


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is written; `sampling.num_samples` says how many samples are made."""

    png_files: bool = setting(False, "whether to write each image as a PNG file too, in samples/")


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`sample/`: samples.npz, samples.png of the first samples, and samples.json.

    The arrays: `x` in model units; of images also `image`, uint8. They go to files batch by batch.
    """
    run, number = trained.run, trained.run.sampling.num_samples
    if settings.png_files and not run.has_images:
        raise ValueError(f"sample.png_files: expected False, as {run.dataset.name} has no images")
    shape, sample = run.dataset.example_shape, trained.sampler(work=work)
    kept = work.piece("samples", trained.fingerprint(num_samples=number))
    arrays = {"x": kept.array_file("x", (number, *shape), np.float32)}
    if run.has_images:
        arrays["image"] = kept.array_file("image", (number, *shape), np.uint8)

    def write(state: None, first: int, found: Arrays) -> None:
        for name, array in arrays.items():
            rows = array[first : first + len(found["x"])]  # none but on process 0
            rows[:] = (found["x"] if name == "x" else run.to_pixels(found["x"]))[: len(rows)]

    work.begin("sampling", number)
    kept.fold_batches(
        "written",
        lambda first, stop: {"x": sample(first, stop)},
        write,
        None,
        number=number,
        batch_size=run.sampling.batch_size,
    )
    images = {"samples": arrays["image"]} if settings.png_files else {}
    figures = {}
    if len(shown := arrays["x"][: _SHOWN_IMAGES if run.has_images else _SHOWN_POINTS]):
        figures["samples"] = preview.figure(run, trained.params, np.asarray(shown))
    return Result(
        num_examples=number,
        metrics={},
        summary=[f"{number} samples from the EMA weights of step {trained.step}"],
        figures=figures,
        archives={"samples": arrays},
        image_folders=images,
        file_name="samples",
    )
