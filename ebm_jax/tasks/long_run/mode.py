"""What --mode=long_run does: the chains in pieces, and what was found of them."""

from typing import Any

import numpy as np

from ebm_jax.evaluation.density import long_run
from ebm_jax.io import image_grids
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks import _movement
from ebm_jax.tasks.long_run import reporting
from ebm_jax.tasks.long_run.chains import SHOWN, Chains
from ebm_jax.tasks.long_run.plan import make_plan
from ebm_jax.tasks.long_run.settings import Settings

_NO_R_HAT = "  no split R-hat: given its x_{t+1}, each chain has a density of its own"


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`long_run/`: long_run.json, curves.png, chains.png; prints the diagnosis."""
    with trained.for_densities() as exact:
        return _run(exact, settings, work)


def _run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    densities = trained.run.method.densities(trained.params)
    plan = make_plan(settings, densities)
    chains = Chains(trained, settings, plan, densities)
    work.begin("long chains", settings.num_steps)
    state = work.load("chains") or chains.start()
    work.skip(int(state["done"]))
    while int(state["step"]) < settings.num_steps and not _has_diverged(state):
        before = int(state["done"])
        state = chains.go_on(state)
        work.save_state("chains", state)
        shown = {}
        if len(state["records"]):
            last = dict(zip(long_run.Record._fields, state["records"][-1], strict=True))
            shown = {name: last[name] for name in ("energy", "displacement")}
        work.advance(int(state["done"]) - before, shown)
    records = [_as_record(row) for row in state["records"]]
    levels = sorted({record.level for record in records}, reverse=True)
    if not settings.is_anew:
        levels = levels[-1:]
    found = {
        level: long_run.diagnose([r for r in records if r.level == level], chains.real_at(level))
        for level in levels
    }
    r_hat = long_run.r_hat(state["kept"], state["kept_energies"])
    roughness = chains.roughness(state)
    stuck = [plan.levels[i] for i, is_stuck in enumerate(state["is_stuck"]) if is_stuck]
    rows = state["shown"].reshape(-1, *state["shown"].shape[2:])
    real = {level: chains.real_at(level) for level in levels}
    return Result(
        num_examples=settings.num_chains,
        metrics={
            "diagnosis": found[levels[-1]]._asdict(),
            "split_r_hat": {"of": "the second half of the steps", **r_hat},
            "step_sizes_by_level": {
                str(plan.levels[i]): size for i, size in enumerate(state["step_sizes"]) if size > 0
            },
            "levels": plan.levels,
            "real_images": reporting.of_real(real[levels[-1]], chains.no_frechet),
            "by_level": {
                str(level): {
                    "diagnosis": found[level]._asdict(),
                    "real_images": reporting.of_real(real[level], chains.no_frechet),
                }
                for level in levels
            },
            "records": [record._asdict() for record in records],
            "shown_steps": plan.shown[: len(state["shown"])],
            **_movement.metrics(roughness, "the ends of the chains", stuck),
        },
        summary=[
            *reporting.lines(reporting.describe(settings, plan), found, r_hat),
            *([_NO_R_HAT] if settings.is_conditional else []),
            *(["  no Frechet distance: " + chains.no_frechet] if chains.no_frechet else []),
            *_movement.warning(roughness, stuck, "levels"),
        ],
        figures={
            "curves": reporting.curves(records, real),
            "chains": image_grids.image_grid(rows, min(SHOWN, settings.num_chains)),
        },
    )


def _has_diverged(state: dict[str, Any]) -> bool:
    """Whether the chains are nowhere: what they would do from here on says nothing more."""
    return len(state["records"]) > 0 and not np.all(np.isfinite(state["x"]))


def _as_record(row: np.ndarray) -> long_run.Record:
    step, level, *rest = row
    return long_run.Record(int(step), int(level), *(float(value) for value in rest))
