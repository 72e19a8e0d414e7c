"""The chains of a long run: how they start, go on, and what is kept of them."""

from typing import Any

import jax
import numpy as np

from ebm_jax import parallel, samplers
from ebm_jax.energy import EnergyFn
from ebm_jax.evaluation.density import long_run
from ebm_jax.io.pace import Pace
from ebm_jax.methods.base import Params
from ebm_jax.methods.densities import Densities
from ebm_jax.runs.build import Run
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.samplers import Kernel, energy_and_grad
from ebm_jax.tasks.long_run.plan import Plan
from ebm_jax.tasks.long_run.settings import Settings

SHOWN = 10  # chains of the figure
_REAL = 2_000  # images behind the metrics of real ones


class Chains:
    """The chains of one run: compiled once for all levels and numbers of steps.

    They lie on the devices of all processes, so that each makes its part of them.
    """

    def __init__(self, trained: TrainedRun, settings: Settings, plan: Plan, densities: Densities):
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
            "shown": np.zeros((0, min(SHOWN, number), *shape), np.uint8),
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
            shown = self.run.to_pixels(x[:SHOWN])
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
        assert densities.native_kernel is not None  # else `make_plan` has refused
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
        start = self.run.method.densities(params).conditional_start
        assert start is not None  # of every model with several levels
        return start(key, level, x_noisy)

    def _measure(self, params: Params, level: Any, u: jax.Array):
        densities = self.run.method.densities(params)
        x = densities.base.reflect(u)
        return x, *energy_and_grad(densities.energy(level), x)

    def _jumps(self, params: Params, level: Any, u: jax.Array) -> jax.Array:
        densities = self.run.method.densities(params)
        energy_fn, reflect = densities.energy(level), densities.base.reflect
        return samplers.roughness(lambda u: energy_fn(reflect(u)), u).nats
