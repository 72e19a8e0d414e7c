"""--mode=neighbours: memorization of the training set: energies, and distances of samples to it."""

import dataclasses

import numpy as np

from ebm_jax.evaluation.fidelity.classifier import supports, train_classifier
from ebm_jax.evaluation.fidelity.memorization import KSTest, Nearness, ks_test, nearness
from ebm_jax.evaluation.images.neighbors import nearest_neighbors
from ebm_jax.evaluation.level_energies import evenly_spaced_levels, level_energies, ood_scores
from ebm_jax.io import charts, image_grids
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.build import Run
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting

IMAGES_ONLY = True

_SHOWN = 12  # samples of the figure
_LOGITS = "our classifier's logits"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How many images and samples are compared."""

    num_images: int = setting(
        1_000, "training and held-out images each, taken from the start", at_least=2
    )
    num_samples: int = setting(
        100, "of --mode=sample, each beside its nearest training images", at_least=1
    )
    num_neighbours: int = setting(4, "of each sample in the figure", at_least=1)
    max_levels: int = setting(6, "noise levels whose energies are taken, evenly spaced", at_least=1)


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`neighbours/`: neighbours.json, energies.png, distances.png, and the nearest images."""
    run, training, held_out = trained.run, trained.run.dataset, trained.run.held_out()
    real = {
        name: run.scale(split.images[: settings.num_images])
        for name, split in (("training", training), ("held out", held_out))
    }
    work.begin("comparing", sum(len(x) for x in real.values()) + settings.num_samples)
    scores = _scores(trained, real, settings, work)
    samples = trained.samples(work, settings.num_samples)
    energies = [name for name in scores["training"] if name.startswith("energy")]
    tests = {name: ks_test(scores["training"][name], scores["held out"][name]) for name in energies}
    spaces = _spaces(run, samples, real["held out"])
    compared = {
        name: nearness(x, y, z, scale=scale, offset=offset)
        for name, (x, y, z, scale, offset) in spaces.items()
    }
    figures = {
        "energies": charts.histograms_picture(
            {name: {split: scores[split][name] for split in scores} for name in energies}
        ),
        "distances": charts.histograms_picture(
            {
                f"distance to the nearest, {space}": {"samples": x, "held out": y}
                for space, (_, x, y) in compared.items()
            }
        ),
    }
    for name, (x, _, z, scale, offset) in spaces.items():
        number = min(settings.num_neighbours, len(z))
        found = nearest_neighbors(x[:_SHOWN], z, number, scale=scale, offset=offset)
        columns = {"sample": run.to_pixels(samples[:_SHOWN])}
        columns |= {f"nearest {i + 1}": training.images[found.indices[:, i]] for i in range(number)}
        title = "nearest_in_pixels" if name == "pixels" else "nearest_in_logits"
        figures[title] = image_grids.columns_picture(columns)
    return Result(
        num_examples=settings.num_samples,
        metrics={
            "splits": {"training": training.split, "held out": held_out.split},
            "num_energies": {name: len(x) for name, x in real.items()},
            "kolmogorov_smirnov_of_energies": {k: v._asdict() for k, v in tests.items()},
            "distance_to_nearest_training_image": {
                space: found[0]._asdict() for space, found in compared.items()
            },
            "figures": "each row: a sample, then its nearest training images",
        },
        summary=_lines(tests, {space: found[0] for space, found in compared.items()}),
        figures=figures,
    )


def _scores(
    trained: TrainedRun, real: dict[str, np.ndarray], settings: Settings, work: ResumableWork
) -> dict[str, dict[str, np.ndarray]]:
    """Energies of both splits by name, level by level."""
    run, key = trained.run, trained.run.key("sample")
    num_levels = run.method.densities(trained.params).num_levels
    levels = evenly_spaced_levels(num_levels, settings.max_levels)

    energies_work = work.piece("energies", trained.fingerprint(levels=levels))
    with trained.for_densities() as exact:

        def energies(params, x, index):
            return level_energies(exact.run.method.densities(params), key, levels, x, index)

        found = {
            name: energies_work.map_batches(
                name.replace(" ", "_"),
                energies,
                trained.params,
                (x, np.arange(len(x), dtype=np.int32)),
                batch_size=run.sampling.batch_size,
            )
            for name, x in real.items()
        }
    return {name: ood_scores(values, found["training"], levels) for name, values in found.items()}


def _spaces(run: Run, samples: np.ndarray, held_out: np.ndarray) -> dict[str, tuple]:
    """(samples, held out, training, scale, offset) in pixels, and in a classifier's logits.

    The training images stay as they are stored: scale and offset bring them to model units.
    """
    training = run.dataset
    scale, offset = run.intensity_scale(run.data.low, run.data.high)
    spaces = {"pixels": (samples, held_out, training.images, scale, offset)}
    if supports(training.num_classes, training.example_shape):
        classifier = train_classifier(
            training.images, training.labels, training.num_classes, scale=scale, offset=offset
        )
        logits = classifier.logits(training.images, scale=scale, offset=offset)
        spaces[_LOGITS] = (
            classifier.logits(samples),
            classifier.logits(held_out),
            logits,
            1.0,
            0.0,
        )
    return spaces


def _lines(tests: dict[str, KSTest], compared: dict[str, Nearness]) -> list[str]:
    lines = ["energies of training and held-out images"]
    lines += [
        f"  {name:<16}KS {test.statistic:.3f}  p {test.p_value:.3g}  "
        f"gap {test.gap:+.2f} standard deviations"
        for name, test in tests.items()
    ]
    lines.append("median distance to the nearest training image")
    for space, found in compared.items():
        lines.append(
            f"  {space}: samples {found.median_sample:.3f}, held out {found.median_held_out:.3f}; "
            f"{found.closer:.1%} of the samples nearer than the nearest 1 % of held-out images"
        )
    return lines
