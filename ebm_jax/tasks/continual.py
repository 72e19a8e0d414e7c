"""--mode=continual: classes learned a few at a time by energies, beside softmax networks.

Class-incremental learning as IGEBM's authors did it (Du & Mordatch 2019), who published neither
network nor training: what is trained how is a design of ours. Needs no trained model.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from ebm_jax import parallel
from ebm_jax.data import Dataset
from ebm_jax.evaluation.classification import continual
from ebm_jax.evaluation.classification.continual import Scores, Tasks
from ebm_jax.evaluation.classification.softmax import SoftmaxClassifier, softmax_classifier
from ebm_jax.io import charts, files
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import Method, OneNetwork
from ebm_jax.runs import build
from ebm_jax.runs.lock import Lock
from ebm_jax.runs.results import Result, write_result
from ebm_jax.runs.settings import Training, groups, one_line, plain, prefix, read_section
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.runs.workdir import check_workdir
from ebm_jax.settings import setting
from ebm_jax.tasks import _classes, _updates
from ebm_jax.training.state import TrainState, init_train_state
from ebm_jax.training.train_step import make_train_step

ENERGIES = "energies"
TITLES = {
    ENERGIES: "energies",
    "softmax": "softmax over all classes",
    "softmax_current": "softmax over current classes",
    "energies_joint": "energies, all tasks at once",
    "softmax_joint": "softmax, all tasks at once",
}
_TABLE = {  # of the scores: headings
    "final": "accuracy",
    "mean_of_tasks": "tasks' mean",
    "forgetting": "forgetting",
    "final_within": "within task",
    "centered": "centered",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Which classes come together, for how long, and what is compared."""

    num_tasks: int = setting(5, "of equally many classes, in the order of the labels", at_least=2)
    num_passes: int = setting(1, "over the examples of each task", at_least=1)
    num_seeds: int = setting(3, "models of each kind: config.seed, the next one, ..", at_least=1)
    buffer: str = setting(
        "emptied", "where chains start, as a task begins; or kept", one_of=("emptied", "kept")
    )
    learners: tuple[str, ...] = setting(
        tuple(TITLES), "what is trained; *_joint: on all tasks at once", one_of=tuple(TITLES)
    )


def main(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> int:
    """Writes `continual/`: continual.json, accuracy.png, confusion.png, energies.png.

    Trains with `training.batch_size` and `training.ema_decay`; updates follow from the passes.
    """
    settings = read_section(config, "continual", Settings)
    training = read_section(config, "training", Training)
    folder = check_workdir(workdir, config, "evaluate") / "continual"
    with one_line():
        _check(config, settings, training)
    run = build.build(config)
    with one_line():
        plan = _plan(run, settings, training)
    depends_on = _fingerprint(config, settings)
    with Lock(folder), one_line(), ResumableWork(folder / "partial", depends_on) as work:
        result = _measure(plan, work)
        measured_on = plan.models.provenance(result.num_examples) | {
            "checkpoint_step": None,
            "seeds": plan.seeds,
        }
        write_result(result, measured_on, "continual", plain(config["continual"]), folder)
    return 0


class _Plan(NamedTuple):
    """What is trained and measured. models: with the parameters that the first seed starts from."""

    models: TrainedRun
    settings: Settings
    training: Training
    held_out: Dataset
    tasks: Tasks
    updates: Sequence[int]

    @property
    def seeds(self) -> list[int]:
        """One for each model of a kind."""
        first = self.models.run.general.seed
        return list(range(first, first + self.settings.num_seeds))


def _check(config: ml_collections.ConfigDict, settings: Settings, training: Training) -> None:
    """Raises ValueError for what would not be done."""
    if not settings.learners or len(set(settings.learners)) < len(settings.learners):
        raise ValueError(
            f"continual.learners: expected one or more, each once, of {', '.join(TITLES)}; got "
            f"{settings.learners}"
        )
    if training.init_from:
        raise ValueError(
            "training.init_from: expected '', as --mode=continual trains models of several seeds "
            f"from the beginning, got {training.init_from!r}"
        )
    for group in groups(config, "optimizer"):
        named = config.optimizer[group] if group else config.optimizer
        if named.schedule != "constant":
            raise ValueError(
                f"{prefix('optimizer', group)}schedule: expected 'constant', as --mode=continual "
                f"begins anew at each task, got {named.schedule!r}"
            )


def _plan(run: build.Run, settings: Settings, training: Training) -> _Plan:
    """Raises ValueError for a model without classes, and for classes that do not divide."""
    params = build.init_state(run).params
    models = TrainedRun(run, 0, params, training.ema_decay)
    num_classes = _classes.checked_classes(models, "continual")
    try:
        tasks = continual.split_classes(num_classes, settings.num_tasks)
    except ValueError as error:
        raise ValueError(f"continual.num_tasks: {error}") from error
    updates = continual.updates_per_task(
        run.dataset.labels,
        tasks,
        num_passes=settings.num_passes,
        batch_size=training.batch_size,
    )
    if any(name.startswith("softmax") for name in settings.learners):
        try:
            _softmax(run.method)
        except (AttributeError, ValueError) as error:
            raise ValueError(
                f"continual.learners: expected energies alone, as {type(run.method).__name__} here "
                "has no one network with a head for classes (num_outputs)"
            ) from error
    return _Plan(models, settings, training, run.held_out(), tasks, updates)


class _Learner(NamedTuple):
    """What the training step takes, and its logits: (params, x) -> [batch, classes]."""

    model: Any
    logits: Callable[[Any, jax.Array], jax.Array]


def _measure(plan: _Plan, work: ResumableWork) -> Result:
    labels = plan.held_out.labels.astype(np.int64)
    with plan.models.for_densities() as exact:
        found = {
            name: [
                continual.scores(logits, labels, plan.tasks)
                for logits in _learn(plan, name, _learner(plan, exact, name), work)
            ]
            for name in plan.settings.learners
        }
    return Result(
        num_examples=len(labels),
        metrics={
            "split": plan.held_out.split,
            "tasks": plan.tasks,
            "updates_per_task": plan.updates,
            "learners": {name: _over_seeds(scores) for name, scores in found.items()},
            "units": "shares of the held-out examples; matrix[i][j]: after task i, on classes of "
            "task j, one decision over all classes; within: over those of task j; confusion[label, "
            "decision], summed over seeds; std: standard deviation over seeds",
        },
        summary=_lines(found, plan),
        figures=_pictures(found),
    )


def _learner(plan: _Plan, exact: TrainedRun, name: str) -> _Learner:
    method = plan.models.run.method
    if name.startswith(ENERGIES):
        return _Learner(method, _classes.class_logits(exact))
    classifier = _softmax(method)
    return _Learner(classifier, classifier.logits)


def _softmax(method: Method) -> SoftmaxClassifier:
    if not isinstance(method, OneNetwork):
        raise ValueError(f"{type(method).__name__} is no method of one network")
    return softmax_classifier(method.network, has_norm=True)


def _learn(plan: _Plan, name: str, learner: _Learner, work: ResumableWork) -> list[np.ndarray]:
    """Logits [stages, n, classes] of the held-out examples, for each seed."""
    run, training = plan.models.run, plan.training
    optimizer, num_classes = build.make_optimizer(run.config), run.dataset.num_classes
    stages, updates = plan.tasks, plan.updates
    if name.endswith("_joint"):
        stages, updates = (sum(map(tuple, plan.tasks), ()),), (sum(plan.updates),)
    x = _classes.examples(run, plan.held_out.images)
    size = parallel.round_up(min(run.sampling.batch_size, len(x)))
    mapped = parallel.map_examples(lambda p, x: {"logits": learner.logits(p, x)}, size)

    def classified(params: Any) -> np.ndarray:
        parts = [mapped(params, x[i : i + size])["logits"] for i in range(0, len(x), size)]
        return np.concatenate(parts)

    def example_batch() -> dict[str, jax.Array]:
        shape = (training.batch_size, *run.dataset.example_shape)
        return {
            "image": jnp.full(shape, run.data.low),
            "label": jnp.zeros(training.batch_size, jnp.int32),
        }

    @jax.jit
    def init(rng_key: jax.Array) -> TrainState:
        return init_train_state(rng_key, learner.model, optimizer, example_batch())

    # With the key as an argument: one program for all seeds.
    @functools.partial(parallel.on_each_device, in_axes=(0, 0, None), donate_argnums=0)
    def update(state: TrainState, batch: dict[str, jax.Array], rng_key: jax.Array):
        step = make_train_step(
            learner.model,
            optimizer,
            rng_key=rng_key,
            ema_decay=training.ema_decay,
            preprocess=run.preprocess(),
        )
        return step(state, batch, axis_name=parallel.AXIS)

    def of_seed(seed: int) -> np.ndarray:
        general = dataclasses.replace(run.general, seed=seed)
        seeded = dataclasses.replace(run, general=general)
        kept = work.piece(f"{name}_{seed}", _fingerprint(run.config, plan.settings, seed=seed))
        start: TrainState = jax.device_get(init(seeded.key("init")))
        state, first, logits = _updates.load_state(kept, start), 0, []
        for stage, (classes, number) in enumerate(zip(stages, updates, strict=True)):
            if stage and int(state.step) == first:
                state = _next_task(state, start, optimizer, plan.settings.buffer)
            examples, candidates = _of_classes(run.dataset, classes), None
            if name.endswith("_current"):
                candidates = np.isin(np.arange(num_classes), classes)

            def batch(step: int, first=first, examples=examples, candidates=candidates):
                found = _updates.local_batch(
                    examples, step - first, seed=seed, batch_size=training.batch_size
                )
                if candidates is not None:
                    shape = (*found["label"].shape, num_classes)
                    found["is_candidate"] = np.broadcast_to(candidates, shape)
                return found

            first += number
            state = _updates.train(
                kept,
                lambda state, batch: update(state, batch, seeded.key("train")),
                batch,
                state,
                first,
                what=f"{TITLES[name]}, seed {seed},",
            )
            if (saved := kept.load(f"stage_{stage}")) is None:
                saved = {"logits": classified(state.ema_params)}
                kept.save(f"stage_{stage}", saved)
            logits.append(saved["logits"])
        return np.stack(logits)

    work.begin(TITLES[name], sum(updates) * len(plan.seeds))
    return [of_seed(seed) for seed in plan.seeds]


def _next_task(state: TrainState, start: TrainState, optimizer: Any, buffer: str) -> TrainState:
    """The state as a task begins: Adam's moments anew, and the chains' memory unless it is kept.

    Adam would divide the gradients of classes that are new by moments of when they were absent.
    """
    memory = state.method_state.sharded if buffer == "kept" else start.method_state.sharded
    return state._replace(
        opt_state=jax.device_get(optimizer.init(state.params)),
        method_state=state.method_state._replace(sharded=memory),
    )


def _of_classes(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    is_one = np.isin(dataset.labels, classes)
    return dataset._replace(images=dataset.images[is_one], labels=dataset.labels[is_one])


def _fingerprint(
    config: ml_collections.ConfigDict, settings: Settings, seed: int | None = None
) -> dict[str, Any]:
    """What all depends on, or one model: not on how many others there are."""
    values = config.to_dict()
    sections = ("data", "network", "method", "sampler", "optimizer", "training", "compute")
    chosen = dataclasses.asdict(settings)
    if seed is not None:
        del chosen["num_seeds"], chosen["learners"]
    return {
        "config": {name: values[name] for name in (*sections, "held_out_split")},
        "seed": values["seed"] if seed is None else seed,
        "continual": chosen,
        "versions": files.versions(),
    }


def _over_seeds(found: Sequence[Scores]) -> dict[str, Any]:
    by_field: dict[str, Any] = {}
    for field in Scores._fields:
        values = [getattr(scores, field) for scores in found]
        if field == "confusion":
            by_field[field] = np.sum(values, 0)
        elif values[0] is not None:
            spread = np.std(values, 0, ddof=1) if len(values) > 1 else None
            by_field[field] = {"mean": np.mean(values, 0), "std": spread, "by_seed": values}
    return by_field


def _lines(found: dict[str, list[Scores]], plan: _Plan) -> list[str]:
    data, settings = plan.models.run.dataset.name, plan.settings
    passes = f"{settings.num_passes} pass{'es' * (settings.num_passes > 1)}"
    seeds = f"{settings.num_seeds} seed{'s' * (settings.num_seeds > 1)}"
    head = f"{len(plan.tasks)} tasks of {data}, {passes}, {seeds}"
    lines = [f"{head:<44}" + "".join(f"{title:>14}" for title in _TABLE.values())]
    for name, scores in found.items():
        cells = []
        for field in _TABLE:
            values = [getattr(s, field) for s in scores]
            if values[0] is None:
                cells.append("")
            elif len(values) == 1:
                cells.append(f"{values[0]:.3f}")
            else:
                cells.append(f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}")
        lines.append(f"  {TITLES[name]:<42}" + "".join(f"{cell:>14}" for cell in cells))
    return [*lines, "  accuracy: one decision over all classes, after the last task"]


def _pictures(found: dict[str, list[Scores]]) -> dict[str, np.ndarray]:
    matrices = {TITLES[name]: np.mean([s.matrix for s in v], 0) for name, v in found.items()}
    confusions = {TITLES[name]: np.sum([s.confusion for s in v], 0) for name, v in found.items()}
    shares = {name: c / c.sum(1, keepdims=True) for name, c in confusions.items()}
    pictures = {
        "confusion": charts.shares_picture(shares, x_label="decision", y_label="class", first=0)
    }
    if in_turn := {name: matrix for name, matrix in matrices.items() if len(matrix) > 1}:
        pictures["accuracy"] = charts.shares_picture(
            in_turn, x_label="on classes of task", y_label="after task"
        )
    if ENERGIES in found:
        everywhere = np.mean([s.mean_energy for s in found[ENERGIES]], 0)
        of_own = np.mean([s.mean_energy_of_own for s in found[ENERGIES]], 0)
        stages = np.arange(1, len(everywhere) + 1)
        pictures["energies"] = charts.curves_picture(
            [
                charts.Curves(
                    title, stages, {f"class {y}": values[:, y] for y in range(values.shape[1])},
                    x_label="after task", y_label="mean energy",
                )
                for title, values in (
                    ("of all held-out examples", everywhere), ("of those of the class", of_own)
                )
            ]
        )  # fmt: skip
    return pictures
