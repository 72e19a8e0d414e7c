"""Long chains as sentences and curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ebm_jax.evaluation.density.long_run import Diagnosis, Record, Reference
from ebm_jax.io import charts
from ebm_jax.tasks.long_run.plan import Plan
from ebm_jax.tasks.long_run.settings import Settings


def of_real(real: Reference, no_frechet: str | None) -> dict[str, Any]:
    """What a JSON says of real images; without the fit, which is as large as their covariance."""
    return {**real._asdict(), "fit": None, "frechet_not_measured": no_frechet}


def describe(settings: Settings, plan: Plan) -> str:
    """What was run, as a phrase."""
    where = f"level {plan.levels[0]}"
    if len(plan.levels) > 1:
        where = f"the levels {plan.levels[0]} to {plan.levels[-1]}, {plan.steps_per_level:,} each"
    start = "x_{t+1} of real images and given it" if settings.is_anew else settings.start
    return (
        f"{settings.num_chains} chains of {settings.num_steps:,} steps of {settings.sampler} from "
        f"{start}, at {where}"
    )


def lines(chains: str, found: Mapping[int, Diagnosis], r_hat: Mapping[str, float]) -> list[str]:
    """What was found: of one level with all reasons, of several a word and the distance each.

    Args:
      chains: what was run, a phrase. found: by level. r_hat: of `long_run.r_hat`.
    """
    if len(found) > 1:
        words = [f"  level {t}: {of.word}; {of.reasons[-1]}" for t, of in found.items()]
        return [f"{chains}:", *words]
    (diagnosis,) = found.values()
    said = [f"{chains}: {diagnosis.word}", *(f"  {reason}" for reason in diagnosis.reasons)]
    if np.isfinite(r_hat["energy"]):
        said.append(
            f"  split R-hat of the second half: energy {r_hat['energy']:.3f}, values "
            f"{r_hat['median_of_values']:.3f} in the median, {r_hat['largest']:.3f} at most"
        )
    return said


def curves(records: Sequence[Record], real: Mapping[int, Reference]) -> np.ndarray:
    """Energy, gradient norm, displacement and Frechet distance against steps; uint8 picture.

    Of several levels with real images of their own, a curve for each against the steps made at it,
    Frechet distances and energies relative to those images'. Else the steps' axis is logarithmic
    for chains at one level, which settle, and linear for those that pass several; real images have
    the noise of the last.
    """
    if len(real) > 1:
        return charts.curves_picture(_of_levels(records, real))
    ((level, of_real),) = real.items()
    shown = [r for r in records if r.step > 0]
    steps, of_one_level = [r.step for r in shown], shown[0].level == shown[-1].level

    def panel(title: str, name: str, unit: str, of_real: float | None = None) -> charts.Curves:
        lines = {"chains": [getattr(r, name) for r in shown]}
        if of_real is not None:
            lines[f"real images, level {level}"] = [of_real] * len(shown)
        return charts.Curves(
            title, steps, lines, x_label="steps of the chain", y_label=unit, log_x=of_one_level
        )

    panels = [
        panel("energy", "energy", "nats", of_real.energy),
        panel("norm of the energy's gradient", "grad_norm", "nats per model unit"),
        panel("distance from the start", "displacement", "model units"),
    ]
    if np.isfinite(of_real.frechet_floor):
        panels.append(
            panel("Frechet distance over pixels", "frechet", "squared units", of_real.frechet_floor)
        )
    return charts.curves_picture(panels)


def _of_levels(records: Sequence[Record], real: Mapping[int, Reference]) -> list[charts.Curves]:
    by_level = {level: [r for r in records if r.level == level and r.step > 0] for level in real}
    before = {level: rs[0].step - 1 for level, rs in by_level.items()}
    steps = max(by_level.values(), key=len)
    x = [r.step - before[steps[0].level] for r in steps]

    def panel(title: str, unit: str, value: Any) -> charts.Curves:
        lines = {}
        for level, of_level in by_level.items():
            values = [value(r, real[level]) for r in of_level]
            lines[f"level {level}"] = [*values, *[np.nan] * (len(x) - len(values))]
        return charts.Curves(
            title, x, lines, x_label="steps at the level", y_label=unit, log_x=True
        )

    panels = [
        panel(
            "energy less that of real images", "their standard deviations",
            lambda r, real: (r.energy - real.energy) / max(real.energy_std, 1e-12),
        ),
        panel(
            "norm of the energy's gradient", "nats per model unit", lambda r, real: r.grad_norm
        ),
        panel("distance from the start", "model units", lambda r, real: r.displacement),
    ]  # fmt: skip
    if all(np.isfinite(of_real.frechet_floor) for of_real in real.values()):
        panels.append(
            panel(
                "Frechet distance over pixels", "that of as many real images",
                lambda r, real: r.frechet / real.frechet_floor,
            )
        )  # fmt: skip
    return panels
