"""Activations whose convention at zero matters for gradients in x."""

import jax
import jax.numpy as jnp


def leaky_relu(x: jax.Array, slope: float = 0.2) -> jax.Array:
    """x where x > 0, slope x elsewhere; the derivative at exactly 0 is `slope`.

    jax.nn.leaky_relu gives 1 there. Behind a convolution without bias a black patch is exactly 0,
    so the convention changes the gradient of an energy in x.
    """
    return jnp.where(x > 0, x, slope * x)
