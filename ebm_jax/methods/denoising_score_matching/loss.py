"""The loss of denoising score matching and its noise levels, as functions of arrays."""

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.energy import EnergyFn
from ebm_jax.samplers import energy_and_grad


def noise_ladder(
    num_levels: int, min_noise: float, max_noise: float, *, spacing: str = "linear"
) -> np.ndarray:
    """sigma [num_levels], equally ('linear') or logarithmically ('log') spaced, both ends included.

    The papers' rows: linear .05 to 1.2 (CIFAR-10, CelebA), log .1 to 3 (MNIST, Fashion-MNIST), one
    level per example of the batch. In units of the data.

    Raises:
      ValueError: for a noise that is not positive, ends in the wrong order, one level of two
        different ends, or another spacing.
    """
    if not 0 < min_noise <= max_noise:
        raise ValueError(f"expected 0 < min_noise <= max_noise, got {min_noise} and {max_noise}")
    if num_levels < 1 or (num_levels == 1) != (min_noise == max_noise):
        raise ValueError(
            f"num_levels: expected at least 2 for a ladder, or 1 for equal ends, got {num_levels} "
            f"from {min_noise} to {max_noise}"
        )
    if spacing not in ("linear", "log"):
        raise ValueError(f"spacing: expected linear or log, got {spacing!r}")
    space = np.linspace if spacing == "linear" else np.geomspace
    return space(min_noise, max_noise, num_levels)


def score_matching_losses(
    energy_fn: EnergyFn,
    x: jax.Array,
    x_noisy: jax.Array,
    sigma: jax.Array,
    target_sigma: float = 0.1,
) -> tuple[jax.Array, jax.Array]:
    """Per example, the loss of the package's docstring and the energy of x_noisy; both [batch].

    Args:
      x, x_noisy: [batch, ...]. sigma: [] or [batch]. target_sigma: sigma_0.
    """
    energies, grad = energy_and_grad(energy_fn, x_noisy)
    residual = grad - (x_noisy - x) / target_sigma**2
    return jnp.sum(residual**2, axis=range(1, x.ndim)) / sigma**2, energies
