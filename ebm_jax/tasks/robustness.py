"""--mode=robustness: a class-conditional model and a softmax network under attack."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.evaluation.classification import attacks
from ebm_jax.evaluation.classification.attacks import ScoreFn, scores_of_logits
from ebm_jax.evaluation.classification.refinement import (
    Refinement,
    expected_scores,
    refined_logits,
)
from ebm_jax.io import charts, image_grids
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.settings import setting
from ebm_jax.tasks import _classes
from ebm_jax.tasks._classes import ENERGIES, SOFTMAX

IMAGES_ONLY = True

_REFINED = "energies, refined"
_SHOWN = 8  # images of the figure
_UNITS = "of the range of the intensities"
_NORM_NAMES = {"linf": "L-infinity", "l2": "L2"}

LogitsFn = Callable[[Any, jax.Array], jax.Array]  # (params, x in 0..1) -> logits


@dataclasses.dataclass(frozen=True)
class Settings:
    """How strong attacks are, and the defense by chains. Distances: units of the pixels' range."""

    num_images: int = setting(100, "held-out images, taken from the start", at_least=1)
    linf_radii: tuple[float, ...] = setting(
        (0.05, 0.1, 0.2, 0.3), '"epsilon" of each value; (): not attacked', at_least=0
    )
    l2_radii: tuple[float, ...] = setting(
        (0.5, 1.0, 2.0), '"epsilon" of the whole image; (): not attacked', at_least=0
    )
    published_steps: int = setting(20, "of the published attack", at_least=1)
    strict_steps: tuple[int, ...] = setting(
        (20, 100), "of the strict attack, made with each of these", at_least=1
    )
    num_restarts: int = setting(5, "of the strict attack; the best counts", at_least=1)
    num_random: int = setting(200, "points of the random search; 0: none", at_least=0)
    refine_steps: int = setting(10, "of a chain per class before classifying", at_least=1)
    refine_step_size: float = setting(10.0, '"lambda" of these chains', above=0)
    refine_noise: float = setting(0.005, f"standard deviation, {_UNITS}", at_least=0)
    refine_radius: float = setting(
        8 / 255, f"{_UNITS}: no value moves further in a chain", at_least=0
    )
    refine_max_grad: float = setting(
        0.0, "bound on each element of these chains' gradient; 0: none", at_least=0
    )
    num_draws: int = setting(5, "of the chains' noise, behind each accuracy", at_least=1)
    adaptive_images: int = setting(
        20, "first of the images, attacked through the chains; 0: none", at_least=0
    )
    adaptive_steps: int = setting(20, "of the attack through the chains", at_least=1)
    adaptive_draws: int = setting(10, "of noise, behind the mean that it climbs", at_least=1)
    baseline: str = setting("same", _classes.BASELINE, one_of=_classes.BASELINES)
    baseline_steps: int = setting(0, _classes.BASELINE_STEPS, at_least=0)


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`robustness/`: robustness.json with accuracies, accuracy.png and attacked.png."""
    run = trained.run
    if not (settings.linf_radii or settings.l2_radii):
        raise ValueError("robustness.linf_radii, l2_radii: expected one or more, got none")
    if not settings.strict_steps:
        raise ValueError("robustness.strict_steps: expected one or more, got none")
    num_classes = _classes.checked_classes(trained, "robustness")
    held_out = run.held_out()
    # In 0..1, as everything from here on.
    x = run.to_unit(held_out.images[: settings.num_images]).astype(np.float32)
    labels = held_out.labels[: settings.num_images].astype(np.int32)
    baseline = _classes.train_softmax(trained, work, settings.baseline, settings.baseline_steps)
    attack = _Attacks(trained, settings, work, x, labels, num_classes)
    radii = {"linf": settings.linf_radii, "l2": settings.l2_radii}
    # At 0 nothing is attacked: the curves start with clean images.
    radii = {norm: sorted({0.0, *values}) for norm, values in radii.items() if values}
    adaptive = min(settings.adaptive_images, len(x))
    num_clean, num_radii = len(radii), sum(map(len, radii.values()))
    num_attacks = 1 + len(settings.strict_steps) + bool(settings.num_random)
    num_programs = num_clean + num_attacks * (num_radii - num_clean)  # of a classifier, per image
    work.begin(
        "attacks",
        len(x) * ((1 + (baseline is not None)) * num_programs + 2 * num_radii)
        + adaptive * (2 * num_radii - num_clean),
    )
    rows: dict[str, list[dict[str, Any]]] = {}
    examples: dict[str, np.ndarray] = {}
    with trained.for_densities() as exact:
        models: dict[str, tuple[LogitsFn, Any]] = {
            ENERGIES: (_in_unit_range(exact, _classes.class_logits(exact)), trained.params)
        }
        if baseline is not None:
            classifier, params = baseline
            models[SOFTMAX] = (_in_unit_range(exact, classifier.logits), params)
        for norm, values in radii.items():
            rows[norm] = []
            for radius in values:
                found: dict[str, Any] = {"radius": radius}
                for name, (logits_fn, params) in models.items():
                    found[name], points = attack.on(name, logits_fn, params, norm, radius)
                    if name == ENERGIES:
                        found[_REFINED] = attack.refined(exact, points, norm, radius)
                    examples[f"{name}, {_NORM_NAMES[norm]} {radius:g}"] = points["strict"][:_SHOWN]
                rows[norm].append(found)
    shown = {"held out": x[:_SHOWN], **_some(examples, radii, models)}
    columns = {name: run.to_pixels(run.from_unit(np.clip(v, 0, 1))) for name, v in shown.items()}
    return Result(
        num_examples=len(x),
        metrics={
            "split": held_out.split,
            "num_adaptive_images": adaptive,
            "accuracy": rows,
            "units": f"radii {_UNITS}; accuracies are shares of the images",
            "published": "the attack of the published code: its L2 radius bounds a step alone",
            "strict": "wrong by any strict attack: steps, restarts, random search",
            "refined": f"{settings.num_draws} draws of the chains' noise behind each accuracy; "
            "the adaptive attack is made on the first images alone",
        },
        summary=_lines(rows, len(x), adaptive),
        figures={
            "accuracy": _curves(rows),
            "attacked": image_grids.columns_picture(columns),
        },
    )  # fmt: skip


class _Attacks:
    """Attacks on the same images, each a piece of work that is kept."""

    def __init__(
        self,
        trained: TrainedRun,
        settings: Settings,
        work: ResumableWork,
        x: np.ndarray,
        labels: np.ndarray,
        num_classes: int,
    ):
        self.settings, self.work, self.x, self.labels = settings, work, x, labels
        self.batch_size, self.num_classes = trained.run.sampling.batch_size, num_classes
        self.index = np.arange(len(x), dtype=np.int32)
        self.key = trained.run.key("robustness")
        self.fns: dict[Any, Callable[..., dict[str, jax.Array]]] = {}  # each compiled once
        s = settings
        self.published = Refinement(
            s.refine_steps, s.refine_step_size, s.refine_noise, s.refine_radius,
            s.refine_max_grad or None, box=None,
        )  # fmt: skip
        self.strict = self.published._replace(box=(0.0, 1.0))

    def on(
        self, name: str, logits_fn: LogitsFn, params: Any, norm: str, radius: float
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """(accuracies, the points of the attacks 'published' and 'strict') of one classifier."""
        s = self.settings

        def score(params: Any, label: jax.Array) -> ScoreFn:
            return lambda x: scores_of_logits(logits_fn(params, x), label)

        def published(params: Any, x: Any, label: Any, radius: Any, index: Any) -> dict[str, Any]:
            score_fn = score(params, label)
            end = attacks.published_pgd(
                score_fn, x, radius, self.key, index, norm=norm, num_steps=s.published_steps
            )
            return {"x": end, "margin": score_fn(end).margin}

        def searched(params: Any, x: Any, label: Any, radius: Any, index: Any) -> dict[str, Any]:
            key = jax.random.fold_in(self.key, 1)
            return attacks.random_search(
                score(params, label), x, radius, key, index, norm=norm, num_draws=s.num_random
            )._asdict()

        def clean(params: Any, x: Any, label: Any, radius: Any, index: Any) -> dict[str, Any]:
            return {"x": x, "margin": score(params, label)(x).margin}

        fns = {"published": published}
        for steps in s.strict_steps:
            fns[f"strict, {steps} steps"] = self._strict(score, norm, steps, s.num_restarts)
        if s.num_random:
            fns["random search"] = searched
        if radius:
            found = {
                title: self._map(f"{name}, {title}", fn, params, norm, radius)
                for title, fn in fns.items()
            }
        else:
            none = self._map(f"{name}, clean", clean, params, norm, radius, shared=True)
            found = dict.fromkeys(fns, none)
        margins = {title: values["margin"] for title, values in found.items()}
        bounded = {k: v for k, v in found.items() if k != "published"}
        all_margins = np.stack([values["margin"] for values in bounded.values()])
        lowest = all_margins.argmin(0)
        points = np.stack([values["x"] for values in bounded.values()])[lowest, self.index]
        accuracies = {title: _accuracy(margin) for title, margin in margins.items()}
        accuracies["strict"] = _accuracy(all_margins.min(0))
        if some := min(s.adaptive_images, len(self.x)):  # to be compared with the adaptive attack
            accuracies[f"strict, first {some} images"] = _accuracy(all_margins.min(0)[:some])
        change = found["published"]["x"] - self.x
        size = np.abs(change) if norm == "linf" else change**2
        size = size.max((1, 2, 3)) if norm == "linf" else np.sqrt(size.sum((1, 2, 3)))
        details = {
            "accuracy": accuracies,
            "standard_error": _error(accuracies["strict"], len(self.x)),
            "largest_change_of_published": size.max(),
        }
        return details, {"published": found["published"]["x"], "strict": points}

    def refined(
        self, trained: TrainedRun, points: dict[str, np.ndarray], norm: str, radius: float
    ) -> dict[str, Any]:
        """Accuracies after chains: of points made without them, and through them."""
        s, params = self.settings, trained.params

        def logits_fn(params: Any, refinement: Refinement, key: Any, x: Any, index: Any):
            low, high = trained.run.data.low, trained.run.data.high
            densities = trained.run.method.densities(params)
            assert densities.class_energy is not None
            of_class, lowest = densities.class_energy, jnp.zeros((), jnp.int32)

            def class_energy(label: jax.Array):
                energy_fn = of_class(lowest, label)
                return lambda x: energy_fn(low + (high - low) * x)

            return refined_logits(class_energy, self.num_classes, refinement, key, x, index)

        def classified(refinement: Refinement):
            def fn(params: Any, x: Any, label: Any, radius: Any, index: Any) -> dict[str, Any]:
                del radius

                def draw(number: jax.Array) -> jax.Array:
                    key = jax.random.fold_in(jax.random.fold_in(self.key, 3), number)
                    logits = logits_fn(params, refinement, key, x, index)
                    return scores_of_logits(logits, label).margin

                return {"margin": jax.lax.map(draw, jnp.arange(s.num_draws)).T}

            return fn

        def through(params: Any, x: Any, label: Any, radius: Any, index: Any) -> dict[str, Any]:
            score_fn = expected_scores(
                lambda key, x: logits_fn(params, self.strict, key, x, index),
                label,
                jax.random.fold_in(self.key, 4),
                s.adaptive_draws,
            )
            return attacks.strict_pgd(
                score_fn, x, radius, jax.random.fold_in(self.key, 5), index,
                norm=norm, num_steps=s.adaptive_steps, num_restarts=1,
            )._asdict()  # fmt: skip

        free, boxed = classified(self.published), classified(self.strict)
        some = min(s.adaptive_images, len(self.x))
        published = self._map(
            "refined_published", free, params, norm, radius, points["published"], shared=True
        )["margin"]
        strict = self._map(
            "refined_strict", boxed, params, norm, radius, points["strict"], shared=True
        )["margin"]
        found: dict[str, Any] = {
            "published": _accuracy(published),
            "strict attack on the energies": _accuracy(strict),
        }
        if some:
            end = self.x[:some]
            if radius:
                end = self._map("adaptive", through, params, norm, radius, end)["x"]
            margin = self._map(
                "refined_adaptive", boxed, params, norm, radius, end, shared=True
            )["margin"]  # fmt: skip
            found[f"adaptive, first {some} images"] = _accuracy(margin)
            # The better of the attacks image by image, by how often the image is told right.
            best = np.minimum((margin > 0).mean(1), (strict[:some] > 0).mean(1))
            found[f"either, first {some} images"] = float(best.mean())
        return {"accuracy": found, "standard_error": _error(found["published"], len(self.x))}

    def _strict(self, score: Any, norm: str, num_steps: int, num_restarts: int) -> Any:
        def strict(params: Any, x: Any, label: Any, radius: Any, index: Any) -> dict[str, Any]:
            key = jax.random.fold_in(self.key, 2)
            return attacks.strict_pgd(
                score(params, label), x, radius, key, index,
                norm=norm, num_steps=num_steps, num_restarts=num_restarts,
            )._asdict()  # fmt: skip

        return strict

    def _map(
        self,
        name: str,
        fn: Any,
        params: Any,
        norm: str,
        radius: float,
        x: np.ndarray | None = None,
        *,
        shared: bool = False,
    ) -> dict[str, np.ndarray]:
        """One attack on the images, or on other points; shared: one program for both norms."""
        fn = self.fns.setdefault((name, "" if shared else norm), fn)
        x = self.x if x is None else x
        number = len(x)
        arrays = (
            x, self.labels[:number], np.full(number, radius, np.float32), self.index[:number]
        )  # fmt: skip
        title = f"{name}_{norm}_{radius:g}".replace(",", "").replace(" ", "_")
        return self.work.map_batches(title, fn, params, arrays, batch_size=self.batch_size)


def _in_unit_range(trained: TrainedRun, logits_fn: LogitsFn) -> LogitsFn:
    """The same of x in 0..1."""
    low, high = trained.run.data.low, trained.run.data.high
    return lambda params, x: logits_fn(params, low + (high - low) * x)


def _accuracy(margin: np.ndarray) -> float:
    """Share of margins above 0.

    Raises:
      ValueError: where some are not finite.
    """
    if not np.all(np.isfinite(margin)):
        raise ValueError("some energies are not finite: the model has diverged on attacked images")
    return float(np.mean(margin > 0))


def _error(share: float, number: int) -> float:
    return float(np.sqrt(share * (1 - share) / number))


def _some(
    examples: dict[str, np.ndarray], radii: dict[str, list[float]], models: Any
) -> dict[str, np.ndarray]:
    """Attacked images of two radii of each norm."""
    titles = [
        f"{name}, {_NORM_NAMES[norm]} {radius:g}"
        for norm, values in radii.items()
        for radius in dict.fromkeys((values[(len(values) - 1) // 2], values[-1]))
        for name in models
    ]
    return {title: examples[title] for title in titles}


def _flat(found: dict[str, Any]) -> dict[str, float]:
    """Accuracies of one radius by what a curve is called."""
    curves = {}
    for name in (ENERGIES, _REFINED, SOFTMAX):
        for attack, value in found.get(name, {}).get("accuracy", {}).items():
            curves[f"{name}: {attack}"] = value
    return curves


def _is_drawn(name: str) -> bool:
    """Attacks at their strongest, and as published."""
    _, _, attack = name.partition(": ")
    return attack in ("published", "strict") or attack.startswith(("either", "strict, first"))


def _curves(rows: dict[str, list[dict[str, Any]]]) -> np.ndarray:
    panels = []
    for norm, found in rows.items():
        flat = [_flat(row) for row in found]
        lines = {name: [row[name] for row in flat] for name in flat[0] if _is_drawn(name)}
        panels.append(
            charts.Curves(
                f"{_NORM_NAMES[norm]}", [row["radius"] for row in found], lines,
                x_label=f"epsilon, {_UNITS}", y_label="accuracy",
            )
        )  # fmt: skip
    return charts.curves_picture(panels)


def _lines(rows: dict[str, list[dict[str, Any]]], number: int, adaptive: int) -> list[str]:
    lines = []
    for norm, found in rows.items():
        radii = "".join(f"{row['radius']:>8g}" for row in found)
        lines.append(f"accuracy, {number} images, {_NORM_NAMES[norm]:<13}{'epsilon':>15}{radii}")
        for name in _flat(found[0]):
            values = "".join(f"{_flat(row)[name]:8.3f}" for row in found)
            lines.append(f"  {name.replace('_', ' '):<48}{values}")
    if adaptive:
        return lines
    return [
        *lines,
        "  no attack went through the chains: that is no evidence that they defend "
        "(robustness.adaptive_images)",
    ]
