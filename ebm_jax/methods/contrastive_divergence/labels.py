"""The labels that a network's energy is given: of a batch, and those that samples have in turn."""

from collections.abc import Mapping

import jax
import numpy as np
from flax import linen as nn

from ebm_jax.methods.base import Index
from ebm_jax.samplers import random


def num_classes(network: nn.Module) -> int | None:
    """Classes of the network; None: it is unconditional, or its labels are vectors."""
    return getattr(network, "num_classes", None)


def is_conditional(network: nn.Module) -> bool:
    """Whether its energy is one of an example and a label."""
    return num_classes(network) is not None or bool(getattr(network, "label_size", 0))


def of_batch(network: nn.Module, batch: Mapping[str, jax.Array]) -> jax.Array | None:
    """The examples' labels [batch, ...]; None for an unconditional network.

    Raises:
      ValueError: for a conditional network and data without labels.
    """
    if not is_conditional(network):
        return None
    if "label" not in batch:
        raise ValueError(
            f"network.num_classes: expected 0, as the data have no labels, got "
            f"{num_classes(network)}"
        )
    return batch["label"]


def known(network: nn.Module, vectors: np.ndarray | None) -> np.ndarray:
    """The labels [m, ...] that samples have in turn; one 0 for an unconditional network.

    vectors: those of a network given vectors, [m, k].

    Raises:
      ValueError: for a network given vectors, and none.
    """
    if not is_conditional(network):
        return np.zeros(1, np.int32)
    classes = num_classes(network)
    if classes is not None:
        return np.arange(classes, dtype=np.int32)
    if vectors is None:
        raise ValueError("expected labels for samples given a vector, got none")
    return vectors


def in_turn(index: Index, labels: jax.Array, num_classes: int | None) -> jax.Array:
    """Labels [batch, ...] by index; a blend's are mixed, classes as distributions over them."""
    if not isinstance(index, random.Blend):
        return labels[index % len(labels)]
    shares = index.first_weight**2, index.second_weight**2
    if num_classes is not None:
        labels = jax.nn.one_hot(labels, num_classes)
    first, second = (
        (share / (shares[0] + shares[1]))[:, None] * labels[one % len(labels)]
        for share, one in zip(shares, (index.first, index.second), strict=True)
    )
    return first + second
