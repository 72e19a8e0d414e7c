"""--mode=ood: how well energies tell held-out images from others, as areas under ROC curves."""

import pathlib

import ml_collections
import numpy as np

from ebm_jax import data, experiment, workdir
from ebm_jax.evaluation import ood
from ebm_jax.evaluation.level_energies import chosen_levels, image_scores, score_levels
from ebm_jax.experiment import ConfigError
from ebm_jax.io import plotting
from ebm_jax.io.resumable import ResumableWork

_TRAINING = "training images"
_SHOWN = 8  # images of each set in the picture


def run(config: ml_collections.ConfigDict, directory: str) -> int:
    """Writes `ood/`: ood.json with the table, histograms.png and sets.png."""
    trained = workdir.load_trained_on_images(config, directory, "ood")
    settings, low, high = config.ood, config.data.low, config.data.high
    inside_name = f"{config.data.name}, {config.data.held_out_split}"
    sets = _sets(config, trained, inside_name)
    model, key = experiment.make_model(config, trained.parts), experiment.run_keys(config)["sample"]
    try:
        levels = chosen_levels(model(trained.params).num_levels, settings.max_levels)
    except ValueError as error:
        raise ConfigError(f"ood.{error}") from error

    def score(params, x, index):
        return score_levels(model(params), key, levels, low + (high - low) * x, index)

    folder = pathlib.Path(directory) / "ood" / "parts"
    total = sum(len(x) for x in sets.values())
    with ResumableWork(
        folder, workdir.made_from(config, trained, "ood"), "scoring", total
    ) as parts:
        found = {
            name: parts.map_batches(
                f"set_{i}", score, trained.params,
                (x.astype(np.float32), np.arange(len(x))),
                batch_size=config.sampling.batch_size,
            )
            for i, (name, x) in enumerate(sets.items())
        }  # fmt: skip
        scores = {
            name: image_scores(values, found[_TRAINING], levels) for name, values in found.items()
        }
        others = [name for name in sets if name not in (_TRAINING, inside_name)]
        try:
            table = {
                name: {
                    score: ood.auroc(
                        scores[inside_name][score], values,
                        num_bootstrap=settings.num_bootstrap, seed=config.sampling.seed,
                    )
                    for score, values in scores[name].items()
                }
                for name in others
            }  # fmt: skip
        except ValueError as error:
            raise ConfigError(f"--mode=ood: {error}") from error
        mean = {
            score: float(np.mean([table[name][score].value for name in others]))
            for score in scores[inside_name]
        }
        panels = {
            score: {name: scores[name][score] for name in sets}
            for score in scores[inside_name]
            if score.startswith("energy")
        }
        some = {
            name.replace("_", " "): np.round(255 * x[:_SHOWN]).astype(np.uint8)
            for name, x in sets.items()
        }
        workdir.write_result(
            config, trained, directory, "ood",
            num_examples=len(sets[inside_name]),
            figures={
                "inside": inside_name,
                "levels": levels,
                "auroc": {
                    name: {score: value._asdict() for score, value in row.items()}
                    for name, row in table.items()
                },
                "mean_auroc": mean,
                "interval": "95 %, percentiles of a bootstrap over both sets",
                "direction": "larger scores count as outside",
            },
            drawings={
                "histograms": plotting.histograms_picture(panels),
                "sets": plotting.columns_picture(some),
            },
            lines=_lines(table, mean, inside_name, levels),
        )  # fmt: skip
    return 0


def _sets(
    config: ml_collections.ConfigDict, trained: workdir.Trained, inside_name: str
) -> dict[str, np.ndarray]:
    """Images in 0..1 by name: of training, held out, then the others."""
    settings, training = config.ood, trained.parts.dataset
    number, seed = settings.num_images, config.sampling.seed
    if number < 2 or settings.num_bootstrap < 1 or not (settings.sets or settings.others):
        raise ConfigError(
            "ood: write num_images of at least 2, num_bootstrap of at least 1, and one of the sets"
        )
    held_out = experiment.load_split(config, config.data.held_out_split)
    inside = held_out.images[:number] / 255.0
    many = min(number, training.num_examples)
    chosen = np.sort(data.batch_indices(training.num_examples, many, 0, seed))
    sets = {_TRAINING: training.images[chosen] / 255.0, inside_name: inside}
    try:
        sets |= {name: ood.synthetic_set(name, inside, seed=seed) for name in settings.sets}
        for name in settings.others:
            other = data.load_dataset(
                name, data.held_out_split(name), data_dir=config.data.data_dir or None
            )
            if len(other.example_shape) != 3:
                raise ValueError(f"{name} has no images: write another data set in ood.others")
            sets[name] = ood.resize_to(other.images[:number], training.example_shape) / 255.0
    except (ValueError, OSError, ImportError) as error:
        raise ConfigError(f"ood: {error}") from error
    return sets


def _lines(table, mean, inside_name, levels) -> list[str]:
    width = max(len(name) for name in table) + 2
    # The first level is the data's own; the others are in the JSON.
    first = f" {levels[0]}"
    columns = [name for name in mean if name.endswith(first) or not name[-1].isdigit()]
    head = "".join(f"{name:>{max(len(name), 6) + 2}}" for name in columns)

    def row(name: str, values: dict[str, float]) -> str:
        cells = "".join(f"{values[c]:{max(len(c), 6) + 2}.3f}" for c in columns)
        return f"  {name:<{width}}{cells}"

    lines = [f"AUROC, {inside_name} against", f"  {'':<{width}}{head}"]
    lines += [row(name, {c: v.value for c, v in of.items()}) for name, of in table.items()]
    widest = max(v.high - v.low for of in table.values() for v in of.values())
    return [*lines, row("mean", mean), f"  95 % intervals are at most {widest:.3f} wide"]
