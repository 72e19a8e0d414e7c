"""An IGEBM energy of vectors: dense layers, which a label enters as it does the residual blocks.

Our design: the experiment that wants one (class-incremental learning, Du & Mordatch 2019, arXiv
1903.08689) was published without the code of its network.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from ebm_jax.networks.activations import leaky_relu
from ebm_jax.networks.igebm import class_gain, class_vector
from ebm_jax.networks.labels import label_weights
from ebm_jax.settings import setting


class IgebmDense(nn.Module):
    """leaky_relu(gain(y) * W (x + in_bias(y))): a bias on the input and a gain, both by class.

    As in `IgebmBlock` there is no bias on the output, biases start at 0 and gains at 1: all classes
    start with one energy, and what belongs to a class has no gradient in a batch without it.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array | None) -> jax.Array:
        """x [batch, size] -> [batch, features]; weights: of the classes, [1 or batch, classes]."""
        in_bias = class_vector(self, "in_bias", x.shape[-1], weights).squeeze((1, 2))
        gain = class_gain(self, self.features, weights).squeeze((1, 2))
        return leaky_relu(gain * nn.Dense(self.features, use_bias=False, name="dense")(x + in_bias))


class IgebmMLP(nn.Module):
    """E(x) or E(x, y) of vectors: dense layers of leaky ReLU, spectral norm on all but the last.

    Fields:
      input_size: dimensions of x. Settings: see the fields.
      num_outputs: 1: energies [batch]; more: [batch, num_outputs], logits of a plain classifier of
        this size, which evaluation compares the energies with.
    Raises:
      ValueError: as `label_weights`.
    """

    input_size: int = 2
    width: int = setting(400, "of the hidden layers", at_least=1)
    depth: int = setting(2, "number of hidden layers", at_least=1)
    num_classes: int | None = setting(None, "of the label; 0: unconditional", at_least=0)
    label_size: int = setting(
        0, "values in a label that is a vector; 0: classes, or none", at_least=0
    )
    num_outputs: int = 1

    @property
    def input_shape(self) -> tuple[int]:
        """(input_size,)."""
        return (self.input_size,)

    @staticmethod
    def spectral_norm_mode(path: tuple[str, ...]) -> str | None:
        """Every kernel but the head's."""
        return "unit" if path[-1] == "kernel" and path[-2] != "head" else None

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """Energies of vectors.

        Args:
          x: [batch, input_size].
          condition: classes, int [] or [batch], or weights [batch, num_classes]; values
            [batch, label_size]; None: no label.
        Returns:
          E [batch], float32.
        """
        weights = label_weights(condition, self.num_classes, self.label_size)
        x = x.astype(jnp.float32)
        for i in range(self.depth):
            x = IgebmDense(self.width, name=f"hidden_{i}")(x, weights)
        outputs = nn.Dense(self.num_outputs, name="head")(x)
        return outputs[:, 0] if self.num_outputs == 1 else outputs
