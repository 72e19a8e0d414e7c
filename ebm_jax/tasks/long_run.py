"""--mode=long_run: chains far longer than those of training, and where they go."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from ebm_jax import data, energy, experiment, parallel, workdir
from ebm_jax.evaluation.density import long_run
from ebm_jax.evaluation.marginals import Marginals, level_energies
from ebm_jax.experiment import ConfigError
from ebm_jax.io import plotting
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.samplers.base import energy_and_grad

_PICTURED = 10  # chains
_PICTURED_PARTS = 5  # of a run through all levels, with a row of the picture after each
_REAL = 2_000  # images behind the figures of real ones


class _Programs(NamedTuple):
    """Compiled once for all levels and numbers of steps."""

    tune: Callable[..., Any]
    move: Callable[..., Any]
    descend: Callable[..., Any]
    measure: Callable[..., Any]


class _Plan(NamedTuple):
    """What a run does.

    events: steps at which it stops to record, keep or change its level. pictured, drawn: those of
    them that give a row of the picture, a draw for R-hat. levels: in their order. tuned: places in
    `levels` where MALA and HMC tune their step anew.
    """

    events: list[int]
    pictured: list[int]
    drawn: list[int]
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


def run(config: ml_collections.ConfigDict, directory: str) -> int:
    """Writes `long_run/`: long_run.json, curves.png, chains.png; prints the verdict."""
    trained = workdir.load_trained_on_images(config, directory, "long_run")
    make, params = experiment.make_marginals(config, trained.parts), trained.params
    marginals = make(params)
    plan = _plan(config, marginals)
    settings, low, high = config.long_run, config.data.low, config.data.high
    last_level = plan.levels[-1]
    key = jax.random.fold_in(experiment.run_keys(config)["sample"], 2)  # not the key of samples
    examples = workdir.some_examples(config, trained.parts.dataset, _REAL + settings.num_chains)
    index = np.arange(len(examples))
    noise_key = jax.random.fold_in(key, 0)
    real, too_few = long_run.reference(
        np.asarray(marginals.noised(noise_key, last_level, examples, index)),
        level_energies(
            make, params, noise_key, last_level, examples, batch_size=config.sampling.batch_size
        ),
        settings.num_chains, low=low, high=high,
    )  # fmt: skip
    programs = _programs(config, make, key)
    folder = pathlib.Path(directory) / "long_run" / "pieces"
    made_from = workdir.made_from(config, trained, "long_run")
    with ResumableWork(folder, made_from, "long chains", settings.num_steps) as pieces:
        state = pieces.load("chains") or _start(config, marginals, plan, key, examples)
        pieces.skip(int(state["step"]))
        while int(state["step"]) < settings.num_steps and not _has_diverged(state):
            before = int(state["step"])
            state = _to_next_event(config, plan, programs, params, marginals, state, real)
            pieces.save("chains", state)
            figures = dict(zip(long_run.Record._fields, state["records"][-1], strict=True))
            shown = {name: figures[name] for name in ("energy", "displacement")}
            pieces.advance(int(state["step"]) - before, shown)
        records = [_as_record(row) for row in state["records"]]
        found = long_run.verdict(records, real)
        r_hat = long_run.r_hat(state["draws"], state["draw_energies"])
        step_sizes = {
            str(plan.levels[i]): size for i, size in enumerate(state["step_sizes"]) if size > 0
        }
        rows = state["pictures"].reshape(-1, *state["pictures"].shape[2:])
        workdir.write_result(
            config, trained, directory, "long_run",
            num_examples=settings.num_chains,
            figures={
                "verdict": found._asdict(),
                "split_r_hat": {"of": "the second half of the steps", **r_hat},
                "step_sizes_by_level": step_sizes,
                "levels": plan.levels,
                "real_images": {**real._asdict(), "fit": None, "frechet_not_measured": too_few},
                "records": [record._asdict() for record in records],
                "pictured_steps": plan.pictured[: len(state["pictures"])],
            },
            drawings={
                "curves": long_run.curves(records, real),
                "chains": plotting.image_grid(rows, min(_PICTURED, settings.num_chains)),
            },
            lines=_lines(config, plan, found, r_hat, too_few),
        )  # fmt: skip
    return 0


def _plan(config: ml_collections.ConfigDict, marginals: Marginals) -> _Plan:
    settings, devices = config.long_run, jax.local_device_count()
    number, highest = settings.num_steps, marginals.num_levels - 1
    for name in ("num_steps", "num_chains", "num_leapfrog_steps"):
        if settings[name] < 1:
            raise ConfigError(f"long_run.{name} is {settings[name]}: write at least 1")
    if settings.num_chains % devices:
        nearest = max(1, round(settings.num_chains / devices)) * devices
        raise ConfigError(
            f"long_run.num_chains {settings.num_chains} does not divide among {devices} devices: "
            f"write {nearest}, the nearest that does"
        )
    if settings.sampler not in long_run.SAMPLERS:
        raise ConfigError(
            f"long_run.sampler is {settings.sampler!r}: write one of {', '.join(long_run.SAMPLERS)}"
        )
    if settings.start not in ("data", "noise"):
        raise ConfigError(f"long_run.start is {settings.start!r}: write data or noise")
    if settings.step_size < 0:
        raise ConfigError(f"long_run.step_size is {settings.step_size}: write 0 or more")
    if not (0 <= settings.level <= highest or (settings.level == -1 and highest)):
        through = ", or -1 for all of them" if highest else ""
        raise ConfigError(
            f"long_run.level is {settings.level} and the model has the levels 0 to {highest}: "
            f"write one of them{through}"
        )
    if _is_own(settings) and marginals.own_kernel is None:
        raise ConfigError(
            "long_run.sampler is 'langevin' and this method has no chain of its own: write hmc or "
            "mala, or a long_run.step_size"
        )
    records = long_run.record_steps
    if settings.level >= 0:
        pictured, drawn = long_run.picture_steps(number), long_run.draw_steps(number)
        events = {*records(number), *pictured, *drawn}
        return _Plan(sorted(events), pictured, drawn, [settings.level], number, [0])
    if number <= highest:
        raise ConfigError(
            f"long_run.num_steps is {number} for {highest + 1} levels: write at least {highest + 1}"
        )
    levels, each = list(range(highest, -1, -1)), number // (highest + 1)
    last = each * highest  # where the last level begins
    pictured = [round(number * n / _PICTURED_PARTS) for n in range(_PICTURED_PARTS + 1)]
    of_last = {last + n for n in records(number - last)}
    events = {*records(number), *range(each, last, each), *of_last, *pictured}
    tuned = long_run.tuned_places(np.asarray(marginals.conditional_std)[levels])
    # Nothing is drawn for R-hat: given x_{t+1}, each chain has a density of its own.
    return _Plan(sorted(events), pictured, [], levels, each, tuned)


def _has_diverged(state: dict[str, Any]) -> bool:
    """Whether the chains are nowhere: what they would do from here on says nothing more."""
    return len(state["records"]) > 0 and not np.all(np.isfinite(state["x"]))


def _is_own(settings: ml_collections.ConfigDict) -> bool:
    """Whether the chain is the method's, step and all."""
    return settings.sampler == "langevin" and settings.step_size == 0


def _programs(
    config: ml_collections.ConfigDict, make: Callable[[Any], Marginals], key: jax.Array
) -> _Programs:
    settings = config.long_run
    make_kernel = long_run.make_kernel(settings.sampler, settings.num_leapfrog_steps)
    through = settings.level == -1

    def energy_of(marginals: Marginals, level: jax.Array, x_noisy: jax.Array) -> energy.EnergyFn:
        """The level's own, or that of x_t given the level above. MALA and HMC run unfolded."""
        if through:
            return marginals.conditional(level, x_noisy)
        energy_fn = marginals.energy(level)
        if _is_own(settings):
            return energy_fn
        return lambda u: energy_fn(marginals.base.fold(u))

    @jax.jit
    def tune(params, level, x_noisy, u, first):
        tune_key = jax.random.fold_in(jax.random.fold_in(key, 1), level)
        energy_fn = energy_of(make(params), level, x_noisy)
        return long_run.tuned_step(tune_key, make_kernel, energy_fn, u, first)

    @jax.jit
    def move(params, level, x_noisy, u, step_size, first_step, num_steps):
        marginals = make(params)
        energy_fn = energy_of(marginals, level, x_noisy)
        if _is_own(settings):
            kernel = marginals.own_kernel(energy_fn, level)
        else:
            kernel = make_kernel(energy_fn, step_size)
        chain_key = jax.random.fold_in(key, 2)
        state, acceptance = long_run.advance(chain_key, kernel, u, first_step, num_steps)
        return state.x, acceptance

    @jax.jit
    def descend(params, level, x_noisy):
        descend_key = jax.random.fold_in(jax.random.fold_in(key, 4), level)
        return make(params).conditional_start(descend_key, level, x_noisy)

    @jax.jit
    def measure(params, level, u):
        marginals = make(params)
        x = marginals.base.fold(u)
        return x, *energy_and_grad(marginals.energy(level), x)

    return _Programs(tune, move, descend, measure)


def _start(
    config: ml_collections.ConfigDict,
    marginals: Marginals,
    plan: _Plan,
    key: jax.Array,
    examples: np.ndarray,
) -> dict[str, Any]:
    """Nothing done yet: where the chains start, and nothing recorded."""
    number = config.long_run.num_chains
    index, start_key = np.arange(number), jax.random.fold_in(key, 3)
    shape = examples.shape[1:]
    if config.long_run.start == "data":
        x = marginals.noised(start_key, plan.levels[0], examples[index % len(examples)], index)
    else:
        x = marginals.base.draw(start_key, index, shape)
    x = np.asarray(x)
    values = min(long_run.NUM_VALUES, int(np.prod(shape)))
    return {
        "step": -1,  # so that the start is an event
        "x": x, "start": x, "x_noisy": x,
        "step_sizes": np.zeros(len(plan.levels)),
        "records": np.zeros((0, len(long_run.Record._fields))),
        "draws": np.zeros((0, number, values), np.float32),
        "draw_energies": np.zeros((0, number), np.float32),
        "pictures": np.zeros((0, min(_PICTURED, number), *shape), np.uint8),
    }  # fmt: skip


def _to_next_event(
    config: ml_collections.ConfigDict,
    plan: _Plan,
    programs: _Programs,
    params: Any,
    marginals: Marginals,
    state: dict[str, Any],
    real: long_run.Reference,
) -> dict[str, Any]:
    """The state at the next event, with what is recorded there."""
    settings, state = config.long_run, dict(state)
    done = max(int(state["step"]), 0)
    event = next(step for step in plan.events if step > int(state["step"]))
    level = plan.level_at(event)
    place = plan.levels.index(level)
    u, x_noisy = parallel.spread(state["x"]), parallel.spread(state["x_noisy"])
    sizes = state["step_sizes"] = np.array(state["step_sizes"])
    if sizes[place] == 0 and not _is_own(settings):
        before = sizes[place - 1] if place else float(marginals.sigma_bar[level]) or 0.01
        sizes[place] = settings.step_size or before
        if place in plan.tuned and not settings.step_size:
            sizes[place] = float(programs.tune(params, level, x_noisy, u, before)[0])
    # At the start there are no steps to make, but programs to compile before the clock runs.
    u, acceptance = programs.move(
        params, level, x_noisy, u, float(sizes[place]), done, event - done
    )
    x, energies, grad = (np.asarray(a) for a in programs.measure(params, level, u))
    low, high = config.data.low, config.data.high
    made = long_run.record(
        event, level, x, state["start"], energies, grad, float(acceptance), real, low=low, high=high
    )
    state["records"] = np.concatenate([state["records"], [made]])
    if event in plan.pictured:
        shown = np.asarray(data.unscale_images(jnp.asarray(x[:_PICTURED]), low, high))
        state["pictures"] = np.concatenate([state["pictures"], shown[None]])
    if event in plan.drawn:
        flat = x.reshape(len(x), -1)
        values = np.linspace(0, flat.shape[1] - 1, state["draws"].shape[2]).astype(int)
        state["draws"] = np.concatenate([state["draws"], flat[None, :, values]])
        state["draw_energies"] = np.concatenate([state["draw_energies"], energies[None]])
    state["step"], state["x"] = event, np.asarray(u)
    if plan.is_last_of_level(event):
        below = programs.descend(params, plan.level_at(event + 1), parallel.spread(x))
        state["x_noisy"], state["x"], state["start"] = x, np.asarray(below), np.asarray(below)
    return state


def _as_record(row: np.ndarray) -> long_run.Record:
    step, level, *rest = row
    return long_run.Record(int(step), int(level), *(float(value) for value in rest))


def _lines(
    config: ml_collections.ConfigDict,
    plan: _Plan,
    found: long_run.Verdict,
    r_hat: dict[str, float],
    too_few: str | None,
) -> list[str]:
    settings = config.long_run
    where = f"level {plan.levels[0]}"
    if len(plan.levels) > 1:
        where = f"the levels {plan.levels[0]} to {plan.levels[-1]}, {plan.steps_per_level:,} each"
    lines = [
        f"{settings.num_chains} chains of {settings.num_steps:,} steps of {settings.sampler} from "
        f"{settings.start}, at {where}: {found.word}",
        *(f"  {reason}" for reason in found.reasons),
    ]
    if np.isfinite(r_hat["energy"]):
        lines.append(
            f"  split R-hat of the second half: energy {r_hat['energy']:.3f}, values "
            f"{r_hat['median_of_values']:.3f} in the median, {r_hat['largest']:.3f} at most"
        )
    elif len(plan.levels) > 1:
        lines.append("  no split R-hat: given its x_{t+1}, each chain has a density of its own")
    if too_few is not None:
        lines.append(f"  no Frechet distance: {too_few}")
    return lines
