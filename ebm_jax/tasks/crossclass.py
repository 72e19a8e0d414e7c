"""--mode=crossclass: held-out images pulled to another class by chains that have its label."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax import samplers
from ebm_jax.evaluation.fidelity.classifier import supports, train_classifier
from ebm_jax.io import charts, image_grids
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import index_chains
from ebm_jax.runs.build import Run
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting
from ebm_jax.tasks import _classes

IMAGES_ONLY = True

_SHOWN = 12  # rows of the figure


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which images are pulled where, and how long. The defaults are the published chain's."""

    num_images: int = setting(200, "held-out images, taken from the start", at_least=2)
    target: int = setting(
        -1, "class that all are pulled to; -1: each to that of the next image", at_least=-1
    )
    num_rounds: int = setting(10, "states that are kept after the start", at_least=1)
    steps_per_round: int = setting(40, "of the method's own chain", at_least=1)
    clip_gradient: bool = setting(
        False, "as in training; the published chain of this experiment does not"
    )


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`crossclass/`: crossclass.json, states.png, success.png.

    Image i starts a chain under the label of image i + 1 (or under `target`), as published; pairs
    of one class are left out.
    """
    num_classes = _classes.checked_classes(trained, "crossclass")
    if settings.target >= num_classes:
        raise ValueError(
            f"crossclass.target: expected a class, 0 to {num_classes - 1}, or -1, got "
            f"{settings.target}"
        )
    run, held_out = _with_gradients(trained, settings), trained.run.held_out()
    images, labels = (a[: settings.num_images] for a in (held_out.images, held_out.labels))
    following = np.roll(np.arange(len(labels)), -1)
    target = labels[following] if settings.target < 0 else np.full_like(labels, settings.target)
    kept = np.flatnonzero(target != labels)
    if not len(kept):
        raise ValueError("crossclass.target: expected images of another class, got none")
    x, target = run.scale(images)[kept], target[kept].astype(np.int32)
    index, key = np.arange(len(kept), dtype=np.int32), run.key("crossclass")
    num_steps, lowest = settings.num_rounds * settings.steps_per_round, jnp.zeros((), jnp.int32)

    def energies(params: Any, x: jax.Array) -> jax.Array:
        return run.method.densities(params).class_energies(lowest, x)

    def pull(params: Any, x: jax.Array, label: jax.Array, index: jax.Array) -> dict[str, Any]:
        densities = run.method.densities(params)
        assert densities.class_energy is not None
        assert densities.native_kernel is not None
        kernel = densities.native_kernel(densities.class_energy(lowest, label), lowest)
        _, info = samplers.run_chain(
            key, index_chains(kernel, index), x, num_steps, keep_every=settings.steps_per_round
        )
        states = jnp.concatenate([x[None], info.kept])  # [rounds + 1, batch, ...]
        of_class = jax.lax.map(lambda x: energies(params, x), states)
        return {"x": jnp.moveaxis(states, 0, 1), "energies": jnp.moveaxis(of_class, 0, 1)}

    def fresh(params: Any, label: jax.Array, index: jax.Array) -> dict[str, Any]:
        method: Any = run.method  # of a model with classes: its samples are given labels
        x = method.sample(params, run.key("sample"), index, label=label)
        return {"x": x, "energies": energies(params, x)}

    work.begin("chains", 2 * len(kept))
    batch_size = run.sampling.batch_size
    found = work.map_batches(
        "pulled", pull, trained.params, (x, target, index), batch_size=batch_size
    )
    new = work.map_batches("fresh", fresh, trained.params, (target, index), batch_size=batch_size)
    states = np.moveaxis(found["x"], 1, 0)  # [rounds + 1, n, ...]
    given = np.moveaxis(found["energies"].argmin(2), 1, 0)
    judge = _judge(run)
    rows, of_target = [], run.scale(_of_class(run, target))
    for i, points in enumerate(states):
        rows.append(
            {
                "step": i * settings.steps_per_round,
                "lowest_energy_is_target": float(np.mean(given[i] == target)),
                "classifier_says_target": judge and float(np.mean(judge(points) == target)),
                "distance_to_start": _rms(points, x, run),
            }
        )
    references = {
        "fresh_sample": {
            "lowest_energy_is_target": float(np.mean(new["energies"].argmin(1) == target)),
            "classifier_says_target": judge and float(np.mean(judge(new["x"]) == target)),
            "distance_to_start": _rms(new["x"], x, run),
        },
        "training_image_of_the_target": {
            "classifier_says_target": judge and float(np.mean(judge(of_target) == target)),
            "distance_to_start": _rms(of_target, x, run),
        },
    }
    closer = _distances(states[-1], x) < _distances(new["x"], x)
    shown = [*dict.fromkeys(np.linspace(0, settings.num_rounds, 7).round().astype(int).tolist())]
    columns = {
        "start" if i == 0 else f"step {i * settings.steps_per_round}": run.to_pixels(
            states[i][:_SHOWN]
        )
        for i in shown
    }
    columns["fresh sample of the class"] = run.to_pixels(new["x"][:_SHOWN])
    columns["training image of the class"] = run.to_pixels(of_target[:_SHOWN])
    return Result(
        num_examples=len(kept),
        metrics={
            "split": held_out.split,
            "states": rows,
            "references": references,
            "share_nearer_to_start_than_fresh_sample": float(np.mean(closer)),
            "pairs_of_one_class_left_out": len(labels) - len(kept),
            "distance": "root mean square over pixels, of the range of the intensities",
        },
        summary=_lines(rows, references, closer.mean(), len(kept)),
        figures={
            "states": image_grids.columns_picture(columns, min_tile=48),
            "success": _picture(rows, references),
        },
    )


def _with_gradients(trained: TrainedRun, settings: Settings) -> Run:
    """The run, whose chains clip gradients or not.

    Raises:
      ValueError: for a method whose chains never do.
    """
    if settings.clip_gradient:
        return trained.run
    method = trained.run.method
    if not hasattr(method, "max_grad"):
        raise ValueError(
            f"crossclass.clip_gradient: expected True, as {type(method).__name__} has no bound on "
            "gradients to leave out, got False"
        )
    bounds = {"max_grad": 0.0, "max_total_grad_norm": 0.0}
    free: Any = dataclasses.replace(method, **bounds)  # pyright: ignore[reportArgumentType]
    return dataclasses.replace(trained.run, method=free)


def _judge(run: Run) -> Any:
    """(x) -> classes [n], by the small classifier of training images; None for large images."""
    training = run.dataset
    if not supports(training.num_classes, training.example_shape):
        return None
    scale, offset = run.intensity_scale(-1.0, 1.0)
    classifier = train_classifier(
        training.images, training.labels, training.num_classes, scale=scale, offset=offset
    )
    low, high = run.data.low, run.data.high
    to_range, shift = 2 / (high - low), -1 - 2 * low / (high - low)
    return lambda x: classifier.logits(x, scale=to_range, offset=shift).argmax(1)


def _of_class(run: Run, target: np.ndarray) -> np.ndarray:
    """Training images uint8 [n, ...] of these classes, each class's in turn."""
    labels = run.dataset.labels
    places = {label: np.flatnonzero(labels == label) for label in np.unique(target)}
    return np.stack(
        [run.dataset.images[places[t][i % len(places[t])]] for i, t in enumerate(target)]
    )


def _distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(np.mean((x - y) ** 2, axis=tuple(range(1, x.ndim))))


def _rms(x: np.ndarray, y: np.ndarray, run: Run) -> float:
    """Mean over images of the distance between two of them, in units of the range."""
    return float(np.mean(_distances(x, y)) / (run.data.high - run.data.low))


def _lines(rows: list[Any], references: Any, closer: float, number: int) -> list[str]:
    def line(what: str, values: Any) -> str:
        cells = (
            values.get(name)
            for name in (
                "lowest_energy_is_target", "classifier_says_target", "distance_to_start",
            )
        )  # fmt: skip
        return f"  {what:<32}" + "".join(
            f"{'-':>14}" if value is None else f"{value:14.3f}" for value in cells
        )

    head = f"{number} images, of another class"
    return [
        f"{head:<34}{'lowest energy':>14}{'classifier':>14}{'distance':>14}",
        *(line(f"after {row['step']} steps", row) for row in rows),
        *(line(name.replace("_", " "), values) for name, values in references.items()),
        f"  nearer to the start than the fresh sample is: {closer:.1%}",
    ]


def _picture(rows: list[Any], references: Any) -> np.ndarray:
    steps = [row["step"] for row in rows]
    shares = {
        "argmin of the energies": [row["lowest_energy_is_target"] for row in rows],
        "independent classifier": [row["classifier_says_target"] for row in rows],
    }
    shares = {name: values for name, values in shares.items() if values[0] is not None}
    distances = {"pulled": [row["distance_to_start"] for row in rows]} | {
        name.replace("_", " "): [values["distance_to_start"]] * len(steps)
        for name, values in references.items()
    }
    return charts.curves_picture(
        [
            charts.Curves(
                "told to be the target", steps, shares, x_label="step", y_label="share"
            ),
            charts.Curves(
                "distance to the start", steps, distances, x_label="step",
                y_label="RMS over pixels, of the range",
            ),
        ]
    )  # fmt: skip
