"""A damped pendulum that is pushed at random.

With theta the angle from hanging, omega = d theta / dt, and W a Wiener process,

    d omega = -(OMEGA_0^2 sin theta + DAMPING omega) dt + PUSH dW.

A state is (cos theta, sin theta, omega), which is Markov: one frame says all that can be known of
the next. It begins at rest or moving, anywhere: theta ~ U(-pi, pi), omega ~ N(0, 1).
"""

import numpy as np

OMEGA_0 = 2.0  # of small swings, radians per second
DAMPING = 0.2  # per second
PUSH = 1.0  # radians per second^(3/2)
STEP_SECONDS = 0.1  # between states
_SUBSTEPS = 10

COLUMNS = ("cos theta", "sin theta", "omega")


def simulate(
    rng: np.random.Generator,
    number: int,
    length: int,
    *,
    damping: float = DAMPING,
    push: float = PUSH,
) -> np.ndarray:
    """Trajectories, by ten steps of semi-implicit Euler between two states.

    Returns:
        float64 `[number, length, 3]`.
    """
    theta, omega = rng.uniform(-np.pi, np.pi, number), rng.standard_normal(number)
    dt = STEP_SECONDS / _SUBSTEPS
    states = np.empty((number, length, 3))
    for t in range(length):
        states[:, t] = np.stack([np.cos(theta), np.sin(theta), omega], axis=1)
        for noise in rng.standard_normal((_SUBSTEPS, number)):
            force = -(OMEGA_0**2) * np.sin(theta) - damping * omega
            omega = omega + dt * force + push * np.sqrt(dt) * noise
            theta = theta + dt * omega
    return states
