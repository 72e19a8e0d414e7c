"""The sampler's own likelihood: a bound through the conditionals that it goes down."""

from collections.abc import Mapping
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
    def tuned(params: Params, x: jax.Array, index: jax.Array) -> jax.Array:
        return conditional_bound.tune_steps(
            jax.random.fold_in(key, 1), *path(params, x, index), num_steps=settings.tuning_steps,
            target_acceptance=settings.target_acceptance,
        )  # fmt: skip

    def bounds(common: Any, x: jax.Array, index: jax.Array) -> dict[str, jax.Array]:
        found = conditional_bound.conditional_bounds(
            jax.random.fold_in(key, 2), *path(common["params"], x, index), common["steps"],
            index[0], num_temperatures=settings.num_conditional_temperatures,
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
    work.begin("conditionals", number * len(images))
    rows = np.arange(settings.num_chains) % len(images["training"])
    steps = parallel.whole(
        tuned(
            parallel.everywhere(trained.params), parallel.spread(images["training"][rows]),
            parallel.spread(np.arange(settings.num_chains, dtype=np.int32)),
        )
    )  # fmt: skip
    common, found = {"params": trained.params, "steps": steps}, {}
    for name, x in images.items():
        values = piece.map_batches(
            name.replace(" ", "_"), bounds, common,
            (x[:number], np.arange(number, dtype=np.int32)), batch_size=run.sampling.batch_size,
        )  # fmt: skip
        found[name] = ThroughConditionals(
            Likelihood.of(values["lower"]), Likelihood.of(values["upper"]),
            values["widths"].mean(0).tolist(), number,
        )  # fmt: skip
    return found
