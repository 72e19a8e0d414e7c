"""A multilayer perceptron energy for points of the plane and other short vectors."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ebm_jax.networks.prepared import prepared
from ebm_jax.networks.recovery_resnet import level_embedding
from ebm_jax.settings import setting


class EnergyMLP(nn.Module):
    """E(x, c): dense layers with swish; the condition's projection is added before each activation.

    A condition is a number or a vector, and which of the two is part of the network. A number (a
    level t, or any real one, such as log t or a log-SNR) enters by sinusoids of periods 2 pi to
    2e4 pi, so scale it to vary by several units; a vector (a class distribution, say) enters as it
    is.

    With num_frequencies > 0 the first layer sees x, sin(W x) and cos(W x), W learned from N(0,
    frequency^2) (Tancik et al. 2020, arXiv 2006.10739): dense layers on x alone take many more
    steps to find edges and holes that are small beside the range of x.

    Fields:
      input_size: dimensions of x. Settings: see the fields.
    """

    input_size: int = 2
    width: int = setting(128, "of the hidden layers; even", at_least=4)
    depth: int = setting(3, "number of hidden layers", at_least=1)
    num_frequencies: int = setting(
        0, "learned Fourier features that the first layer sees beside x: rows of W", at_least=0
    )
    frequency: float = setting(
        1.0,
        "standard deviation of W at the start, radians per model unit; about pi over the width of "
        "what is to be resolved",
        above=0,
    )

    @property
    def input_shape(self) -> tuple[int]:
        """(input_size,)."""
        return (self.input_size,)

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """Energies of points.

        Args:
          x: [batch, input_size]. condition: numbers, int or float [] or [batch]; vectors, float
            [1 or batch, k]; None for one density.
        Returns:
          E [batch].
        Raises:
          ValueError: for a condition of another shape.
        """

        def project(layer: int, condition: jax.Array) -> jax.Array:
            if jnp.ndim(condition) == 2:
                return nn.Dense(self.width, name=f"vector_{layer}")(condition)
            embedding = level_embedding(condition, self.width)
            return nn.Dense(self.width, name=f"level_{layer}")(embedding)

        if condition is not None and jnp.ndim(condition) > 2:
            raise ValueError(
                "condition: expected numbers [] or [batch], or vectors [batch, k], got the shape "
                f"{list(jnp.shape(condition))}"
            )

        if self.num_frequencies:
            angle = nn.Dense(
                self.num_frequencies,
                use_bias=False,
                kernel_init=nn.initializers.normal(self.frequency),
                name="frequencies",
            )(x)
            x = jnp.concatenate([x, jnp.sin(angle), jnp.cos(angle)], axis=-1)
        for i in range(self.depth):
            x = nn.Dense(self.width, name=f"hidden_{i}")(x)
            if condition is not None:
                x = x + prepared(self, f"projection_{i}", lambda i=i, t=condition: project(i, t))
            x = nn.swish(x)
        return nn.Dense(1, name="energy")(x)[:, 0]
