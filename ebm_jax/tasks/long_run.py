"""--mode=long_run: chains far longer than those of training, and where they go."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from ebm_jax import parallel, samplers
from ebm_jax.energy import EnergyFn
from ebm_jax.evaluation.density import long_run
from ebm_jax.io import image_grids
from ebm_jax.io.pace import Pace
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import Params
from ebm_jax.methods.densities import Densities
from ebm_jax.runs.build import Run
from ebm_jax.runs.results import Result
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.samplers import Kernel, energy_and_grad
from ebm_jax.settings import setting
from ebm_jax.tasks import _long_run, _movement

IMAGES_ONLY = True

_SHOWN = 10  # chains of the figure
_SHOWN_ROWS = 5  # of a run through all levels
_NO_R_HAT = "  no split R-hat: given its x_{t+1}, each chain has a density of its own"
_REAL = 2_000  # images behind the metrics of real ones


@dataclasses.dataclass(frozen=True)
class Settings:
    """The chains."""

    num_steps: int = setting(10_000, "of each chain; the papers go to 100,000", at_least=1)
    num_chains: int = setting(100, "chains", at_least=1)
    start: str = setting(
        "data",
        "with the level's noise; noise, the start of sampling; or pairs: at every level anew from "
        "x_{t+1} of real images and given it, as in training",
        one_of=("data", "noise", "pairs"),
    )
    sampler: str = setting(
        "langevin", "the method's own; or mala, hmc with tuned steps", one_of=long_run.SAMPLERS
    )
    level: int = setting(
        0, "noise level whose energy is run on; -1: from the highest down through all", at_least=-1
    )
    step_size: float = setting(0.0, "of the sampler; 0: the method's own, or tuned", at_least=0)
    num_leapfrog_steps: int = setting(2, "of hmc", at_least=1)

    @property
    def is_conditional(self) -> bool:
        """Whether the energies are those of x_t given x_{t+1}."""
        return self.level == -1 or self.is_anew

    @property
    def is_anew(self) -> bool:
        """Whether chains begin at every level anew, and not where those above ended."""
        return self.start == "pairs"

    @property
    def is_native(self) -> bool:
        """Whether the chain is the method's, step and all."""
        return self.sampler == "langevin" and self.step_size == 0


class _Plan(NamedTuple):
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


def run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    """`long_run/`: long_run.json, curves.png, chains.png; prints the diagnosis."""
    with trained.for_densities() as exact:
        return _run(exact, settings, work)


def _run(trained: TrainedRun, settings: Settings, work: ResumableWork) -> Result:
    densities = trained.run.method.densities(trained.params)
    plan = _plan(settings, densities)
    chains = _Chains(trained, settings, plan, densities)
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
            "real_images": _long_run.of_real(real[levels[-1]], chains.no_frechet),
            "by_level": {
                str(level): {
                    "diagnosis": found[level]._asdict(),
                    "real_images": _long_run.of_real(real[level], chains.no_frechet),
                }
                for level in levels
            },
            "records": [record._asdict() for record in records],
            "shown_steps": plan.shown[: len(state["shown"])],
            **_movement.metrics(roughness, "the ends of the chains", stuck),
        },
        summary=[
            *_long_run.lines(_chains(settings, plan), found, r_hat),
            *([_NO_R_HAT] if settings.is_conditional else []),
            *(["  no Frechet distance: " + chains.no_frechet] if chains.no_frechet else []),
            *_movement.warning(roughness, stuck, "levels"),
        ],
        figures={
            "curves": _long_run.curves(records, real),
            "chains": image_grids.image_grid(rows, min(_SHOWN, settings.num_chains)),
        },
    )


class _Chains:
    """The chains of one run: compiled once for all levels and numbers of steps.

    They lie on the devices of all processes, so that each makes its part of them.
    """

    def __init__(self, trained: TrainedRun, settings: Settings, plan: _Plan, densities: Densities):
        self.run: Run = trained.run
        self.params = parallel.everywhere(trained.params)
        self.settings = settings
        self.plan = plan
        self.densities = densities
        self.key = trained.run.key("long_run")
        self.make_kernel = long_run.make_kernel(settings.sampler, settings.num_leapfrog_steps)
        self.examples = self.run.random_examples(self.run.dataset, _REAL + settings.num_chains)
        compared = plan.levels if settings.is_anew else plan.levels[-1:]
        found = {level: self._reference(trained, level) for level in compared}
        self._real = {level: metrics for level, (metrics, _) in found.items()}
        self.no_frechet = next(reason for _, reason in found.values())
        self.pace = Pace()
        self.tune, self.begin, self.move, self.descend, self.measure, self.jumps = (
            jax.jit(fn)
            for fn in (
                self._tune, self._begin, self._move, self._descend, self._measure, self._jumps
            )
        )  # fmt: skip

    def start(self) -> dict[str, Any]:
        """Nothing done yet: where the chains start, and nothing recorded."""
        number, shape = self.settings.num_chains, self.examples.shape[1:]
        index, start_key = np.arange(number, dtype=np.int32), jax.random.fold_in(self.key, 3)
        if self.settings.is_anew:
            x, x_noisy = self._pairs(self.plan.levels[0])
        elif self.settings.start == "data":
            x = self._starts()
            x = x_noisy = np.asarray(
                self.densities.noised(start_key, self.plan.levels[0], x, index)
            )
        else:
            x = x_noisy = np.asarray(self.densities.base.sample(start_key, index, shape))
        values = min(long_run.NUM_VALUES, int(np.prod(shape)))
        return {
            "step": -1,  # of the last event: so that the start is one
            "done": 0, "accepted": np.zeros((), np.float32),  # since that event
            "x": x, "start": x, "x_noisy": x_noisy,
            "step_sizes": np.zeros(len(self.plan.levels)),
            "is_stuck": np.zeros(len(self.plan.levels), bool),
            "records": np.zeros((0, len(long_run.Record._fields))),
            "kept": np.zeros((0, number, values), np.float32),
            "kept_energies": np.zeros((0, number), np.float32),
            "shown": np.zeros((0, min(_SHOWN, number), *shape), np.uint8),
        }  # fmt: skip

    def real_at(self, level: int) -> long_run.Reference:
        """Metrics of real images with the level's noise; of those that chains pass, the last's."""
        return self._real.get(level, self._real[self.plan.levels[-1]])

    def go_on(self, state: dict[str, Any]) -> dict[str, Any]:
        """The state after some seconds, or at the next event with what is recorded there.

        The kernel's own state is part of it, its leaves by number, so that a run is the same
        however it is cut.
        """
        plan, state = self.plan, dict(state)
        done = int(state["done"])
        event = next(step for step in plan.events if step > int(state["step"]))
        level = plan.level_at(event)
        x_noisy = parallel.spread(state["x_noisy"])
        if "leaf_0" not in state:  # at the beginning of a level
            u = parallel.spread(state["x"])
            state |= self._tuned(state, level, x_noisy, u)
        step_size = float(state["step_sizes"][plan.levels.index(level)])
        if "leaf_0" in state:
            moving = self._unflatten(state, level, x_noisy, step_size)
        else:
            moving = self.begin(self.params, level, x_noisy, u, step_size)
        # At the start there are no steps to make, but programs to compile before the clock runs.
        number = self.pace.next(event - done)
        with self.pace.timed(number):
            moving, accepted = self.move(
                self.params, level, x_noisy, step_size, moving, state["accepted"], done, number
            )
            state["accepted"] = parallel.whole(accepted)
        for i, leaf in enumerate(jax.tree.leaves(moving)):
            state[f"leaf_{i}"] = parallel.whole(leaf)
        state["x"], state["done"] = parallel.whole(moving.x), done + number
        if done + number == event:
            self._record(state, event, level)
        return state

    def roughness(self, state: dict[str, Any]) -> float:
        """`samplers.roughness` in nats, at the chains' last level and where they are."""
        u, level = parallel.spread(state["x"]), int(state["records"][-1][1])
        return float(parallel.whole(self.jumps(self.params, level, u)))

    def _reference(self, trained: TrainedRun, level: int) -> tuple[long_run.Reference, str | None]:
        noise_key = jax.random.fold_in(self.key, 0)
        index = np.arange(len(self.examples), dtype=np.int32)
        return long_run.reference(
            np.asarray(self.densities.noised(noise_key, level, self.examples, index)),
            trained.energies(noise_key, level, self.examples),
            self.settings.num_chains,
            low=self.run.data.low,
            high=self.run.data.high,
        )

    def _starts(self) -> np.ndarray:
        """The images of which chains start, [num_chains, ...]."""
        return self.examples[np.arange(self.settings.num_chains) % len(self.examples)]

    def _pairs(self, level: int) -> tuple[np.ndarray, np.ndarray]:
        """(start, x_{t+1}) of chains on x_t given x_{t+1} of real images; pure noise at the top."""
        index = np.arange(self.settings.num_chains, dtype=np.int32)
        key = jax.random.fold_in(jax.random.fold_in(self.key, 5), level)
        noise_key, step_key = jax.random.split(key)
        x_noisy = self.densities.base.sample(step_key, index, self.examples.shape[1:])
        if level < self.densities.num_conditionals:
            x = self.densities.noised(noise_key, level, self._starts(), index)
            x_noisy = self.densities.noised_further(step_key, level, x, index)
        x_noisy = np.asarray(x_noisy)
        return self._below(level, x_noisy), x_noisy

    def _below(self, level: int, x_noisy: np.ndarray) -> np.ndarray:
        """Where chains given x_{t+1} start."""
        return parallel.whole(self.descend(self.params, level, parallel.spread(x_noisy)))

    def _record(self, state: dict[str, Any], event: int, level: int) -> None:
        """Adds to the state what is kept of an event, and goes down where a level ends."""
        plan, u = self.plan, parallel.spread(state["x"])
        x, energies, grad = map(parallel.whole, self.measure(self.params, level, u))
        steps = event - max(int(state["step"]), 0)
        acceptance = float(state["accepted"]) / steps if steps else 1.0
        record = long_run.record(
            event, level, x, state["start"], energies, grad, acceptance, self.real_at(level),
            low=self.run.data.low, high=self.run.data.high,
        )  # fmt: skip
        state["records"] = np.concatenate([state["records"], [record]])
        if event in plan.shown:
            shown = self.run.to_pixels(x[:_SHOWN])
            state["shown"] = np.concatenate([state["shown"], shown[None]])
        if event in plan.kept:
            flat = x.reshape(len(x), -1)
            values = np.linspace(0, flat.shape[1] - 1, state["kept"].shape[2]).astype(int)
            state["kept"] = np.concatenate([state["kept"], flat[None, :, values]])
            state["kept_energies"] = np.concatenate([state["kept_energies"], energies[None]])
        state["step"], state["accepted"] = event, np.zeros((), np.float32)
        if plan.is_last_of_level(event):
            below = plan.level_at(event + 1)
            state["x"], state["x_noisy"] = (
                self._pairs(below) if self.settings.is_anew else (self._below(below, x), x)
            )
            state["start"] = state["x"]
            for name in [name for name in state if name.startswith("leaf_")]:
                del state[name]

    def _unflatten(
        self, state: dict[str, Any], level: int, x_noisy: jax.Array, step_size: float
    ) -> Any:
        """The kernel's state of what `go_on` has kept of it."""
        like = jax.eval_shape(
            self._begin, self.params, level, x_noisy, jax.typeof(x_noisy), step_size
        )
        number = self.settings.num_chains
        leaves = [
            parallel.spread(leaf) if leaf.shape[:1] == (number,) else parallel.everywhere(leaf)
            for leaf in (state[f"leaf_{i}"] for i in range(len(jax.tree.leaves(like))))
        ]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def _tuned(
        self, state: dict[str, Any], level: int, x_noisy: jax.Array, u: jax.Array
    ) -> dict[str, Any]:
        """The step size of a level, which MALA and HMC find when they first come to it."""
        place, sizes = self.plan.levels.index(level), np.array(state["step_sizes"])
        is_stuck = np.array(state["is_stuck"])
        if sizes[place] == 0 and not self.settings.is_native:
            before = sizes[place - 1] if place else float(self.densities.sigma_bar[level]) or 0.01
            sizes[place] = self.settings.step_size or before
            if place in self.plan.tuned and not self.settings.step_size:
                found = self.tune(self.params, level, x_noisy, u, float(before))
                sizes[place], is_stuck[place] = map(parallel.whole, found)
        return {"step_sizes": sizes, "is_stuck": is_stuck}

    def _energy(self, densities: Densities, level: Any, x_noisy: jax.Array) -> EnergyFn:
        """The level's own, or that of x_t given x_{t+1}.

        MALA and HMC run in reflected coordinates.
        """
        if self.settings.is_conditional:
            assert densities.conditional is not None  # of every model with several levels
            return densities.conditional(level, x_noisy)
        energy_fn = densities.energy(level)
        if self.settings.is_native:
            return energy_fn
        return lambda u: energy_fn(densities.base.reflect(u))

    def _tune(self, params: Params, level: Any, x_noisy: jax.Array, u: jax.Array, first: Any):
        key = jax.random.fold_in(jax.random.fold_in(self.key, 1), level)
        energy_fn = self._energy(self.run.method.densities(params), level, x_noisy)
        return long_run.tuned_step(key, self.make_kernel, energy_fn, u, first)

    def _kernel(self, params: Params, level: Any, x_noisy: jax.Array, step_size: Any) -> Kernel:
        densities = self.run.method.densities(params)
        energy_fn = self._energy(densities, level, x_noisy)
        if not self.settings.is_native:
            return self.make_kernel(energy_fn, step_size)
        assert densities.native_kernel is not None  # else `_plan` has refused
        return densities.native_kernel(energy_fn, level)

    def _begin(
        self, params: Params, level: Any, x_noisy: jax.Array, u: jax.Array, step_size: Any
    ) -> Any:
        return self._kernel(params, level, x_noisy, step_size).init(u)

    def _move(
        self, params: Params, level: Any, x_noisy: jax.Array, step_size: Any, state: Any,
        accepted: Any, first_step: Any, num_steps: Any,
    ) -> tuple[Any, jax.Array]:  # fmt: skip
        kernel = self._kernel(params, level, x_noisy, step_size)
        chain_key = jax.random.fold_in(self.key, 2)
        return long_run.advance(chain_key, kernel, state, accepted, first_step, num_steps)

    def _descend(self, params: Params, level: Any, x_noisy: jax.Array):
        key = jax.random.fold_in(jax.random.fold_in(self.key, 4), level)
        return self.run.method.densities(params).conditional_start(key, level, x_noisy)

    def _measure(self, params: Params, level: Any, u: jax.Array):
        densities = self.run.method.densities(params)
        x = densities.base.reflect(u)
        return x, *energy_and_grad(densities.energy(level), x)

    def _jumps(self, params: Params, level: Any, u: jax.Array) -> jax.Array:
        densities = self.run.method.densities(params)
        energy_fn, reflect = densities.energy(level), densities.base.reflect
        return samplers.roughness(lambda u: energy_fn(reflect(u)), u).nats


def _plan(settings: Settings, densities: Densities) -> _Plan:
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
        return _Plan(sorted(events), shown, kept, [settings.level], number, [0])
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
        return _Plan(sorted(events), shown, [], levels, each, tuned)
    shown = [round(number * n / _SHOWN_ROWS) for n in range(_SHOWN_ROWS + 1)]
    in_last = {begins[-1] + n for n in record_steps(number - begins[-1])}
    events = {*record_steps(number), *begins[1:], *in_last, *shown}
    return _Plan(sorted(events), shown, [], levels, each, tuned)


def _has_diverged(state: dict[str, Any]) -> bool:
    """Whether the chains are nowhere: what they would do from here on says nothing more."""
    return len(state["records"]) > 0 and not np.all(np.isfinite(state["x"]))


def _as_record(row: np.ndarray) -> long_run.Record:
    step, level, *rest = row
    return long_run.Record(int(step), int(level), *(float(value) for value in rest))


def _chains(settings: Settings, plan: _Plan) -> str:
    """What was run, as a phrase."""
    where = f"level {plan.levels[0]}"
    if len(plan.levels) > 1:
        where = f"the levels {plan.levels[0]} to {plan.levels[-1]}, {plan.steps_per_level:,} each"
    start = "x_{t+1} of real images and given it" if settings.is_anew else settings.start
    return (
        f"{settings.num_chains} chains of {settings.num_steps:,} steps of {settings.sampler} from "
        f"{start}, at {where}"
    )
