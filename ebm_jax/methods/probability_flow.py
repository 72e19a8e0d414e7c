"""The probability flow (Song et al. 2021): noise carried to samples by an ODE, with no chance.

With y = x + sqrt(t) eps and p_t its law, points that follow p_t at one noise and then

    dy/dt = -1/2 grad log p_t(y) = 1/2 grad U(y, t)

follow it at all. It is integrated in log t, where the law changes at an even pace.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ebm_jax.energy import EnergyFn


class ProbabilityFlow(NamedTuple):
    """The flow of energies U(y, t), from one noise to another.

    energy_at: (log t []) -> energy_fn of y [batch, ...].
    start_energy: of the law at log_t[0], its normalizing constant included.
    log_t: float [steps + 1], the times at which Heun's rule stops.
    """

    energy_at: Callable[[jax.Array], EnergyFn]
    start_energy: EnergyFn
    log_t: jax.Array

    def velocity(self, y: jax.Array, log_t: jax.Array) -> jax.Array:
        """dy / d log t [batch, ...] = t / 2 grad U."""
        energy_fn = self.energy_at(log_t)
        return 0.5 * jnp.exp(log_t) * jax.grad(lambda y: jnp.sum(energy_fn(y)))(y)

    def carry(self, y: jax.Array) -> jax.Array:
        """y [batch, ...] of the first time, at the last."""

        def heun(y: jax.Array, times: tuple[jax.Array, jax.Array]):
            start, end = times
            first = self.velocity(y, start)
            second = self.velocity(y + (end - start) * first, end)
            return y + (end - start) * (first + second) / 2, None

        return jax.lax.scan(heun, y, (self.log_t[:-1], self.log_t[1:]))[0]
