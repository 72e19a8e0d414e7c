"""A network of vectors on images, each of them a vector of its values."""

from collections.abc import Callable

import jax
from flax import linen as nn


class FlatImages(nn.Module):
    """E(x, condition) = base(flattened x, condition).

    Its parameters are {'base': those of the network}.

    Fields:
      base: a network whose `input_shape` is (height * width * channels,).
      image_shape: (height, width, channels).
    """

    base: nn.Module
    image_shape: tuple[int, int, int]

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of one input."""
        return self.image_shape

    @property
    def num_classes(self) -> int | None:
        """Of the network; None: unconditional."""
        return getattr(self.base, "num_classes", None)

    @property
    def label_size(self) -> int:
        """Values of a label of the network; 0: classes, or none."""
        return getattr(self.base, "label_size", 0)

    @property
    def spectral_norm_mode(self) -> Callable[[tuple[str, ...]], str | None] | None:
        """That of the network; None where it has none."""
        mode = getattr(self.base, "spectral_norm_mode", None)
        return mode and (lambda path: mode(path[1:]))

    def __call__(self, x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        """Energies [batch] of images x [batch, height, width, channels]."""
        return self.base(x.reshape(x.shape[0], -1), condition)
