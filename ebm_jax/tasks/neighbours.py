"""--mode=neighbours: has the model learned its training images by heart?"""

import pathlib

import ml_collections
import numpy as np

from ebm_jax import data, experiment, workdir
from ebm_jax.evaluation.fidelity.classifier import supports, train_classifier
from ebm_jax.evaluation.fidelity.memorization import ks_test, nearness
from ebm_jax.evaluation.images.neighbors import nearest_neighbors
from ebm_jax.evaluation.level_energies import chosen_levels, image_scores, score_levels
from ebm_jax.experiment import ConfigError
from ebm_jax.io import plotting
from ebm_jax.io.resumable import ResumableWork

_SHOWN = 12  # samples of the picture
_OF_CLASSIFIER = "our classifier's scores"


def run(config: ml_collections.ConfigDict, directory: str) -> int:
    """Writes `neighbours/`: neighbours.json, energies.png, distances.png, and the neighbours."""
    trained = workdir.load_trained_on_images(config, directory, "neighbours")
    settings, low, high = config.neighbours, config.data.low, config.data.high
    if min(settings.num_images, settings.num_samples, settings.num_neighbours) < 1:
        raise ConfigError("neighbours: write num_images, num_samples, num_neighbours of at least 1")
    training = trained.parts.dataset
    held_out = experiment.load_split(config, config.data.held_out_split)
    model, keys = experiment.make_model(config, trained.parts), experiment.run_keys(config)
    try:
        levels = chosen_levels(model(trained.params).num_levels, settings.max_levels)
    except ValueError as error:
        raise ConfigError(f"neighbours.{error}") from error

    def score(params, x, index):
        return score_levels(model(params), keys["sample"], levels, x, index)

    def generate(params, index):
        return {"x": model(params).generate(keys["sample"], index)}

    real = {
        name: np.asarray(data.scale_images(split.images[: settings.num_images], low, high))
        for name, split in (("training", training), ("held out", held_out))
    }
    folder = pathlib.Path(directory) / "neighbours" / "parts"
    made_from = workdir.made_from(config, trained, "neighbours")
    total = sum(len(x) for x in real.values()) + settings.num_samples
    with ResumableWork(folder, made_from, "comparing", total) as parts:
        params, size = trained.params, config.sampling.batch_size
        found = {
            name: parts.map_batches(
                name.replace(" ", "_"), score, params, (x, np.arange(len(x))), batch_size=size
            )
            for name, x in real.items()
        }
        index = np.arange(settings.num_samples)
        samples = parts.map_batches("samples", generate, params, (index,), batch_size=size)["x"]
        scores = {name: image_scores(v, found["training"], levels) for name, v in found.items()}
        energies = [name for name in scores["training"] if name.startswith("energy")]
        try:
            laws = {
                name: ks_test(scores["training"][name], scores["held out"][name])
                for name in energies
            }
        except ValueError as error:
            raise ConfigError(f"--mode=neighbours: {error}") from error
        every = np.asarray(data.scale_images(training.images, low, high))
        spaces = {"pixels": lambda x: x.reshape(len(x), -1)}
        if supports(training.num_classes, training.example_shape):
            classifier = train_classifier(every, training.labels, training.num_classes)
            spaces[_OF_CLASSIFIER] = classifier.logits
        compared = {
            space: nearness(features(samples), features(real["held out"]), features(every))
            for space, features in spaces.items()
        }
        of_splits = {name: {split: scores[split][name] for split in scores} for name in energies}
        distances = {
            f"distance to the nearest, {space}": {"samples": x, "held out": y}
            for space, (_, x, y) in compared.items()
        }
        drawings = {
            "energies": plotting.histograms_picture(of_splits),
            "distances": plotting.histograms_picture(distances),
        }
        shown = samples[:_SHOWN]
        for space, features in spaces.items():
            chosen, _ = nearest_neighbors(features(shown), features(every), settings.num_neighbours)
            columns = {"sample": shown}
            columns |= {f"nearest {i + 1}": every[chosen[:, i]] for i in range(chosen.shape[1])}
            name = "nearest_in_pixels" if space == "pixels" else "nearest_in_class_scores"
            drawings[name] = plotting.columns_picture(
                {
                    title: np.asarray(data.unscale_images(x, low, high))
                    for title, x in columns.items()
                }
            )
        workdir.write_result(
            config, trained, directory, "neighbours",
            num_examples=settings.num_samples,
            figures={
                "splits": {"training": training.split, "held out": held_out.split},
                "num_energies": {name: len(x) for name, x in real.items()},
                "kolmogorov_smirnov_of_energies": {k: v._asdict() for k, v in laws.items()},
                "distance_to_nearest_training_image": {
                    space: found[0]._asdict() for space, found in compared.items()
                },
                "pictures": "each row: a sample, then its nearest training images",
            },
            drawings=drawings,
            lines=_lines(laws, compared),
        )  # fmt: skip
    return 0


def _lines(laws, compared) -> list[str]:
    lines = ["energies of training and held-out images"]
    lines += [
        f"  {name:<16}KS {law.statistic:.3f}  p {law.p_value:.3g}  gap {law.gap:+.2f} deviations"
        for name, law in laws.items()
    ]
    lines.append("median distance to the nearest training image")
    for space, (found, _, _) in compared.items():
        lines.append(
            f"  {space}: samples {found.median_sample:.3f}, held out {found.median_held_out:.3f}; "
            f"{found.closer:.1%} of the samples nearer than the nearest 1 % of held-out images"
        )
    return lines
