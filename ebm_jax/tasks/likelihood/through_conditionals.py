"""The sampler's own likelihood: a bound through the conditionals that it goes down."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ebm_jax import parallel
from ebm_jax.evaluation.density import conditional_bound
from ebm_jax.evaluation.density.baselines import Likelihood
from ebm_jax.io import files
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.methods.base import Params
from ebm_jax.methods.densities import Densities
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks.likelihood.reporting import ThroughConditionals
from ebm_jax.tasks.likelihood.settings import Settings

_LEVELS_AT_ONCE = 10  # of some models there are a thousand, and Ctrl-C is answered between calls


def through_conditionals(
    trained: TrainedRun,
    settings: Settings,
    work: ResumableWork,
    images: Mapping[str, np.ndarray],
    noise_key: jax.Array,
) -> dict[str, ThroughConditionals]:
    """The likelihood of the sampler by split, on the first of the images; {} without conditionals.

    The images have the noise of the model's own energies.
    """
    run = trained.run
    if (
        not settings.num_conditional_images
        or not run.method.densities(trained.params).num_conditionals
    ):
        return {}
    key = jax.random.fold_in(run.key("likelihood"), 6)

    def path(params: Params, x: jax.Array, index: jax.Array) -> tuple[Densities, jax.Array]:
        densities = run.method.densities(params)
        noised = densities.noised(noise_key, 0, x, index)
        return densities, conditional_bound.noising_path(key, densities, noised, index)

    @jax.jit
    def tuned(params: Params, levels: Any, x: jax.Array, index: jax.Array) -> jax.Array:
        return conditional_bound.tune_steps(
            jax.random.fold_in(key, 1), *path(params, x, index), levels,
            num_steps=settings.tuning_steps, target_acceptance=settings.target_acceptance,
        )  # fmt: skip

    def bounds(common: Any, x: jax.Array, index: jax.Array) -> dict[str, jax.Array]:
        found = conditional_bound.conditional_bounds(
            jax.random.fold_in(key, 2), *path(common["params"], x, index), common["levels"],
            common["steps"], index[0], num_temperatures=settings.num_conditional_temperatures,
        )  # fmt: skip
        return found._asdict()

    fields = (
        "num_conditional_images", "num_conditional_temperatures", "num_images", "tuning_steps",
        "target_acceptance", "num_chains",
    )  # fmt: skip
    piece = work.piece(
        "conditionals",
        trained.fingerprint(
            images_sha256=files.arrays_sha256(*images.values()),
            **{field: getattr(settings, field) for field in fields},
        ),
        keep=True,
    )
    number = min(settings.num_conditional_images, *(len(x) for x in images.values()))
    index, chains = (np.arange(n, dtype=np.int32) for n in (number, settings.num_chains))
    num_levels = run.method.densities(trained.params).num_conditionals + 1
    parts = [
        np.arange(first, min(first + _LEVELS_AT_ONCE, num_levels), dtype=np.int32)
        for first in range(0, num_levels, _LEVELS_AT_ONCE)
    ]
    work.begin("conditionals", number * len(images) * len(parts))
    params = parallel.everywhere(trained.params)
    x_tuning = parallel.spread(images["training"][chains % len(images["training"])])
    of_parts: dict[str, list[dict[str, np.ndarray]]] = {name: [] for name in images}
    for levels in parts:
        steps = parallel.whole(tuned(params, levels, x_tuning, parallel.spread(chains)))
        common = {"params": trained.params, "levels": levels, "steps": steps}
        for name, x in images.items():
            called = f"{name.replace(' ', '_')}_{levels[0]}"
            of_parts[name].append(
                piece.map_batches(
                    called, bounds, common, (x[:number], index), batch_size=run.sampling.batch_size
                )
            )
    return {name: _together(values, number) for name, values in of_parts.items()}


def _together(parts: Sequence[Mapping[str, np.ndarray]], number: int) -> ThroughConditionals:
    """Of all levels, from parts of them."""
    lower, upper = (np.sum([part[side] for part in parts], axis=0) for side in ("lower", "upper"))
    widths = [width for part in parts for width in part["widths"].mean(0).tolist()]
    return ThroughConditionals(Likelihood.of(lower), Likelihood.of(upper), widths, number)
