"""The training loop: batches in; checkpoints, metrics and pictures out."""

import collections
import functools
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np

from ebm_jax import data, experiment, parallel
from ebm_jax.io import plotting
from ebm_jax.io.interruption import Interruption
from ebm_jax.io.progress import Progress
from ebm_jax.training import divergence as guard
from ebm_jax.training.checkpoints import Checkpoints
from ebm_jax.training.metric_writers import MetricWriter
from ebm_jax.workdir import check_workdir, describe_run


def train(config: ml_collections.ConfigDict, workdir: str | pathlib.Path) -> int:
    """Trains a config in a workdir, from where the workdir's newest checkpoint is.

    Args:
      config: of the run. workdir: a directory of this run alone; made if absent.
    Returns:
      The exit code: 0, or that of an interruption (the state is saved then).
    Raises:
      ConfigError: before anything is written, for what cannot be run.
      DivergenceError: where a figure is no longer finite; the newest checkpoint is a good one.
      CheckpointError: where no state can be read or written.
    """
    parts = experiment.build(config)
    workdir = check_workdir(workdir, config)
    state = experiment.init_state(config, parts)
    num_steps = config.training.num_steps
    with experiment.open_checkpoints(config, workdir) as checkpoints, Interruption() as stop:
        if (found := checkpoints.restore_latest(state)) is not None:
            state = found[1]
        if int(state.step) >= num_steps:
            _say(f"{workdir} is trained already: it is at step {int(state.step)} of {num_steps}")
            return 0
        describe_run(workdir, config)
        run = Run(config, parts, workdir, checkpoints)
        while True:
            try:
                return run.train(state, stop)
            except guard.DivergedAt as diverged:
                retry = guard.decide(
                    diverged.divergence,
                    step=diverged.step,
                    good_steps=checkpoints.steps(),
                    attempt=int(state.attempt),
                    max_retries=config.training.max_retries,
                    checkpoints=str(workdir / "checkpoints"),
                )
                _say(f"diverged at step {diverged.step}: going back to step {retry.step}")
                state = checkpoints.restore(retry.step, state)
                state = state._replace(attempt=np.asarray(retry.attempt, np.int32))


class Run:
    """What the steps of one training run share: compiled functions and where results go."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        parts: experiment.Experiment,
        workdir: pathlib.Path,
        checkpoints: Checkpoints,
    ):
        self.config = config
        self.parts = parts
        self.workdir = workdir
        self.checkpoints = checkpoints
        self.train_step = parallel.pmap_train_step(experiment.train_step(config, parts))

    @functools.cached_property
    def sampler(self):
        """Compiled when the first grid is due."""
        devices = jax.local_device_count()
        size = -(-self.config.sampling.num_samples // devices) * devices
        return parallel.make_sampler(self.parts.objective, size)

    def train(self, state: Any, stop: Interruption) -> int:
        """Steps from a host state to the end, or to an interruption; returns the exit code."""
        config, first_step = self.config.training, int(state.step)
        state = parallel.split_state(state)
        batches = data.prefetch(self._batch, first_step)
        progress = Progress(config.num_steps, "training", first_step)
        with MetricWriter(self.workdir) as writer, progress:
            writer.rewind(first_step)
            if first_step:
                progress.note(f"going on from step {first_step}")
            # Not further ahead of the devices: on CPU their collectives can starve each other.
            in_flight = collections.deque(maxlen=1 if jax.default_backend() == "cpu" else 2)
            logged = None  # (step, metrics) on the device; read when the next step is on its way
            for step in range(first_step + 1, config.num_steps + 1):
                batch = next(batches)
                if len(in_flight) == in_flight.maxlen:
                    jax.block_until_ready(in_flight[0])
                state, metrics = self.train_step(state, batch)
                in_flight.append(metrics)
                last = step == config.num_steps
                saves = last or step % config.checkpoint_every == 0
                draws = last or (config.sample_every and step % config.sample_every == 0)
                stops = stop.requested(step) and not last
                if logged:
                    self._log(writer, progress, *logged)
                logged = (step, metrics) if last or step % config.log_every == 0 else None
                if step == first_step + 1:
                    jax.block_until_ready(metrics)  # so that the bar can tell compilation apart
                if saves or draws or stops:
                    self._require_finite(step, metrics)
                if logged and (last or stops):
                    self._log(writer, progress, *logged)
                if saves or stops:
                    self.checkpoints.save(step, parallel.join_state(state))
                if draws:
                    self._draw(writer, step, parallel.first_replica(state.ema_params))
                progress.update(step)
                if stops:
                    break
            self.checkpoints.wait()
        if stops:
            _say(f"step {step} is saved in {self.workdir}; the same command goes on from there")
            return stop.exit_code
        self._summarise(step, progress)
        return 0

    def _batch(self, step: int) -> dict[str, np.ndarray]:
        return data.local_batch(
            self.parts.dataset,
            step,
            seed=self.config.seed,
            global_batch_size=self.config.training.batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            local_devices=jax.local_device_count(),
        )

    def _require_finite(self, step: int, metrics: Any) -> dict[str, np.ndarray]:
        """The metrics on the host. Nothing is saved or drawn from a state that diverged."""
        values = jax.device_get(parallel.first_replica(metrics))
        bound = self.config.training.max_abs_energy
        if (divergence := guard.check(values, max_abs_energy=bound)) is not None:
            raise guard.DivergedAt(step, divergence)
        return values

    def _log(self, writer: MetricWriter, progress: Progress, step: int, metrics: Any) -> None:
        values = flatten_metrics(self._require_finite(step, metrics))
        if (speed := progress.steps_per_second) is not None:
            values["steps_per_second"] = speed
        writer.write(step, values)
        progress.update(step, {name: values[name] for name in ("loss", "grad_norm")})

    def _draw(self, writer: MetricWriter, step: int, ema_params: Any) -> None:
        """A grid of samples from the EMA weights and a fixed key, real images beside it."""
        key = experiment.run_keys(self.config)["sample"]
        samples = self.sampler(key, ema_params)[: self.config.sampling.num_samples]
        if jax.process_index() == 0:
            picture = experiment.picture(self.config, self.parts, ema_params, np.asarray(samples))
            plotting.save_image(self.workdir / "samples" / f"step_{step:07d}.png", picture)
            writer.images(step, {"samples": picture})

    def _summarise(self, step: int, progress: Progress) -> None:
        compiling = progress.compile_seconds
        _say(
            f"trained to step {step}; the first step took {compiling:.0f} s with its compilation"
            f"\n  samples      {self.workdir}/samples/step_{step:07d}.png"
            f"\n  checkpoints  {self.workdir}/checkpoints/"
            f"\n  metrics      {self.workdir}/metrics.jsonl; tensorboard --logdir {self.workdir}"
            f"\nnext: the same command with --mode=sample or --mode=evaluate"
        )


def flatten_metrics(metrics: dict[str, np.ndarray]) -> dict[str, float]:
    """Scalars by name; an array over levels becomes name/level_0, name/level_1, ..."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if value.ndim == 0:
            flat[name] = float(value)
        else:
            flat |= {f"{name}/level_{i}": float(v) for i, v in enumerate(value)}
    return flat


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(text, flush=True)
