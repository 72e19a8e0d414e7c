"""The likelihood of a sampler that is a flow: by the change of variables along its ODE.

A point of density p at one time, carried by dy/ds = v(y, s), has d log p / ds = -div v there (Chen
et al. 2018, arXiv 1806.07366; Song et al. 2021, arXiv 2011.13456). From the known law where the
flow starts, this gives a density whose integral is 1 whatever the energies are: nothing has to be
annealed, and a region that no data reach takes no mass from it. It is the density of the samples,
and exp(-U) if U(., t) are the energies of one law with noise.

The divergence is the mean of probe' J probe over random signs (Hutchinson), drawn anew at every
step, so that it has no bias and its errors even out along the way.
"""

import jax
import jax.numpy as jnp

from ebm_jax.methods.probability_flow import ProbabilityFlow
from ebm_jax.samplers import random


def flow_log_density(
    rng_key: jax.Array, flow: ProbabilityFlow, y: jax.Array, index: jax.Array
) -> jax.Array:
    """log p(y) [batch] in nats of where the flow ends, with the chance of one probe per step.

    Backwards at the flow's own times, by Heun's rule, whose error falls with the square of a step.

    Args:
      y: [batch, ...] at the flow's last time. index: int [batch]; an example's probes are a
        function of (rng_key, its index).
    """
    axes = range(1, y.ndim)

    def step(carried: tuple[jax.Array, jax.Array], at: tuple[jax.Array, jax.Array, jax.Array]):
        y, gained = carried
        number, start, end = at
        noise = random.normal(random.fold_in(rng_key, number), index, y)
        probe = jnp.where(noise > 0, 1.0, -1.0)

        def slopes(y: jax.Array, log_t: jax.Array) -> tuple[jax.Array, jax.Array]:
            velocity, pull_back = jax.vjp(lambda y: flow.velocity(y, log_t), y)
            return velocity, jnp.sum(probe * pull_back(probe)[0], axes)

        first, first_divergence = slopes(y, start)
        second, second_divergence = slopes(y + (end - start) * first, end)
        width = (end - start) / 2
        return (
            y + width * (first + second),
            gained + width * (first_divergence + second_divergence),
        ), None

    times = flow.log_t[::-1]
    steps = (jnp.arange(len(times) - 1), times[:-1], times[1:])
    (y, gained), _ = jax.lax.scan(step, (y, jnp.zeros(y.shape[0])), steps)
    return gained - flow.start_energy(y)
