"""When long chains record, change their level or tune, as their settings ask for it."""

from typing import NamedTuple

import jax
import numpy as np

from ebm_jax import parallel
from ebm_jax.evaluation.density import long_run
from ebm_jax.methods.densities import Densities
from ebm_jax.tasks.long_run.settings import Settings

_SHOWN_ROWS = 5  # of a run through all levels


class Plan(NamedTuple):
    """What a run does.

    events: steps at which it records or changes its level. shown, kept: those of them
    that give a row of the figure, a state for R-hat. levels: in their order. tuned: places in
    `levels` where MALA and HMC tune their step anew.
    """

    events: list[int]
    shown: list[int]
    kept: list[int]
    levels: list[int]
    steps_per_level: int
    tuned: list[int]

    def level_at(self, step: int) -> int:
        """The level at which the steps before this one were made."""
        passed = max(step - 1, 0) // self.steps_per_level
        return self.levels[min(passed, len(self.levels) - 1)]

    def is_last_of_level(self, step: int) -> bool:
        """Whether the chains go on at the next level from here."""
        return 0 < step < self.events[-1] and self.level_at(step) != self.level_at(step + 1)


def make_plan(settings: Settings, densities: Densities) -> Plan:
    """The plan of these settings for a model.

    Raises:
      ValueError: for a level, a sampler or a start that the model does not have, fewer steps than
        levels, and chains that the devices do not divide.
    """
    number, highest = settings.num_steps, densities.num_levels - 1
    parallel.check_divides("long_run.num_chains", settings.num_chains, jax.device_count())
    if not (settings.level <= highest and (settings.level >= 0 or highest)):
        through = ", or -1 for all of them" if highest else ""
        raise ValueError(
            f"long_run.level: expected one of the levels 0 to {highest}{through}, got "
            f"{settings.level}"
        )
    if settings.is_native and densities.native_kernel is None:
        raise ValueError(
            "long_run.sampler: expected hmc or mala, or a long_run.step_size, as this method has "
            "no chain of its own; got 'langevin'"
        )
    if settings.is_anew and not densities.num_conditionals:
        raise ValueError(
            "long_run.start: expected data or noise, as this model has no energies of x_t given "
            "x_{t+1}; got 'pairs'"
        )
    record_steps = long_run.record_steps
    if settings.level >= 0:
        shown = long_run.figure_steps(number)
        # Given x_{t+1} each chain has a density of its own, which R-hat must not compare.
        kept = [] if settings.is_conditional else long_run.kept_steps(number)
        events = {*record_steps(number), *shown, *kept}
        return Plan(sorted(events), shown, kept, [settings.level], number, [0])
    if number <= highest:
        raise ValueError(
            f"long_run.num_steps: expected at least {highest + 1}, one for each level, got {number}"
        )
    levels, each = list(range(highest, -1, -1)), number // (highest + 1)
    begins = [n * each for n in range(highest + 1)]
    tuned = long_run.tuned_places(np.asarray(densities.conditional_std)[levels])
    if settings.is_anew:
        ends = [*begins[1:], number]
        events = {
            begin + n
            for begin, end in zip(begins, ends, strict=True)
            for n in record_steps(end - begin)
        }
        shown = ends[:: -max(1, len(ends) // _SHOWN_ROWS)][::-1]
        return Plan(sorted(events), shown, [], levels, each, tuned)
    shown = [round(number * n / _SHOWN_ROWS) for n in range(_SHOWN_ROWS + 1)]
    in_last = {begins[-1] + n for n in record_steps(number - begins[-1])}
    events = {*record_steps(number), *begins[1:], *in_last, *shown}
    return Plan(sorted(events), shown, [], levels, each, tuned)
