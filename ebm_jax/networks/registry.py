"""Networks by the names that configs use: one line each."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from ebm_jax.networks.conditional_mlp import ConditionalMLP
from ebm_jax.networks.film_resnet import FilmResNet
from ebm_jax.networks.flat_images import FlatImages
from ebm_jax.networks.igebm import IgebmConvNet, IgebmResNet
from ebm_jax.networks.igebm_mlp import IgebmMLP
from ebm_jax.networks.mdsm import MdsmResNet
from ebm_jax.networks.mlp import EnergyMLP
from ebm_jax.networks.recovery_resnet import RecoveryResNet
from ebm_jax.settings import check_values

NETWORKS: dict[str, type[nn.Module]] = {
    "recovery_resnet": RecoveryResNet,
    "igebm_resnet": IgebmResNet,
    "igebm_conv": IgebmConvNet,
    "igebm_mlp": IgebmMLP,
    "mdsm_resnet": MdsmResNet,
    "mlp": EnergyMLP,
    "conditional_mlp": ConditionalMLP,
    "film_resnet": FilmResNet,
}


def make_network(
    network: type[nn.Module],
    example_shape: tuple[int, ...],
    *,
    dtype: str = "float32",
    formulation: str = "auto",
    remat: bool = False,
    **settings: Any,
) -> nn.Module:
    """A network for examples of one shape.

    Args:
      network: of NETWORKS: its fields `image_size` and `channels`, or `input_size`, are taken from
        example_shape, [height, width, channels] or [size]; one of vectors sees images flattened.
      dtype, formulation: of its arithmetic, where it has convolutions.
      remat: whether the activations of its residual blocks are computed again for the gradient,
        rather than kept.
      settings: of its fields; num_classes 0 is None.
    Raises:
      ValueError: one line, for a setting that it cannot have, or examples that do not fit.
    """
    check_values(network, settings, "network.")
    if "num_classes" in settings:
        settings["num_classes"] = settings["num_classes"] or None
    known = network.__dataclass_fields__
    if remat and "remat" not in known:
        raise ValueError(
            f"compute.remat: expected False, as {network.__name__} has no residual blocks"
        )
    if "image_size" not in known:
        of_vectors = network(input_size=math.prod(example_shape), **settings)
        if len(example_shape) == 1:
            return of_vectors
        height, width, channels = example_shape
        return FlatImages(of_vectors, (height, width, channels))
    if len(example_shape) != 3 or example_shape[0] != example_shape[1]:
        raise ValueError(
            f"{network.__name__} takes square images, not examples of shape {example_shape}: "
            "set data.pad_to, or choose another network"
        )
    size, _, channels = example_shape
    return network(
        image_size=size,
        channels=channels,
        dtype=jnp.dtype(dtype),
        formulation=formulation,
        **({"remat": remat} if remat else {}),
        **settings,
    )


def in_float32(network: nn.Module) -> nn.Module:
    """The same network, and those inside of it, with activations and kernels in float32."""
    return _with_fields(network, dtype=jnp.dtype("float32"))


def with_formulation(network: nn.Module, formulation: str) -> nn.Module:
    """The same network, and those inside of it, with its convolutions computed another way."""
    return _with_fields(network, formulation=formulation)


def _with_fields(network: nn.Module, **values: Any) -> nn.Module:
    """A network with these fields changed wherever there are any, in networks inside of it too."""
    fields = {name: getattr(network, name) for name in network.__dataclass_fields__}
    del fields["parent"]
    changes: dict[str, Any] = {
        name: _with_fields(value, **values)
        for name, value in fields.items()
        if isinstance(value, nn.Module)
    }
    changes |= {name: value for name, value in values.items() if name in fields}
    return network.clone(**changes) if changes else network
