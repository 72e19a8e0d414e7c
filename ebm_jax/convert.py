"""Weights of the papers' own codes as modules and parameters of this project."""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from ebm_jax import networks
from ebm_jax.networks import igebm
from ebm_jax.networks.mdsm import MdsmResNet
from ebm_jax.networks.recovery_resnet import RecoveryResNet


class Converted(NamedTuple):
    """A network with a paper's weights.

    module: a network of `ebm_jax.networks`, its shape read off the arrays.
    params: its parameters, not normalized. power_state: spectral-norm vectors u, {} where none.
    energy_fn: (x, condition=None) -> [batch], everything applied; sign E = -log p + const.
    """

    module: nn.Module
    params: Any
    power_state: dict[str, jax.Array]
    energy_fn: Callable[..., jax.Array]


def from_reference(method: str, arrays: Mapping[str, np.ndarray], **fields: Any) -> Converted:
    """Brings the weights of a published code.

    Args:
      method: 'drl', 'igebm' or 'mdsm'.
      arrays: weight name -> array, names and layouts as the published code has them:
        'drl':   'conv_in/kernel', 'level_0/block_1/conv2/gain', 'temb_dense_0/u', ...
        'igebm': 'c1_pre/kernel', 'res_optim/c2/gain', 'res_1/c1/in_bias', 'fc5/bias', ... or
                 'c1/kernel', .., 'fc_dense/kernel' of the MNIST and dSprites networks (HWIO).
        'mdsm':  'conv1/kernel', 'rb1/conv_2/bias', 'rbc11/conv_1/kernel', 'ln1/weight', ...
                 (OIHW; head weights over features in the order channel, row, column).
      **fields: fields of the module that arrays cannot tell, such as activation='swish'. Without:
        leaky ReLU for 'igebm', swish for the dSprites network.
    Returns:
      Converted. Images are [batch, H, W, C]; a single channel may be left out, [batch, H, W], and
      'mdsm' also takes [batch, C, H, W], as its code has them, where it cannot mean the other.
      condition: for 'drl' the noise level, int [] or [batch] (the energy is -F, without the
      level's scale 1 / s_t^2); for 'igebm' the classes, int [] or [batch], or one-hot, float
      [batch, classes], or None; for 'mdsm' None.
    Raises:
      ValueError: for an unknown method, or names that do not belong to the method, or for 'drl' a
        weight that is missing or of another shape; by energy_fn for
        images that do not fit the network.
    """
    converters = {"drl": _from_drl, "igebm": _from_igebm, "mdsm": _from_mdsm}
    if method not in converters:
        raise ValueError(
            f"method: expected one of {', '.join(map(repr, converters))}, got {method!r}"
        )
    module, params, power_state = converters[method](dict(arrays))
    module = module.clone(**fields)

    def energy_fn(x: jax.Array, condition: jax.Array | None = None) -> jax.Array:
        x = _to_nhwc(module, jnp.asarray(x))
        sized = _for_image_shape(module, x.shape[1:])
        return networks.make_energy_fn(sized, params, condition, power_state=power_state)(x)

    return Converted(module, params, power_state, energy_fn)


def _to_nhwc(module: nn.Module, x: jax.Array) -> jax.Array:
    if x.ndim == 3 and module.channels == 1:
        return x[..., None]
    channels_first = (module.channels, *module.input_shape[:2])
    if isinstance(module, MdsmResNet) and x.shape[1:] == channels_first != module.input_shape:
        return x.transpose(0, 2, 3, 1)
    return x


def _for_image_shape(module: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The module for images of this shape; under a sum pool the weights fit any size."""
    sized = module.clone(image_size=shape[0])
    if shape != sized.input_shape or getattr(sized, "last_size", 0) != getattr(
        module, "last_size", 0
    ):
        raise ValueError(f"images are {list(shape)}: give this network {list(module.input_shape)}")
    return sized


def _renamed(arrays: dict[str, np.ndarray], rules: dict[str, str]) -> dict[str, np.ndarray]:
    """Names by the first rule (regular expression -> replacement) that matches the whole name."""
    renamed = {}
    for name, array in arrays.items():
        for pattern, replacement in rules.items():
            if re.fullmatch(pattern, name):
                renamed[re.sub(pattern, replacement, name)] = array
                break
        else:
            raise ValueError(f"{name!r} is no weight of this network: leave it out")
    return renamed


def _split(renamed: dict[str, np.ndarray]):
    """(parameter tree, power state) from renamed arrays; 'a/u' belongs to 'a/kernel'."""
    params, power_state = {}, {}
    for name, array in renamed.items():
        if name.endswith("/u"):
            power_state[name.removesuffix("u") + "kernel"] = jnp.asarray(array).reshape(-1)
        else:
            params[name] = jnp.asarray(array)
    return unflatten_dict(params, sep="/"), power_state


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
    last = [f"level_{i}/block_0/conv2/kernel" for i in range(num_resolutions)]
    _check_present(last, arrays)
    module = RecoveryResNet(
        image_size=4 * 2 ** (num_resolutions - 1),  # in all published networks the last is 4 x 4
        channels=channels,
        width=width,
        multipliers=tuple(arrays[name].shape[3] // width for name in last),
        num_blocks=num_blocks,
    )
    shapes = _drl_shapes(module)
    _check_present(shapes, arrays)
    arrays = _renamed(arrays, {name: name for name in shapes})
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise ValueError(f"{name!r} is {list(arrays[name].shape)}: give {list(shape)}")
    renamed = {block.sub(r"resolution_\1_block_\2/", k): v for k, v in arrays.items()}
    return module, *_split(renamed)


def _check_present(names: Iterable[str], arrays: dict[str, np.ndarray]) -> None:
    for name in names:
        if name not in arrays:
            raise ValueError(f"{name!r} is missing: give every weight of the network")


def _drl_shapes(module: RecoveryResNet) -> dict[str, tuple[int, ...]]:
    """Shapes of all weights under their published names, the vectors u included."""
    x = jnp.zeros((1, *module.input_shape))
    params = jax.eval_shape(module.init, jax.random.key(0), x, jnp.zeros((1,), int))["params"]
    shapes = {}
    flat: dict[tuple[str, ...], Any] = flatten_dict(params)
    for path, leaf in flat.items():
        name = re.sub(r"resolution_(\d+)_block_(\d+)", r"level_\1/block_\2", "/".join(path))
        shapes[name] = leaf.shape
        if module.spectral_norm_mode(path) is not None:
            shapes[name.removesuffix("kernel") + "u"] = (1, leaf.shape[-1])
    return shapes


def _from_igebm(arrays: dict[str, np.ndarray]):
    if "res_optim/c1/kernel" in arrays:
        return _from_igebm_resnet(arrays)
    if "c1/kernel" in arrays and "fc_dense/kernel" in arrays:
        return _from_igebm_conv_net(arrays)
    raise ValueError(
        f"no IGEBM network in names such as {sorted(arrays)[:3]}: give 'c1_pre/kernel', "
        "'res_optim/c1/kernel', ..., or 'c1/kernel', ..., 'fc_dense/kernel'"
    )


def _from_igebm_resnet(arrays: dict[str, np.ndarray]):
    numbers = sorted(int(m[1]) for m in (re.match(r"res_(\d+)/c1/kernel", k) for k in arrays) if m)
    blocks = ["res_optim", *(f"res_{n}" for n in numbers)]
    makers = {9: igebm.resnet32_large, 6: igebm.resnet32}
    if len(blocks) not in makers or numbers != list(range(1, len(blocks))):
        raise ValueError(
            f"the network has the blocks {', '.join(blocks)}: "
            "only res_optim with res_1 .. res_8 or res_1 .. res_5 are known"
        )
    per_stage = len(blocks) // 3
    place = {name: divmod(i, per_stage) for i, name in enumerate(blocks)}
    channels, width = arrays["c1_pre/kernel"].shape[2:]
    in_bias = arrays["res_optim/c1/in_bias"]
    module = makers[len(blocks)](
        in_bias.shape[0] if in_bias.ndim == 2 else None,
        width=width,
        channels=channels,
        multipliers=tuple(
            arrays[f"{name}/c2/kernel"].shape[3] // width for name in blocks[::per_stage]
        ),
    )
    rules = {
        "c1_pre/(kernel|u)": r"conv_in/\1",
        "fc5/(kernel|bias)": r"head/\1",
        r"(stage_\d_block_\d)/c([12])/(kernel|u)": r"\1/conv\2/\3",
        r"(stage_\d_block_\d)/c([12])/in_bias": r"\1/in_bias_\2",
        r"(stage_\d_block_\d)/c2/(gain|gain_offset)": r"\1/\2",
        r"(stage_\d_block_\d)/shortcut/(kernel|u)": r"\1/conv_shortcut/\2",
    }

    def placed(name: str) -> str:
        block, slash, rest = name.partition("/")
        if block not in place:
            return name
        stage, index = place[block]
        return f"stage_{stage}_block_{index}{slash}{rest}"

    return module, *_split(_renamed({placed(k): v for k, v in arrays.items()}, rules))


def _from_igebm_conv_net(arrays: dict[str, np.ndarray]):
    strided = sorted(k for k in arrays if re.fullmatch(r"c\d/kernel", k))
    features = [arrays[name].shape[-1] for name in strided]
    channels, first_width = arrays["c1_pre/kernel"].shape[2:]
    gains = [i for i in range(len(strided)) if f"c{i + 1}/gain" in arrays]
    fields = {
        "width": features[0],
        "channels": channels,
        "first_width": first_width,
        "multipliers": tuple(f // features[0] for f in features),
    }
    if gains:
        # A label of one number scales plain vectors: a table with one row.
        arrays = {
            k: v[None] if re.fullmatch(r"c\d/(gain|in_bias)", k) and v.ndim == 1 else v
            for k, v in arrays.items()
        }
        num_classes = arrays[f"c{gains[0] + 1}/gain"].shape[0]
        module = igebm.dsprites_net(num_classes, gain_layer=gains[0], **fields)
    else:
        module = igebm.mnist_net(**fields)
    last_size = math.isqrt(arrays["fc_dense/kernel"].shape[0] // features[-1])
    if module.last_size != last_size:
        module = module.clone(image_size=last_size * 2 ** len(strided))
    rules = {
        "c1_pre/(kernel|u)": r"conv_in/\1",
        "fc5/(kernel|bias)": r"head/\1",
        "fc_dense/(kernel|bias|u)": r"dense/\1",
    }
    for i in range(len(strided)):
        rules[f"c{i + 1}/(kernel|u)"] = rf"conv_{i}/\1"
        rules[f"c{i + 1}/in_bias"] = f"in_bias_{i}"
        rules[f"c{i + 1}/(gain|gain_offset)"] = r"\1"
    return module, *_split(_renamed(arrays, rules))


def _from_mdsm(arrays: dict[str, np.ndarray]):
    num_stages = sum(bool(re.fullmatch(r"rb\d/conv_1/kernel", k)) for k in arrays)
    if "conv1/kernel" not in arrays or not num_stages:
        raise ValueError(
            f"no MDSM network in names such as {sorted(arrays)[:3]}: "
            "give 'conv1/kernel', 'rb1/conv_1/kernel', ..., 'ln1/weight', ..."
        )
    width, channels = arrays["conv1/kernel"].shape[:2]
    features = [arrays[f"rb{i + 1}/conv_2/kernel"].shape[0] for i in range(num_stages)]
    last_size = math.isqrt(arrays["ln1/weight"].shape[-1] // features[-1])
    module = MdsmResNet(
        image_size=last_size * 2**num_stages,
        channels=channels,
        width=width,
        multipliers=tuple(f // width for f in features),
        num_blocks=3 if "rbc11/conv_1/kernel" in arrays else 2,
    )
    rules = {
        "conv1/(kernel|bias)": r"conv_in/\1",
        "ln([12])/weight": r"linear_\1/kernel",
        "ln([12])/bias": r"linear_\1/bias",
        "lq/weight": "quadratic/kernel",
        "lq/bias": "quadratic/bias",
    }
    for i in range(num_stages):
        for j, block in enumerate((f"rb{i + 1}", f"rbc{i + 1}", f"rbc{i + 1}{i + 1}")):
            place = f"stage_{i}_block_{j}"
            rules[f"{block}/conv_1/kernel"] = f"{place}/conv1/kernel"
            rules[f"{block}/conv_2/(kernel|bias)"] = rf"{place}/conv2/\1"
            rules[f"{block}/conv_shortcut/(kernel|bias)"] = rf"{place}/conv_shortcut/\1"

    def ours(array: np.ndarray) -> np.ndarray:
        """OIHW -> HWIO; head weights [1, (C, H, W)] -> [(H, W, C), 1]; biases as they are."""
        if array.ndim == 4:
            return array.transpose(2, 3, 1, 0)
        if array.ndim == 2:
            return array.reshape(-1, last_size, last_size).transpose(1, 2, 0).reshape(-1, 1)
        return array

    return module, *_split({k: ours(v) for k, v in _renamed(arrays, rules).items()})
