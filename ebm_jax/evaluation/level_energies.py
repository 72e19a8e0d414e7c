"""Per-example energies and gradient norms level by level, and OOD scores made of them.

The larger a score, the less the example is taken to be of the data:

    energy         E_t(x), and its sum over levels: minus a log density up to a constant
    typicality     |E(x) - mean of E over training images| (Nalisnick et al., arXiv 1906.02994):
                   what is too likely is not of the data either
    gradient norm  |grad E_t(x)| (Grathwohl et al., arXiv 1912.03263, section 5.3)
"""

from collections.abc import Mapping

import jax
import numpy as np

from ebm_jax.methods.densities import Densities


def evenly_spaced_levels(num_levels: int, at_most: int) -> np.ndarray:
    """All levels 0 .. num_levels - 1, or at most so many of them evenly spaced, int32 [n]."""
    if at_most < 1:
        raise ValueError(f"max_levels: expected at least 1, got {at_most}")
    chosen = np.linspace(0, num_levels - 1, min(num_levels, at_most))
    return np.round(chosen).astype(np.int32)


def level_energies(
    densities: Densities, rng_key: jax.Array, levels: np.ndarray, x: jax.Array, index: jax.Array
) -> dict[str, jax.Array]:
    """'energy' and 'grad_norm' of data x [batch, ...] at some levels, both [batch, levels].

    See `Densities.energy_and_grad_norm`, which says what they are of.
    """

    def at_level(level: jax.Array) -> dict[str, jax.Array]:
        return densities.energy_and_grad_norm(rng_key, level, x, index)

    found = jax.lax.map(at_level, levels)
    return {name: values.T for name, values in found.items()}


def ood_scores(
    found: Mapping[str, np.ndarray], training: Mapping[str, np.ndarray], levels: np.ndarray
) -> dict[str, np.ndarray]:
    """All OOD scores by name, [n] each.

    Args:
      found, training: of the examples and of training examples, as `level_energies` gives them.
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
