"""A linear system with Gaussian noise, whose states are Gaussian at every time.

    x_0 ~ N(m_0, S_0),    x_{t+1} = A x_t + xi_t,    xi_t ~ N(0, Q),

so that x_t ~ N(m_t, S_t) with m_{t+1} = A m_t and S_{t+1} = A S_t A' + Q. `SYSTEM` is a slow turn
that spirals inwards.
"""

from typing import NamedTuple

import numpy as np


class LinearSystem(NamedTuple):
    """mean: m_0 [d]. covariance: S_0. transition: A. noise: Q. All float64, [d, d]."""

    mean: np.ndarray
    covariance: np.ndarray
    transition: np.ndarray
    noise: np.ndarray


_TURN = 0.2  # radians per step
SYSTEM = LinearSystem(
    mean=np.array([2.0, 0.0]),
    covariance=np.diag([0.5, 0.1]),
    transition=0.98 * np.array([[np.cos(_TURN), -np.sin(_TURN)], [np.sin(_TURN), np.cos(_TURN)]]),
    noise=np.array([[0.04, 0.02], [0.02, 0.09]]),
)
COLUMNS = ("x", "y")


def simulate(
    rng: np.random.Generator, number: int, length: int, *, system: LinearSystem = SYSTEM
) -> np.ndarray:
    """Trajectories, float64 `[number, length, d]`."""
    x = rng.multivariate_normal(system.mean, system.covariance, number)
    states = [x]
    origin = np.zeros_like(system.mean)
    for _ in range(length - 1):
        x = x @ system.transition.T + rng.multivariate_normal(origin, system.noise, number)
        states.append(x)
    return np.stack(states, axis=1)


def moments(length: int, *, system: LinearSystem = SYSTEM) -> tuple[np.ndarray, np.ndarray]:
    """Exact (means m_t `[length, d]`, covariances S_t `[length, d, d]`)."""
    means, covariances = [system.mean], [system.covariance]
    for _ in range(length - 1):
        means.append(system.transition @ means[-1])
        covariances.append(system.transition @ covariances[-1] @ system.transition.T + system.noise)
    return np.stack(means), np.stack(covariances)
