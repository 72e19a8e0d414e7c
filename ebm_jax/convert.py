"""Weights of the papers' own codes as modules and parameters of this project."""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import unflatten_dict

from ebm_jax import energy
from ebm_jax.networks.recovery_resnet import RecoveryResNet


class Converted(NamedTuple):
    """A network with a paper's weights.

    module: a network of `ebm_jax.networks`, its shape read off the arrays.
    params: its parameters, not normalised. power_state: spectral-norm vectors u, {} where none.
    energy_fn: (x, condition=None) -> [batch], everything applied; sign E = -log p + const.
    """

    module: nn.Module
    params: Any
    power_state: dict[str, jax.Array]
    energy_fn: Callable[..., jax.Array]


def from_reference(method: str, arrays: Mapping[str, np.ndarray]) -> Converted:
    """Brings the weights of a published code.

    Args:
      method: 'drl'.
      arrays: weight name -> array, names and layouts as the published code has them, for 'drl':
        'conv_in/kernel', 'level_0/block_1/conv2/gain', 'temb_dense_0/u', ...
    Returns:
      Converted. For 'drl', condition is the noise level, int [] or [batch], and the energy is -F,
      without the level's scale 1 / s_t^2.
    Raises:
      ValueError: for an unknown method, or names that do not belong to the method.
    """
    converters = {"drl": _from_drl}
    if method not in converters:
        raise ValueError(f"method is {method!r}: write one of {', '.join(map(repr, converters))}")
    module, params, power_state = converters[method](dict(arrays))

    def energy_fn(x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        sized = module.clone(image_size=x.shape[1])  # the weights fit any size
        return energy.make_energy_fn(sized, params, condition, power_state=power_state)(x)

    return Converted(module, params, power_state, energy_fn)


def _from_drl(arrays: dict[str, np.ndarray]):
    block = re.compile(r"level_(\d+)/block_(\d+)/")
    places = {tuple(map(int, m.groups())) for m in map(block.match, arrays) if m}
    if "conv_in/kernel" not in arrays or not places:
        raise ValueError(
            f"no recovery-likelihood network in names such as {sorted(arrays)[:3]}: "
            "give 'conv_in/kernel', 'level_0/block_0/conv1/kernel', ..."
        )
    num_resolutions, num_blocks = (1 + max(place) for place in zip(*places, strict=True))
    channels, width = arrays["conv_in/kernel"].shape[2:]
    features = [arrays[f"level_{i}/block_0/conv2/kernel"].shape[-1] for i in range(num_resolutions)]
    module = RecoveryResNet(
        image_size=4 * 2 ** (num_resolutions - 1),  # in all published networks the last is 4 x 4
        channels=channels,
        width=width,
        multipliers=tuple(f // width for f in features),
        num_blocks=num_blocks,
    )
    params, power_state = {}, {}
    for name, array in arrays.items():
        name = block.sub(r"resolution_\1_block_\2/", name)
        if name.endswith("/u"):
            power_state[name.removesuffix("u") + "kernel"] = jnp.asarray(array).reshape(-1)
        else:
            params[name] = jnp.asarray(array)
    return module, unflatten_dict(params, sep="/"), power_state
