"""Trained models: the EMA parameters of a run's checkpoints, on the host."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from ebm_jax import parallel
from ebm_jax.io import files
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import BlockSampler, Params
from ebm_jax.runs import build
from ebm_jax.runs.build import Run
from ebm_jax.runs.data_facts import DataFacts
from ebm_jax.runs.settings import ConfigError, one_line
from ebm_jax.runs.workdir import (
    check_config,
    config_from_json,
    open_checkpoints,
    resolve,
    saved_config,
)


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A run with the parameters that its training ended with.

    run: as the config describes it. step: of the newest checkpoint that is read.
    params: EMA, on the host. ema_decay: that of its training. workdir: where it is; None: nowhere.
    """

    run: Run
    step: int
    params: Params
    ema_decay: float
    workdir: pathlib.Path | None = None

    def samples(self, work: ResumableWork, number: int, *, first: int = 0) -> np.ndarray:
        """Samples [number, ...] in model units; sample i depends on sampling.seed and i alone.

        All of them in memory; `sampler` makes them a batch at a time.
        """
        if self.block_size:
            return self._samples_of_blocks(work, number, first)
        index = np.arange(first, first + number, dtype=np.int32)
        return work.piece("samples", self.fingerprint(first=first)).map_batches(
            "samples",
            self._sample,
            self.params,
            (index,),
            batch_size=self.run.sampling.batch_size,
        )["x"]

    def sampler(
        self, rng_key: jax.Array | None = None, work: ResumableWork | None = None
    ) -> Callable[[int, int], np.ndarray]:
        """(first, stop) -> the samples first .. stop - 1 in model units, on the local devices.

        At most `sampling.batch_size` at once, rounded up to the devices. Samples that are made in
        blocks (`sampler.chains='refreshed_buffer'`) are best asked for in order: one block is kept.

        rng_key: of all samples; None: that of sampling.seed. work: whose bar shows how far a block
        is.
        """
        if self.block_size:
            return self._block_sampler(rng_key, work)
        sample = functools.partial(self._sample, rng_key=rng_key)
        mapped = parallel.map_examples(sample, parallel.round_up(self.run.sampling.batch_size))
        return lambda first, stop: mapped(self.params, np.arange(first, stop, dtype=np.int32))["x"]

    @property
    def block_size(self) -> int:
        """Samples that are made together; 0: each by itself."""
        method = self.run.method
        return method.block_size if isinstance(method, BlockSampler) else 0

    def _block_sampler(
        self, rng_key: jax.Array | None, work: ResumableWork | None
    ) -> Callable[[int, int], np.ndarray]:
        method, size = self.run.method, self.block_size
        assert isinstance(method, BlockSampler)
        key = self.run.key("sample") if rng_key is None else rng_key
        draws_key, chains_key = jax.random.split(key)
        kept: dict[int, np.ndarray] = {}

        def moved(params: Params, number: Any, x: Any, index: Any, label: Any, block: Any) -> Any:
            key = jax.random.fold_in(chains_key, block[0])
            return {"x": method.move_entries(params, key, number, x, index, label)}

        mapped = parallel.map_examples(moved, parallel.round_up(method.num_moved))

        def of_block(block: int) -> np.ndarray:
            if block not in kept:
                kept.clear()
                blocks = np.full(method.num_moved, block, np.int32)

                def show(number: int) -> None:
                    if work is not None:
                        work.show({"block": block, "round": number})

                kept[block] = method.sample_block(
                    self.params, draws_key, block, lambda *given: mapped(*given, blocks)["x"], show
                )
            return kept[block]

        def sample(first: int, stop: int) -> np.ndarray:
            blocks = range(first // size, -(-stop // size))
            x = np.concatenate([of_block(block) for block in blocks])
            return x[first - blocks[0] * size : stop - blocks[0] * size]

        return sample

    def _samples_of_blocks(self, work: ResumableWork, number: int, first: int) -> np.ndarray:
        piece = work.piece("samples", self.fingerprint(first=first, number=number))
        sample = self._block_sampler(None, work)

        def with_these(x: np.ndarray, start: int, found: dict[str, np.ndarray]) -> np.ndarray:
            return np.concatenate([x[:start], found["x"], x[start + len(found["x"]) :]])

        return piece.fold_batches(
            "samples",
            lambda start, stop: {"x": sample(first + start, first + stop)},
            with_these,
            np.zeros((number, *self.run.dataset.example_shape), np.float32),
            number=number,
            batch_size=self.block_size,
        )

    def _sample(
        self, params: Params, index: Any, rng_key: jax.Array | None = None
    ) -> dict[str, Any]:
        rng_key = self.run.key("sample") if rng_key is None else rng_key
        return {"x": self.run.method.sample(params, rng_key, index)}

    @contextlib.contextmanager
    def for_densities(self) -> Iterator["TrainedRun"]:
        """This model, its energies as exact as can be: in float32, products at highest precision.

        Metropolis tests and annealing compare energies of neighboring points: in bfloat16, or at
        the precision that accelerators multiply at by default, energies of thousands of nats carry
        noise of whole nats. Make and call the programs inside.
        """
        with jax.default_matmul_precision("highest"):
            yield dataclasses.replace(self, run=self.run.in_float32())

    def fingerprint(self, **others: Any) -> dict[str, Any]:
        """What samples and energies of this model depend on, for a piece of `ResumableWork`.

        others: what that piece depends on beside it.
        """
        config = self.run.config.to_dict()
        sections = ("data", "network", "method", "sampler", "ensemble", "compute")
        return {
            "checkpoint_step": self.step,
            "model_sha256": self._sha256,
            "config": {name: config[name] for name in sections},
            "sampling_seed": self.run.sampling.seed,
            "versions": files.versions(),
            **others,
        }

    @functools.cached_property
    def _sha256(self) -> str:
        """Of the parameters, and of what the method has from the data.

        So that nothing kept is of a run that was in the same folder, trained for as long.
        """
        leaves = jax.tree.leaves((self.params, DataFacts.of_method(self.run.method).groups()))
        return files.arrays_sha256(*map(np.asarray, leaves))

    def energies(self, rng_key: jax.Array, level: int, x: np.ndarray) -> np.ndarray:
        """Energies [n] of examples x [n, ...] brought to a level's noise, on all devices.

        rng_key: example i's noise is a function of it and i.
        """

        def energies(params: Params, x: jax.Array, index: jax.Array) -> jax.Array:
            densities = self.run.method.densities(params)
            noised = densities.noised(rng_key, level, x, index)
            return densities.energy(jnp.asarray(level))(noised)

        size = min(self.run.sampling.batch_size * jax.process_count(), len(x))
        size = parallel.round_up(size, jax.device_count())
        program, params, found = jax.jit(energies), parallel.everywhere(self.params), []
        for first in range(0, len(x), size):
            rows = np.minimum(np.arange(first, first + size), len(x) - 1)
            spread = parallel.spread(x[rows]), parallel.spread(rows.astype(np.int32))
            found.append(parallel.whole(program(params, *spread)))
        return np.concatenate(found)[: len(x)]

    def provenance(self, num_examples: int) -> dict[str, object]:
        """What a result was measured on: checkpoint, weights, sampler, number, data, versions."""
        config = self.run.config
        return {
            "checkpoint_step": self.step,
            "ensemble": config.ensemble.to_dict() if config.ensemble.checkpoints else None,
            "weights": "EMA",
            "ema_decay": self.ema_decay,
            "method": config.method.to_dict(),
            "sampler": config.sampler.to_dict(),
            "num_samples": num_examples,
            "sampling_seed": self.run.sampling.seed,
            "data": {"name": self.run.data.name, "trained_on": self.run.data.split},
            "versions": files.versions(),
        }


def check_trained(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> pathlib.Path:
    """The path of a workdir in which a run of this config is trained.

    Raises:
      ConfigError: where nothing is trained there, or with another config.
    """
    path = resolve(workdir)

    def check() -> None:
        if not (path / "checkpoints").is_dir():
            raise ConfigError(
                f"nothing is trained in {path}: run the same command with --mode=train"
            )

    with one_line():
        parallel.first_does(check)
    check_config(path, config, "evaluate")
    return path


def load_other(workdir: str | os.PathLike) -> TrainedRun:
    """The newest intact checkpoint of another workdir, with the config that it was trained with.

    Raises:
      ConfigError: where nothing is trained there.
    """
    path = resolve(workdir)
    if (saved := saved_config(path)) is None:
        raise ConfigError(f"expected the workdir of a trained run, got {path}, which has none")
    return load_trained(config_from_json(saved), path)


def load_trained(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> TrainedRun:
    """The newest intact checkpoint of a workdir, or those of `ensemble.checkpoints` as one.

    Reads the EMA weights alone: how the run was trained, and on how many devices, does not enter.

    Raises:
      ConfigError: where nothing is trained there, or with another config, or not at these steps.
    """
    path = check_trained(config, workdir)
    saved = (saved_config(path) if jax.process_index() == 0 else None) or {}  # for provenance
    ema_decay = saved.get("training", {}).get("ema_decay", config.training.ema_decay)
    run = build.build(config, workdir=path)
    template = build.params_template(run)
    with open_checkpoints(config, path) as checkpoints:
        if steps := tuple(config.ensemble.checkpoints):
            run = build.make_ensemble(run, len(steps))
            members = [checkpoints.restore(step, template, part="ema_params") for step in steps]
            together = {f"member_{i}": params for i, params in enumerate(members)}
            return TrainedRun(run, max(steps), together, ema_decay, path)
        found = checkpoints.restore_latest(template, part="ema_params")
    if found is None:
        raise ConfigError(f"{path} has no checkpoint yet: run the same command with --mode=train")
    return TrainedRun(run, *found, ema_decay, path)
