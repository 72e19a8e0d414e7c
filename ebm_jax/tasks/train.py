"""--mode=train: trains the run of a workdir, from where its newest checkpoint is."""

import contextlib
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from ebm_jax import data, parallel
from ebm_jax.io import image_grids
from ebm_jax.io.interruption import Interruption
from ebm_jax.io.progress import Progress
from ebm_jax.runs import build, data_facts, init_from, preview
from ebm_jax.runs.build import Run
from ebm_jax.runs.data_facts import DataFacts
from ebm_jax.runs.lock import Lock
from ebm_jax.runs.settings import Compute, ConfigError, Training, one_line, read_section
from ebm_jax.runs.workdir import (
    check_config,
    check_workdir,
    describe_run,
    open_checkpoints,
)
from ebm_jax.settings import setting
from ebm_jax.training import device_state, divergence, loop, trackers
from ebm_jax.training.checkpoint_files import NonFiniteError
from ebm_jax.training.checkpoints import Checkpoints
from ebm_jax.training.metric_writers import MetricWriter, flatten_metrics
from ebm_jax.training.state import TrainState
from ebm_jax.training.trackers import Trackers
from ebm_jax.training.train_step import make_train_step


@dataclasses.dataclass(frozen=True)
class Settings:
    """What training writes how often, and when it gives up; none of it binds a workdir."""

    log_every: int = setting(100, "steps between two lines of metrics", at_least=1)
    sample_every: int = setting(
        10_000, "steps between two grids of samples; 0: at the end alone", at_least=0
    )
    checkpoint_every: int = setting(5_000, "steps", at_least=1)
    keep_checkpoints: int = setting(3, "number of latest checkpoints to keep", at_least=1)
    pin_every: int = setting(
        0, "steps; checkpoints at its multiples are kept for good; 0: none", at_least=0
    )
    max_abs_energy: float = setting(
        1e8, "a larger mean energy counts as divergence; or inf", above=0, may_be_infinite=True
    )
    max_retries: int = setting(
        0, "times to go back to the last checkpoint, with other random numbers", at_least=0
    )
    writers: tuple[str, ...] = setting(
        (), "of metrics, beside metrics.jsonl and TensorBoard", one_of=tuple(trackers.SERVICES)
    )


def main(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> int:
    """Trains a config in a workdir; made if absent.

    Returns:
      The exit code: 0, or that of an interruption (the state is saved then).
    Raises:
      ConfigError: before anything is written, for what cannot be run.
      DivergenceError: where anything is no longer finite; the newest checkpoint is a good one.
      CheckpointError: where no state can be read or written.
    """
    settings = read_section(config, "train", Settings)
    training = read_section(config, "training", Training)
    parts = _num_parts(training.batch_size, read_section(config, "compute", Compute).microbatch)
    path = check_workdir(workdir, config)
    with one_line():
        parallel.first_does(lambda: _check_init_from(training, path))
        parallel.first_does(lambda: trackers.check(settings.writers))
    run = build.build(config, workdir=path)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(Lock(path))
        check_config(path, config, "resume")  # again: another command may have ended just now
        checkpoints = stack.enter_context(
            open_checkpoints(
                config,
                path,
                keep_latest=settings.keep_checkpoints,
                pin_every=settings.pin_every or None,
            )
        )
        stop = stack.enter_context(Interruption())
        state, provenance = build.init_state(run), {}
        if (found := checkpoints.restore_latest(state)) is not None:
            state = found[1]
        elif training.init_from:
            state, provenance["init_from"] = init_from.load(training.init_from, state)
            run = init_from.with_its_mixture(
                run, training.init_from, is_trained_on=training.num_steps > 0
            )
        if found is not None and int(state.step) >= training.num_steps:
            step = int(state.step)
            _say(f"{path} is trained already: it is at step {step} of {training.num_steps}")
            return 0
        with one_line():
            device_state.check_shards(state, parts)
        describe_run(path, config, **provenance)
        data_facts.keep(path, DataFacts.of_method(run.method))
        others = stack.enter_context(Trackers())
        session = _Session(run, settings, training, parts, path, checkpoints, stop, lock, others)
        if not training.num_steps:
            return session.keep(state)
        with one_line():
            parallel.first_does(lambda: others.start(settings.writers, path, config.to_dict()))
        while True:
            try:
                return session.train(state)
            except divergence.DivergedAt as diverged:
                state = session.go_back(state, diverged)


def _check_init_from(training: Training, path: pathlib.Path) -> None:
    """Raises ConfigError where a run that is to begin now begins from parameters that are not."""
    if training.init_from and not (path / "checkpoints").is_dir():
        init_from.check(training.init_from)


def _num_parts(batch_size: int, microbatch: int) -> int:
    """Into which the examples on a device are divided, microbatch in each; 0: all in one."""
    on_device = batch_size // jax.device_count()
    if microbatch and on_device % microbatch:
        divisors = [size for size in range(1, on_device + 1) if on_device % size == 0]
        fits = min(divisors, key=lambda size: abs(size - microbatch))
        raise ConfigError(
            f"compute.microbatch: expected a divisor of the {on_device} examples on a device, such "
            f"as {fits}, got {microbatch}"
        )
    return on_device // microbatch if microbatch else 1


class _Session:
    """A command's training: compiled functions, and the callbacks of the loop."""

    def __init__(
        self,
        run: Run,
        settings: Settings,
        training: Training,
        parts: int,
        workdir: pathlib.Path,
        checkpoints: Checkpoints,
        stop: Interruption,
        lock: Lock,
        others: Trackers,
    ):
        self.run = run
        self.settings = settings
        self.training = training
        self.workdir = workdir
        self.checkpoints = checkpoints
        self.stop = stop
        self.lock = lock
        self.others = others
        self.is_saved = bool(checkpoints.steps())
        self.step_fn = device_state.pmap_train_step(
            make_train_step(
                run.method,
                build.make_optimizer(run.config),
                rng_key=run.key("train"),
                ema_decay=training.ema_decay,
                preprocess=run.preprocess(),
                num_parts=parts,
            )
        )

    def train(self, state: TrainState) -> int:
        """Steps from a host state to the end, or to an interruption; returns the exit code."""
        first_step = int(state.step)
        on_devices = device_state.to_devices(state)
        progress = Progress(self.training.num_steps, "training", first_step)
        with MetricWriter(self.workdir, others=self.others) as writer, progress:
            writer.rewind(first_step)
            if first_step:
                progress.note(f"going on from step {first_step}")
            outcome = loop.fit(
                on_devices,
                self.step_fn,
                data.prefetch(self._batch, first_step),
                first_step=first_step,
                schedule=loop.Schedule(
                    self.training.num_steps,
                    self.settings.log_every,
                    self.settings.sample_every,
                    self.settings.checkpoint_every,
                ),
                callbacks=loop.Callbacks(
                    check=lambda step, metrics: self._finite(step, metrics),
                    log=functools.partial(self._log, writer, progress),
                    save=self._save,
                    sample=functools.partial(self._sample, writer),
                    step_done=progress.update,
                ),
                stop=self.stop,
                # On CPU the collectives of two steps in flight can starve each other of threads.
                max_in_flight=1 if jax.default_backend() == "cpu" else 2,
            )
            self.checkpoints.wait()
        if not outcome.is_complete:
            _say(
                f"step {outcome.step} is saved in {self.workdir}; the same command goes on from "
                "there"
            )
            return self.stop.exit_code
        self._summarize(outcome.step, progress)
        return 0

    def keep(self, state: TrainState) -> int:
        """Saves a host state as it is, so that the modes can be run on what it starts from."""
        self.lock.check()
        self.checkpoints.save(0, state)
        self.checkpoints.wait()
        _say(f"the parameters to start from are in {self.workdir}, untrained; next: --mode=sample")
        return 0

    def go_back(self, state: TrainState, diverged: divergence.DivergedAt) -> TrainState:
        """The last good state, with other random numbers to come.

        Raises:
          DivergenceError: where there is none, or no retry left.
        """
        retry = divergence.decide(
            diverged.divergence,
            step=diverged.step,
            good_steps=self.checkpoints.steps(),
            attempt=int(state.attempt),
            max_retries=self.settings.max_retries,
            checkpoints=str(self.workdir / "checkpoints"),
        )
        _say(f"diverged at step {diverged.step}: going back to step {retry.step}")
        state = self.checkpoints.restore(retry.step, state)
        return state._replace(attempt=np.asarray(retry.attempt, np.int32))

    def _batch(self, step: int) -> dict[str, np.ndarray]:
        return data.local_batch(
            self.run.dataset,
            step,
            seed=self.run.general.seed,
            global_batch_size=self.training.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            local_devices=jax.local_device_count(),
        )

    def _finite(self, step: int, metrics: Any) -> dict[str, np.ndarray]:
        """The metrics on the host. Nothing is saved or sampled of a state that diverged."""
        values = jax.device_get(parallel.first_replica(metrics))
        found = divergence.check(values, max_abs_energy=self.settings.max_abs_energy)
        if found is not None:
            raise divergence.DivergedAt(step, found)
        return values

    def _save(self, step: int, state: TrainState) -> None:
        """Saves the state. What is infinite in it alone, such as moments, is divergence too."""
        self.lock.check()
        on_host = device_state.to_host(state)
        try:
            self.checkpoints.save(step, on_host)
        except NonFiniteError as error:
            found = divergence.Divergence(f"a value of {error.name}", None)
            raise divergence.DivergedAt(step, found) from error
        if not self.is_saved:  # what cannot be read back is known now, and not after days
            self.checkpoints.restore(step, on_host)
            self.is_saved = True

    def _log(self, writer: MetricWriter, progress: Progress, step: int, metrics: Any) -> None:
        metrics = self._finite(step, metrics)
        del metrics["finite_so_far"]  # true, or nothing is logged
        values = flatten_metrics(metrics)
        progress.update(step, {name: values[name] for name in ("loss", "grad_norm")})
        if (speed := progress.lap()) is not None:
            values["steps_per_second"] = speed
        writer.write(step, values)

    @functools.cached_property
    def _sampler(self) -> Any:
        """(params, index) -> {'x': samples}; compiled when the first grid is due."""
        key, method = self.run.key("sample"), self.run.method
        size = parallel.round_up(self.run.sampling.num_samples)
        return parallel.map_examples(
            lambda params, index: {"x": method.sample(params, key, index)}, size
        )

    def _sample(self, writer: MetricWriter, step: int, state: TrainState) -> None:
        """A grid of samples from the EMA weights and a fixed key, real images beside it."""
        ema_params = parallel.first_replica(state.ema_params)
        index = np.arange(self.run.sampling.num_samples, dtype=np.int32)
        samples = self._sampler(ema_params, index)["x"]
        if jax.process_index() == 0:
            figure = preview.figure(self.run, ema_params, samples)
            image_grids.save_image(self.workdir / "samples" / f"step_{step:07d}.png", figure)
            writer.images(step, {"samples": figure})

    def _summarize(self, step: int, progress: Progress) -> None:
        seconds = progress.compile_seconds or 0.0
        judge = "rollout" if self.run.has_trajectories else "evaluate"
        _say(
            f"trained to step {step}; the first step took {seconds:.0f} s with its compilation"
            f"\n  samples      {self.workdir}/samples/step_{step:07d}.png"
            f"\n  checkpoints  {self.workdir}/checkpoints/"
            f"\n  metrics      {self.workdir}/metrics.jsonl; tensorboard --logdir {self.workdir}"
            f"\nnext: the same command with --mode=sample or --mode={judge}"
        )


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
