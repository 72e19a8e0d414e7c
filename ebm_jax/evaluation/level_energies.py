"""What a model says of single images: energies and gradient norms, level by level, and of them all.

The larger a score, the less the image is taken to be of the data:

    energy         E_t(x), and its sum over levels: minus a log density up to a constant
    typicality     |E(x) - mean of E over training images| (Nalisnick et al., arXiv 1906.02994):
                   what is too likely is not of the data either
    gradient norm  |grad E_t(x)| (Grathwohl et al., arXiv 1912.03263, section 5.3)
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ebm_jax.evaluation.model import Model


def chosen_levels(num_levels: int, at_most: int) -> np.ndarray:
    """All levels 0 .. num_levels - 1, or at most so many of them at equal distances, int [n]."""
    if at_most < 1:
        raise ValueError(f"max_levels is {at_most}: write at least 1")
    chosen = np.linspace(0, num_levels - 1, min(num_levels, at_most))
    return np.round(chosen).astype(np.int32)


def score_levels(
    model: Model, rng_key: jax.Array, levels: np.ndarray, x: jax.Array, index: jax.Array
) -> dict[str, jax.Array]:
    """'energy' and 'grad_norm' of x [batch, ...] at some levels, both [batch, levels]."""

    def at_level(level: jax.Array) -> dict[str, jax.Array]:
        return model.score(rng_key, level, x, index)

    found = jax.lax.map(at_level, jnp.asarray(levels))
    return {name: values.T for name, values in found.items()}


def image_scores(
    found: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray], levels: np.ndarray
) -> dict[str, np.ndarray]:
    """All scores by name, [n] each.

    Args:
      found, training: of the images and of training images, as `score_levels` gives them.
      levels: of their columns. With one level alone nothing is summed.
    """
    energy = np.asarray(found["energy"], np.float64)
    usual = np.asarray(training["energy"], np.float64)
    gradient = np.asarray(found["grad_norm"], np.float64)
    at = [f" {level}" for level in levels] if len(levels) > 1 else [""]
    scores = {f"energy{name}": energy[:, i] for i, name in enumerate(at)}
    if len(levels) > 1:
        scores["energy, sum"] = energy.sum(1)
    scores["typicality"] = np.abs(energy.sum(1) - usual.sum(1).mean())
    return scores | {f"gradient norm{name}": gradient[:, i] for i, name in enumerate(at)}
