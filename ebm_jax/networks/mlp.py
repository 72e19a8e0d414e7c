"""A multilayer perceptron energy for points of the plane and other short vectors."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ebm_jax.networks.preparation import prepared
from ebm_jax.networks.recovery_resnet import level_embedding


class EnergyMLP(nn.Module):
    """E(x, t): dense layers with swish; the level's projection is added before each activation.

    Fields:
      input_size: dimensions of x. width: of the hidden layers. depth: their number.
    """

    input_size: int = 2
    width: int = 128
    depth: int = 3

    @property
    def input_shape(self) -> tuple[int]:
        """(input_size,)."""
        return (self.input_size,)

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """Energies of points.

        Args:
          x: [batch, input_size]. condition: level t, int [] or [batch], or None for one density.
        Returns:
          E [batch].
        """

        def project(layer: int) -> jax.Array:
            embedding = level_embedding(jnp.atleast_1d(condition), self.width)
            return nn.Dense(self.width, name=f"level_{layer}")(embedding)

        for i in range(self.depth):
            x = nn.Dense(self.width, name=f"hidden_{i}")(x)
            if condition is not None:
                x = x + prepared(self, f"projection_{i}", lambda i=i: project(i))
            x = nn.swish(x)
        return nn.Dense(1, name="energy")(x)[:, 0]
