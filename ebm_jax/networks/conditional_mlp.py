"""An energy of a vector given another, and the plain network beside it that predicts.

As the authors of IGEBM have them for trajectories, in code (not in the paper): dense layers with a
leaky ReLU of slope .2 on everything together, the energy's last layer without a bias.
"""

import jax
import numpy as np
from flax import linen as nn

from ebm_jax.networks.igebm import ACTIVATIONS
from ebm_jax.networks.labels import label_weights
from ebm_jax.networks.prepared import prepared
from ebm_jax.settings import setting


class ConditionalMLP(nn.Module):
    """E(x; c): dense layers on x and c together, c the context of a state, or any vector.

    With 4 frames of 38 values and 128 units it has 57,600 parameters, as published.

    Fields:
      input_size: dimensions of x. Settings: see the fields.
    """

    input_size: int = 2
    label_size: int = setting(
        2,
        "values of c: frames of data.context times those of a state, and those of an action",
        at_least=1,
    )
    width: int = setting(128, "of the hidden layers", at_least=1)
    depth: int = setting(3, "number of hidden layers", at_least=1)
    activation: str = setting(
        "leaky_relu",
        "of the hidden layers; published is leaky_relu, under which the gradient in x has jumps",
        one_of=tuple(ACTIVATIONS),
    )

    @property
    def input_shape(self) -> tuple[int]:
        """(input_size,)."""
        return (self.input_size,)

    @nn.compact
    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """Energies [batch] of x [batch, input_size]; condition: c, float [1 or batch, label_size].

        Raises:
          ValueError: for a condition of another shape or type.
        """
        context = label_weights(condition, None, self.label_size)
        assert context is not None
        # One dense layer of both: of what is one matrix there, c's part is computed once per chain.
        init = nn.initializers.normal(1 / np.sqrt(self.input_size + self.label_size))
        of_context = prepared(
            self,
            "of_context",
            lambda: nn.Dense(self.width, False, kernel_init=init, name="context")(context),
        )
        activation = ACTIVATIONS[self.activation]
        hidden = activation(nn.Dense(self.width, kernel_init=init, name="hidden_0")(x) + of_context)
        for i in range(1, self.depth):
            hidden = activation(nn.Dense(self.width, name=f"hidden_{i}")(hidden))
        return nn.Dense(1, use_bias=False, name="energy")(hidden)[:, 0]


class NextStateMLP(nn.Module):
    """f(c) -> x, of the layers of a `ConditionalMLP`;

    Under spectral norm |f(a) - f(b)| is at most |a - b| times the largest slope of the activation
    in each hidden layer, which is 1 with leaky ReLU and 1.1 with swish.

    Fields:
      output_size: dimensions of x. width, depth, activation: of the hidden layers.
    """

    output_size: int
    width: int
    depth: int
    activation: str = "leaky_relu"

    @staticmethod
    def spectral_norm_mode(path: tuple[str, ...]) -> str | None:
        """Every kernel, the last layer's too: else rollouts could grow."""
        return "unit" if path[-1] == "kernel" else None

    @nn.compact
    def __call__(self, context: jax.Array) -> jax.Array:
        """x [batch, output_size] of contexts [batch, k]."""
        hidden = context
        for i in range(self.depth):
            hidden = ACTIVATIONS[self.activation](nn.Dense(self.width, name=f"hidden_{i}")(hidden))
        return nn.Dense(self.output_size, name="next_state")(hidden)
