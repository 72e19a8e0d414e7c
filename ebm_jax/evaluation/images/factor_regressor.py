"""What an image shows, read by a small convolutional network trained on real images."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

_BATCH, _BATCHES = 128, 16  # images of a step, and batches read at once
_RATE = 3e-3  # of Adam at the start; it falls to 0 as a cosine


class FactorErrors(NamedTuple):
    """How far images are from their labels, over images.

    error: mean absolute difference, in the label's units; of classes, the share read wrongly.
    standard_error: of that mean.
    """

    error: float
    standard_error: float


class _Network(nn.Module):
    """Convolutions of stride 2 until 4 pixels are left, and a hidden layer."""

    num_outputs: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = 16
        while x.shape[1] > 4:
            x = nn.relu(nn.Conv(width, (3, 3), strides=2)(x))
            width = min(2 * width, 64)
        x = nn.relu(nn.Dense(64)(x.reshape(len(x), -1)))
        return nn.Dense(self.num_outputs)(x)


class FactorRegressor:
    """From pixels to one label: its values by least squares, or its class by cross-entropy."""

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        num_classes: int,
        num_steps: int = 1_500,
        seed: int = 0,
    ):
        """Trains on real images.

        Args:
          images: uint8 [n, H, W, C]. labels: int [n], or values float [n, k]. num_classes: of int
            labels. num_steps: of Adam, 128 random images each. seed: of weights and batches.
        """
        self._is_class = np.ndim(labels) == 1
        if self._is_class:
            targets = np.asarray(labels)
        else:
            self._center, spread = labels.mean(0), labels.std(0)
            self._spread = np.where(spread > 0, spread, 1.0)
            targets = ((labels - self._center) / self._spread).astype(np.float32)
        self._network = _Network(num_classes if self._is_class else labels.shape[1])
        self._apply = jax.jit(self._network.apply)
        init_key, batch_key = jax.random.split(jax.random.key(seed))
        params = self._network.init(init_key, _scaled(images[:1]))
        optimizer = optax.adam(optax.cosine_decay_schedule(_RATE, num_steps))
        state = params, optimizer.init(params)
        step = jax.jit(lambda state, x, y: self._step(optimizer, state, x, y))
        chosen = np.asarray(jax.random.randint(batch_key, (num_steps, _BATCH), 0, len(images)))
        for rows in chosen:
            state = step(state, images[rows], targets[rows])
        self._params = state[0]

    def _step(self, optimizer: optax.GradientTransformation, state: Any, x: Any, y: Any) -> Any:
        params, opt_state = state

        def loss(params: Any) -> jax.Array:
            found: Any = self._network.apply(params, _scaled(x))
            if self._is_class:
                return optax.softmax_cross_entropy_with_integer_labels(found, y).mean()
            return jnp.mean((found - y) ** 2)

        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    def read(self, images: np.ndarray) -> np.ndarray:
        """Labels of uint8 images [n, H, W, C]: int [n], or values [n, k]."""
        size = _BATCH * _BATCHES
        found = []
        for first in range(0, len(images), size):
            rows = np.minimum(np.arange(first, first + size), len(images) - 1)
            found.append(self._apply(self._params, _scaled(images[rows])))
        values = np.concatenate(found)[: len(images)]
        return values.argmax(1) if self._is_class else values * self._spread + self._center

    def errors(self, images: np.ndarray, labels: np.ndarray) -> FactorErrors:
        """Of images against the labels that they should show."""
        found = self.read(images)
        if self._is_class:
            each = (found != labels).astype(np.float64)
        else:
            each = np.abs(found - labels).mean(1)
        return FactorErrors(float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each))))


def _scaled(images: Any) -> jax.Array:
    return jnp.asarray(images, jnp.float32) / 127.5 - 1
