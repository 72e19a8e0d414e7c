"""Labels as what a class-conditional network multiplies its class parameters with."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def class_weights(condition: jax.Array | None, num_classes: int | None) -> jax.Array | None:
    """Weight of every class's parameters, [1 or batch, num_classes]; None if unconditional.

    Args:
      condition: classes, int [] or [batch]; or weights, float [batch, num_classes] (one-hot labels,
        or the values of a continuous factor); None for an unconditional network.
      num_classes: of the network; None: unconditional.
    Returns:
      float32 weights. A traced class out of range gives NaN, never another class's parameters.
    Raises:
      ValueError: labels missing, labels for an unconditional network, a class out of range, or a
        shape that is neither of the two.
    """
    if num_classes is None:
        if condition is not None:
            raise ValueError("the network is unconditional: leave its condition out, or None")
        return None
    if condition is None:
        raise ValueError(
            f"the network is conditional on {num_classes} classes and got no labels: "
            "give condition=label, int [batch]"
        )
    values = condition if isinstance(condition, Tracer) else np.asarray(condition)
    if jnp.issubdtype(values.dtype, jnp.integer) and values.ndim <= 1:
        if isinstance(values, np.ndarray):
            check_classes(values, num_classes)
        label = jnp.atleast_1d(values)
        is_class = (label >= 0) & (label < num_classes)
        return jnp.where(is_class[:, None], jax.nn.one_hot(label, num_classes), jnp.nan)
    if jnp.issubdtype(values.dtype, jnp.floating) and values.shape[1:] == (num_classes,):
        return jnp.asarray(values, jnp.float32)
    raise ValueError(
        f"labels are {values.dtype}{list(values.shape)}: give classes, int [batch], "
        f"or weights, float [batch, {num_classes}]"
    )


def label_weights(
    condition: jax.Array | None, num_classes: int | None, label_size: int
) -> jax.Array | None:
    """`class_weights`, or the values of a label that is a vector, float32 [batch, label_size].

    label_size: 0 where labels are classes.
    Raises:
      ValueError: as `class_weights`; both a number of classes and a size.
    """
    if not label_size:
        return class_weights(condition, num_classes)
    if num_classes:
        raise ValueError(
            f"network.num_classes: expected 0 beside a label_size of {label_size}, got "
            f"{num_classes}"
        )
    shape = () if condition is None else np.shape(condition)
    dtype = getattr(condition, "dtype", None)
    is_float = dtype is not None and jnp.issubdtype(dtype, jnp.floating)
    if not is_float or len(shape) != 2 or shape[1] != label_size:
        found = "no labels" if condition is None else f"{dtype}{list(shape)}"
        raise ValueError(f"labels: expected float [batch, {label_size}], got {found}")
    return jnp.asarray(condition, jnp.float32)


def check_classes(label: jax.typing.ArrayLike, num_classes: int) -> None:
    """Raises ValueError unless every concrete label is one of 0 .. num_classes - 1."""
    labels = np.asarray(label)
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if wrong.size:
        raise ValueError(
            f"label: expected classes 0 to {num_classes - 1}, or a network of more classes, got "
            f"{wrong.flat[0]}"
        )
