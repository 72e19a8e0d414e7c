"""--mode=classify: a class-conditional model as a classifier, its accuracy and calibration."""

import dataclasses
from typing import Any

import numpy as np

from ebm_jax.evaluation.classification import calibration
from ebm_jax.io import charts
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting
from ebm_jax.tasks import _classes
from ebm_jax.tasks._classes import ENERGIES, SOFTMAX

IMAGES_ONLY = False

_FITTED = ", temperature fitted"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which examples are classified, and what the energies are compared with."""

    num_images: int = setting(1_000, "held-out examples, taken from the start", at_least=4)
    num_bins: int = setting(15, "of confidence, of equal width", at_least=1)
    baseline: str = setting("same", _classes.BASELINE, one_of=_classes.BASELINES)
    baseline_steps: int = setting(0, _classes.BASELINE_STEPS, at_least=0)


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`classify/`: classify.json, reliability.png; log p(y | x) and labels in logits.npz."""
    run = trained.run
    num_classes = _classes.checked_classes(trained, "classify")
    held_out = run.held_out()
    x = _classes.examples(run, held_out.images[: settings.num_images])
    labels = held_out.labels[: settings.num_images].astype(np.int64)
    baseline = _classes.train_softmax(trained, work, settings.baseline, settings.baseline_steps)
    work.begin("classes", len(x) * (1 + (baseline is not None)))

    def logits(name: str, fn: Any, params: Any) -> np.ndarray:
        def of_batch(params: Any, x: Any) -> dict[str, Any]:
            return {"logits": fn(params, x)}

        batch_size = run.sampling.batch_size
        return work.map_batches(name, of_batch, params, (x,), batch_size=batch_size)["logits"]

    with trained.for_densities() as exact:
        found = {ENERGIES: logits("energies", _classes.class_logits(exact), trained.params)}
        sizes = {ENERGIES: _classes.num_parameters(trained.params)}
        if baseline is not None:
            classifier, params = baseline
            found[SOFTMAX] = logits("baseline", classifier.logits, params)
            sizes[SOFTMAX] = _classes.num_parameters(params)
    temperatures, rows = {}, {}
    for name, values in found.items():
        rows[name] = values
        rows[name + _FITTED], temperatures[name] = calibration.cross_fitted(values, labels)
    table = {name: _row(values, labels, settings.num_bins) for name, values in rows.items()}
    curves = {
        name: calibration.reliability(values, labels, settings.num_bins)
        for name, values in rows.items()
    }
    given = np.argmax(found[ENERGIES], 1)
    confusion = np.zeros((num_classes, num_classes), int)
    np.add.at(confusion, (labels, given), 1)
    return Result(
        num_examples=len(x),
        metrics={
            "split": held_out.split,
            "num_classes": num_classes,
            "classifiers": table,
            "fitted_temperatures": temperatures,
            "temperatures": "of least negative log likelihood, each on the other half",
            "num_parameters": sizes,
            "confusion_of_energies": confusion,
            "mean_energy_by_class": -found[ENERGIES].mean(0),
            "units": "negative log likelihood in nats; confusion[label, given]",
        },
        summary=_lines(table, temperatures, held_out.name, held_out.split, num_classes),
        figures={"reliability": _picture(curves)},
        archives={
            "logits": {
                "label": labels,
                **{name.replace(" ", "_"): values for name, values in found.items()},
            }
        },
    )


def _row(logits: np.ndarray, labels: np.ndarray, num_bins: int) -> dict[str, Any]:
    right = calibration.accuracy(logits, labels)
    found = calibration.reliability(logits, labels, num_bins)
    return {
        "accuracy": right,
        "accuracy_standard_error": float(np.sqrt(right * (1 - right) / len(labels))),
        "negative_log_likelihood": calibration.negative_log_likelihood(logits, labels),
        "expected_calibration_error": found.error,
        "reliability": found._asdict(),
    }


def _lines(
    table: dict[str, Any], temperatures: Any, name: str, split: str, num_classes: int
) -> list[str]:
    head = f"{num_classes} classes of {name}, {split}"
    lines = [f"{head:<40}{'accuracy':>18}{'NLL':>9}{'ECE':>9}"]
    for row, values in table.items():
        right = f"{values['accuracy']:.4f} ± {values['accuracy_standard_error']:.4f}"
        lines.append(
            f"  {row:<38}{right:>18}{values['negative_log_likelihood']:9.4f}"
            f"{values['expected_calibration_error']:9.4f}"
        )
    fitted = "; ".join(
        f"{row} {low:.3g} and {high:.3g}" for row, (low, high) in temperatures.items()
    )
    return [*lines, f"  temperatures, each fitted on the other half: {fitted}"]


def _picture(curves: dict[str, calibration.Reliability]) -> np.ndarray:
    edges = next(iter(curves.values())).edges
    middle = (edges[:-1] + edges[1:]) / 2
    return charts.curves_picture(
        [
            charts.Curves(
                "reliability", middle,
                {"as sure as right": middle} | {k: c.accuracy for k, c in curves.items()},
                x_label="confidence", y_label="accuracy",
            ),
            charts.Curves(
                "examples", middle, {k: c.count / c.count.sum() for k, c in curves.items()},
                x_label="confidence", y_label="share",
            ),
        ]
    )  # fmt: skip
