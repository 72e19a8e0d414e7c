"""--mode=ood: how well energies tell held-out images from others, as areas under ROC curves."""

import dataclasses

import numpy as np

from ebm_jax import data, parallel
from ebm_jax.evaluation import ood
from ebm_jax.evaluation.level_energies import evenly_spaced_levels, level_energies, ood_scores
from ebm_jax.io import charts, image_grids
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.build import Run
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting

IMAGES_ONLY = True

_TRAINING = "training images"
_SHOWN = 8  # images of each set in the figure


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which sets held-out images are told from."""

    num_images: int = setting(500, "of each set, taken from the start", at_least=2)
    sets: tuple[str, ...] = setting(ood.NAMES, "made from held-out images", one_of=ood.NAMES)
    others: tuple[str, ...] = setting((), "data sets by name, resized to the model's images")
    max_levels: int = setting(6, "noise levels whose energies are taken, evenly spaced", at_least=1)
    of_classes: str = setting(
        "mixture",
        "energy of a class-conditional model: -log mean_y exp(-E), or min_y E, as published",
        one_of=("mixture", "minimum"),
    )
    num_bootstrap: int = setting(1_000, "resamples behind the intervals", at_least=1)


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`ood/`: ood.json with the table, histograms.png and sets.png."""
    run, key = trained.run, trained.run.key("sample")
    num_classes = run.method.densities(trained.params).num_classes
    if settings.of_classes != "mixture" and not num_classes:
        raise ValueError(
            "ood.of_classes: expected 'mixture', as the model has no energy per class, got "
            f"{settings.of_classes!r}"
        )
    inside = f"{run.data.name}, {run.general.held_out_split}"
    sets = _sets(run, settings, inside)
    num_levels = run.method.densities(trained.params).num_levels
    levels = evenly_spaced_levels(num_levels, settings.max_levels)

    work.begin("energies", sum(len(x) for x in sets.values()))
    kept = work.piece(
        "energies",
        trained.fingerprint(
            sets=list(sets),
            number=settings.num_images,
            levels=levels,
            of_classes=settings.of_classes,
        ),
    )
    with trained.for_densities() as exact:

        def energies(params, x, index):
            densities = exact.run.method.densities(params)
            if settings.of_classes == "minimum":
                densities = densities.lowest_class()
            return level_energies(densities, key, levels, x, index)

        found = {
            name: kept.map_batches(
                f"set_{i}",
                energies,
                trained.params,
                (run.from_unit(x), np.arange(len(x), dtype=np.int32)),
                batch_size=run.sampling.batch_size,
            )
            for i, (name, x) in enumerate(sets.items())
        }
    scores = {name: ood_scores(values, found[_TRAINING], levels) for name, values in found.items()}
    others = [name for name in sets if name not in (_TRAINING, inside)]
    table = {
        name: {
            score: ood.auroc(
                scores[inside][score],
                values,
                num_bootstrap=settings.num_bootstrap,
                seed=run.sampling.seed,
            )
            for score, values in scores[name].items()
        }
        for name in others
    }
    mean = {
        score: float(np.mean([table[name][score].value for name in others]))
        for score in scores[inside]
    }
    panels = {
        score: {name: scores[name][score] for name in sets}
        for score in scores[inside]
        if score.startswith("energy")
    }
    some = {
        name.replace("_", " "): run.to_pixels(run.from_unit(x[:_SHOWN])) for name, x in sets.items()
    }
    return Result(
        num_examples=len(sets[inside]),
        metrics={
            "inside": inside,
            "levels": levels,
            "energy_of_classes": settings.of_classes if num_classes else None,
            "auroc": {
                name: {score: value._asdict() for score, value in row.items()}
                for name, row in table.items()
            },
            "mean_auroc": mean,
            "interval": "95 %, percentiles of a bootstrap over both sets",
            "direction": "larger scores count as outside",
        },
        summary=_lines(table, mean, inside, levels),
        figures={
            "histograms": charts.histograms_picture(panels),
            "sets": image_grids.columns_picture(some),
        },
    )


def _sets(run: Run, settings: Settings, inside: str) -> dict[str, np.ndarray]:
    """Images in 0..1 by name, scaled as in training: of it, held out, then the others."""
    number, seed, training = settings.num_images, run.sampling.seed, run.dataset
    if not (settings.sets or settings.others):
        raise ValueError("ood.sets, ood.others: expected one or more, got none")
    held_out = run.to_unit(run.held_out().images[:number])
    many = min(number, training.num_examples)
    chosen = np.sort(data.batch_indices(training.num_examples, many, 0, seed))
    sets = {_TRAINING: run.to_unit(training.images[chosen]), inside: held_out}
    sets |= {name: ood.synthetic_set(name, held_out, seed=seed) for name in settings.sets}
    for name in settings.others:
        with parallel.all_or_none():
            other = data.load_dataset(
                name, data.held_out_split(name), data_dir=run.general.data_dir or None
            )
        if len(other.example_shape) != 3:
            raise ValueError(f"ood.others: expected sets of images, got {name}")
        sets[name] = run.to_unit(ood.resize_to(other.images[:number], training.example_shape))
    return sets


def _lines(table, mean, inside: str, levels: np.ndarray) -> list[str]:
    width = max(len(name) for name in table) + 2
    # The first level is the data's own; the others are in the JSON.
    first = f" {levels[0]}"
    columns = [name for name in mean if name.endswith(first) or not name[-1].isdigit()]
    head = "".join(f"{name:>{max(len(name), 6) + 2}}" for name in columns)

    def row(name: str, values: dict[str, float]) -> str:
        cells = "".join(f"{values[c]:{max(len(c), 6) + 2}.3f}" for c in columns)
        return f"  {name:<{width}}{cells}"

    lines = [f"AUROC, {inside} against", f"  {'':<{width}}{head}"]
    lines += [row(name, {c: v.value for c, v in line.items()}) for name, line in table.items()]
    widest = max(v.high - v.low for line in table.values() for v in line.values())
    return [*lines, row("mean", mean), f"  95 % intervals are at most {widest:.3f} wide"]
