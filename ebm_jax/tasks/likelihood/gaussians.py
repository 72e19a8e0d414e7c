"""The Gaussians beside a model, kept once they are fitted."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.evaluation.density import baselines
from ebm_jax.evaluation.density.baselines import Baseline
from ebm_jax.io import files
from ebm_jax.io.resumable import ResumableWork
from ebm_jax.runs.trained import TrainedRun
from ebm_jax.tasks.likelihood.settings import Settings


def gaussian_baselines(
    trained: TrainedRun,
    settings: Settings,
    work: ResumableWork,
    images: Mapping[str, np.ndarray],
    noise_key: jax.Array,
) -> list[Baseline]:
    """A Gaussian and a mixture, on the noisy images of the model's own energies.

    None of them where images have neither noise nor dequantization.
    """
    run, densities = trained.run, trained.run.method.densities(trained.params)
    a_bar, noise_std = (float(v[0]) for v in (densities.a_bar, densities.sigma_bar))
    if run.has_images and not noise_std and not run.data.dequantize:
        return []
    x = a_bar * run.random_examples(run.dataset, settings.num_fitted)
    fields = ("num_images", "num_components", "num_fitted")
    piece = work.piece(
        "baselines",
        trained.fingerprint(
            images_sha256=files.arrays_sha256(x),
            **{field: getattr(settings, field) for field in fields},
        ),
        keep=True,
    )
    if (saved := piece.load("mixture")) is None:
        mixtures = [baselines.fit_gaussian(x, noise_std)]
        if settings.num_components:
            seed = run.sampling.seed
            mixtures.append(baselines.fit_mixture(x, noise_std, settings.num_components, seed))
        piece.save(
            "mixture",
            {f"{name}_{i}": value for i, mixture in enumerate(mixtures)
             for name, value in mixture._asdict().items()},
        )  # fmt: skip
    else:
        mixtures = [
            baselines.Mixture(*(saved[f"{name}_{i}"] for name in baselines.Mixture._fields))
            for i in range(len(saved) // len(baselines.Mixture._fields))
        ]
    noisy = {
        name: np.asarray(densities.noised(noise_key, 0, jnp.asarray(x), jnp.arange(len(x))))
        for name, x in images.items()
    }
    return [baselines.baseline(mixture, noisy) for mixture in mixtures]
