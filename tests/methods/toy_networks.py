"""Networks whose energies can be written down: everything about them is known exactly."""

import jax.numpy as jnp
from flax import linen as nn

from ebm_jax.networks.labels import class_weights


class Quadratic(nn.Module):
    """E(x) = theta |x|^2 / 2 of vectors."""

    size: int = 1

    @property
    def input_shape(self):
        return (self.size,)

    @nn.compact
    def __call__(self, x, condition=None):
        theta = self.param("theta", nn.initializers.constant(2.0), ())
        return 0.5 * theta * jnp.sum(x**2, axis=-1)


class PerClass(nn.Module):
    """E(x, y) = (x - center_y)^2 / 2 + offset; the centers 0, 1, 2, .. are mixed as labels are."""

    num_classes: int = 3
    input_shape = (1,)

    @nn.compact
    def __call__(self, x, condition=None):
        offset = self.param("offset", nn.initializers.zeros, ())
        center = class_weights(condition, self.num_classes) @ jnp.arange(float(self.num_classes))
        return 0.5 * (x[:, 0] - center) ** 2 + offset


class Bowl(nn.Module):
    """scale (1 + condition) |x - 1/4|^2 / 2, with its condition and without."""

    num_classes: int | None = None
    input_shape = (2, 2, 1)

    @nn.compact
    def __call__(self, x, condition=None):
        scale = self.param("scale", nn.initializers.constant(2.0), ())
        condition = 0 if condition is None else condition
        return scale * (1 + condition) * jnp.sum((x - 0.25) ** 2, (1, 2, 3)) / 2
