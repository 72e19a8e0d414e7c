"""How far predicted trajectories are from true ones, as distributions and one by one."""

from typing import NamedTuple

import numpy as np

from ebm_jax.evaluation.fidelity.frechet import fit_gaussian, frechet_distance, why_undefined


class SquaredError(NamedTuple):
    """mean: over trajectories and values. standard_error: over trajectories, NaN for one."""

    mean: float
    standard_error: float


def frechet_per_step(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Frechet distance of Gaussians fitted to the states at each time, float64 [length].

    In the squared unit of the states, and biased upwards by a finite number of trajectories: see
    `fidelity.frechet`. It sees each time alone, and no trajectory as a whole.

    Args:
      predicted: [n, length, d]. true: [m, length, d], the same trajectories or others.
    Raises:
      ValueError: for other lengths or sizes, no more trajectories than values, non-finite states.
    """
    if predicted.shape[1:] != true.shape[1:]:
        raise ValueError(
            f"expected states of one shape, got {predicted.shape[1:]} and {true.shape[1:]}"
        )
    return np.array(
        [
            frechet_distance(fit_gaussian(predicted[:, t]), fit_gaussian(true[:, t]))
            for t in range(true.shape[1])
        ]
    )


def check_number(num_trajectories: int, size: int) -> None:
    """Raises ValueError where so many trajectories make no distance of states of that size."""
    if (reason := why_undefined(num_trajectories, size)) is not None:
        raise ValueError(f"rollout.num_trajectories: {reason}")


def squared_error(predicted: np.ndarray, true: np.ndarray) -> SquaredError:
    """Mean of (predicted - true)^2 of states [n, d] of the same n trajectories."""
    each = np.mean((np.asarray(predicted, np.float64) - true) ** 2, axis=1)
    error = float(np.std(each, ddof=1) / np.sqrt(len(each))) if len(each) > 1 else float("nan")
    return SquaredError(float(np.mean(each)), error)
