"""Inception-v3 as the Frechet inception distance takes it, in JAX, for weights of other programs.

The network of the TensorFlow graph of 2015-12-05 that Heusel et al. (arXiv 1706.08500) use. From
Szegedy et al. (arXiv 1512.00567) it differs in three things: averages over pools leave the padding
out of the count, the last block's pool is a maximum, and there are 1,008 logits.

Weights have the names of torchvision's module, which torch-fidelity and pytorch-fid keep:
`Mixed_5b.branch1x1.conv.weight` [out, in, height, width], `....bn.running_var`, `fc.weight`; or
those of TensorFlow's graph, as TorchScript archives of it have them: `mixed.conv.weight`,
`....mean`, `....var`, `....beta` (its batch norms have no gain). Without the logits' weights there
are features alone.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NUM_FEATURES, NUM_LOGITS, SIZE = 2048, 1008, 299
_EPSILON = 1e-3  # of the batch norms
_NORM = ("weight", "bias", "running_mean", "running_var")  # their arrays, as torchvision names them

# A layer is (name, channels, (kernel height, width), stride, padding). A branch is a chain of
# layers and pools; a tuple of two layers in it is both of them side by side.
Layer = tuple[str, int, tuple[int, int], int, str]
Branch = tuple[Any, ...]
_MAX_OF_2 = ("max pool", 2, "VALID")
_MAX, _MEAN = ("max pool", 1, "SAME"), ("mean pool", 1, "SAME")
_ONE, _WIDE, _TALL = (1, 1), (1, 7), (7, 1)


def _layer(name: str, channels: int, kernel=_ONE, stride: int = 1, padding: str = "SAME") -> Layer:
    return name, channels, kernel, stride, padding


def _halving(name: str, channels: int) -> Layer:
    return _layer(name, channels, (3, 3), 2, "VALID")


_STEM = (
    _halving("Conv2d_1a_3x3", 32),
    _layer("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"),
    _layer("Conv2d_2b_3x3", 64, (3, 3)),
    _MAX_OF_2,
    _layer("Conv2d_3b_1x1", 80),
    _layer("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"),
    _MAX_OF_2,
)


def _block_a(pooled: int) -> tuple[Branch, ...]:
    return (
        (_layer("branch1x1", 64),),
        (_layer("branch5x5_1", 48), _layer("branch5x5_2", 64, (5, 5))),
        (
            _layer("branch3x3dbl_1", 64),
            _layer("branch3x3dbl_2", 96, (3, 3)),
            _layer("branch3x3dbl_3", 96, (3, 3)),
        ),
        (_MEAN, _layer("branch_pool", pooled)),
    )


def _block_c(narrow: int) -> tuple[Branch, ...]:
    return (
        (_layer("branch1x1", 192),),
        (
            _layer("branch7x7_1", narrow),
            _layer("branch7x7_2", narrow, _WIDE),
            _layer("branch7x7_3", 192, _TALL),
        ),
        (
            _layer("branch7x7dbl_1", narrow),
            _layer("branch7x7dbl_2", narrow, _TALL),
            _layer("branch7x7dbl_3", narrow, _WIDE),
            _layer("branch7x7dbl_4", narrow, _TALL),
            _layer("branch7x7dbl_5", 192, _WIDE),
        ),
        (_MEAN, _layer("branch_pool", 192)),
    )


def _block_e(pool: tuple[str, int, str]) -> tuple[Branch, ...]:
    return (
        (_layer("branch1x1", 320),),
        (
            _layer("branch3x3_1", 384),
            (_layer("branch3x3_2a", 384, (1, 3)), _layer("branch3x3_2b", 384, (3, 1))),
        ),
        (
            _layer("branch3x3dbl_1", 448),
            _layer("branch3x3dbl_2", 384, (3, 3)),
            (_layer("branch3x3dbl_3a", 384, (1, 3)), _layer("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pool, _layer("branch_pool", 192)),
    )


_BLOCKS: dict[str, tuple[Branch, ...]] = {
    "Mixed_5b": _block_a(32),
    "Mixed_5c": _block_a(64),
    "Mixed_5d": _block_a(64),
    "Mixed_6a": (
        (_halving("branch3x3", 384),),
        (
            _layer("branch3x3dbl_1", 64),
            _layer("branch3x3dbl_2", 96, (3, 3)),
            _halving("branch3x3dbl_3", 96),
        ),
        (_MAX_OF_2,),
    ),
    "Mixed_6b": _block_c(128),
    "Mixed_6c": _block_c(160),
    "Mixed_6d": _block_c(160),
    "Mixed_6e": _block_c(192),
    "Mixed_7a": (
        (_layer("branch3x3_1", 192), _halving("branch3x3_2", 320)),
        (
            _layer("branch7x7x3_1", 192),
            _layer("branch7x7x3_2", 192, _WIDE),
            _layer("branch7x7x3_3", 192, _TALL),
            _halving("branch7x7x3_4", 192),
        ),
        (_MAX_OF_2,),
    ),
    "Mixed_7b": _block_e(_MEAN),
    "Mixed_7c": _block_e(_MAX),
}


def _tower(index: int, depth: int) -> tuple[str, ...]:
    tower = "tower" if index == 0 else f"tower_{index}"
    return tuple(f"{tower}.conv" if i == 0 else f"{tower}.conv_{i}" for i in range(depth))


# Of each kind of block, in the order of `_BLOCKS`, as TensorFlow's graph names its convolutions.
_TENSORFLOW_LAYERS = {
    "a": ("conv", *_tower(0, 2), *_tower(1, 3), *_tower(2, 1)),
    "b": ("conv", *_tower(0, 3)),
    "c": ("conv", *_tower(0, 3), *_tower(1, 5), *_tower(2, 1)),
    "d": (*_tower(0, 2), *_tower(1, 4)),
    "e": (
        *("conv", "tower_conv", "tower_mixed_conv", "tower_mixed_conv_1", "tower_1_conv"),
        *("tower_1_conv_1", "tower_1_mixed_conv", "tower_1_mixed_conv_1", "tower_2_conv"),
    ),
}


def weight_shapes() -> dict[str, tuple[int, ...]]:
    """Of every convolution's kernel [out, in, height, width], and of 'fc', [logits, features]."""
    shapes: dict[str, tuple[int, ...]] = {"fc": (NUM_LOGITS, NUM_FEATURES)}

    def note(x: jax.Array, name: str, layer: Layer) -> jax.Array:
        shapes[name] = (layer[1], x.shape[-1], *layer[2])
        return _convolve(x, jnp.zeros((*layer[2], x.shape[-1], layer[1])), layer)

    jax.eval_shape(lambda x: _features(x, note), jnp.zeros((1, SIZE, SIZE, 3)))
    return shapes


def params_from_arrays(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The network's parameters, each batch norm put into its convolution.

    Args:
      arrays: by torchvision's names or TensorFlow's, in whatever module; others are left alone
        (auxiliary logits, counters).
    Returns:
      {layer: (kernel [height, width, in, out], bias [out])} and, where the arrays have it,
      'logits': [2048, 1008], float32.
    Raises:
      ValueError: for arrays of another network; names what is absent or of another shape.
    """
    arrays = _with_torchvision_names(arrays)
    params = {}
    for name, shape in weight_shapes().items():
        weight = "fc.weight" if name == "fc" else f"{name}.conv.weight"
        found = arrays.get(weight)
        if found is None and name == "fc":
            continue
        if found is None or found.shape != shape:
            what = "absent" if found is None else f"of shape {found.shape}"
            raise ValueError(
                f"these are not the weights of the FID Inception-v3: {weight} is {what} and "
                f"should be {shape}; give those of torch-fidelity, pytorch-fid or StyleGAN3"
            )
        found = np.asarray(found, np.float64)
        if name == "fc":
            params["logits"] = found.T.astype(np.float32)
            continue
        norm = [f"{name}.bn.{part}" for part in _NORM]
        for part in norm:
            if part not in arrays:
                raise ValueError(f"these weights lack {part}: give those of the whole network")
            if arrays[part].shape != shape[:1]:
                raise ValueError(f"{part} is of shape {arrays[part].shape}, not {shape[:1]}")
        gain, offset, mean, variance = (np.asarray(arrays[part], np.float64) for part in norm)
        gain = gain / np.sqrt(variance + _EPSILON)
        kernel = found.transpose(2, 3, 1, 0) * gain
        params[name] = kernel.astype(np.float32), (offset - mean * gain).astype(np.float32)
    return params


def tensorflow_names() -> dict[str, str]:
    """{layer: its name in TensorFlow's graph}, in the order of `weight_shapes`."""
    stem = ("conv", "conv_1", "conv_2", "conv_3", "conv_4")
    blocks = (
        f"mixed{'' if index == 0 else f'_{index}'}.{layer}"
        for index, kind in enumerate("aaabccccdee")
        for layer in _TENSORFLOW_LAYERS[kind]
    )
    layers = (name for name in weight_shapes() if name != "fc")
    return dict(zip(layers, (*stem, *blocks), strict=True))


def _with_torchvision_names(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    """Arrays of TensorFlow's names under torchvision's; any others as they are."""
    last = "mixed_10.tower_2_conv.beta"
    prefixes = [name.removesuffix(last) for name in arrays if name.endswith(last)]
    if len(prefixes) != 1:
        return arrays
    renamed: dict[str, np.ndarray] = {}
    for layer, name in tensorflow_names().items():
        ours = (f"{layer}.conv.weight", *(f"{layer}.bn.{part}" for part in _NORM[1:]))
        for mine, part in zip(ours, ("weight", "beta", "mean", "var"), strict=True):
            if (found := arrays.get(f"{prefixes[0]}{name}.{part}")) is not None:
                renamed[mine] = found
                renamed[f"{layer}.bn.weight"] = np.ones(found.shape[:1])
    # Whatever the last layer is called: nothing else is of its shape.
    logits = [array for array in arrays.values() if array.shape == (NUM_LOGITS, NUM_FEATURES)]
    if len(logits) == 1:
        renamed["fc.weight"] = logits[0]
    return renamed


def inception(params: Mapping[str, Any], images: jax.Array) -> dict[str, jax.Array]:
    """Features of the last pool and logits without their bias, as the Inception score takes them.

    Args:
      params: from `params_from_arrays`. images: [n, height, width, 1 or 3], 0..255.
    Returns:
      'features' [n, 2048] and, where the parameters have them, 'logits' [n, 1008].
    """

    def convolve(x: jax.Array, name: str, layer: Layer) -> jax.Array:
        kernel, bias = params[name]
        return jax.nn.relu(_convolve(x, kernel, layer) + bias)

    def trunk(images: jax.Array) -> jax.Array:
        x = jnp.broadcast_to(images, (*images.shape[:3], 3)).astype(jnp.float32)
        return _features((resize_like_tensorflow1(x, SIZE) - 128) / 128, convolve)

    if jax.default_backend() == "cpu":
        # One image's arrays stay in the cache, a batch's do not (docs/performance.md).
        features = jnp.squeeze(lax.map(lambda image: trunk(image[None]), images), 1)
    else:
        features = trunk(images)
    if "logits" not in params:
        return {"features": features}
    logits = jnp.matmul(features, params["logits"], precision=lax.Precision.HIGHEST)
    return {"features": features, "logits": logits}


def resize_like_tensorflow1(x: jax.Array, size: int) -> jax.Array:
    """Bilinear resize to size x size as TensorFlow 1 did it: pixel i is at i * old / new.

    Corners are not aligned and nothing is smoothed, so that enlarged images hang to the upper left;
    the published statistics are of such images.

    Args:
      x: float [n, height, width, channels].
    """
    for axis in (1, 2):
        length = x.shape[axis]
        place = np.arange(size, dtype=np.float32) * (length / size)
        lower = place.astype(np.int32)
        upper = np.minimum(lower + 1, length - 1)
        share = (place - lower).reshape((-1, 1, 1) if axis == 1 else (-1, 1))
        first, second = (jnp.take(x, index, axis=axis) for index in (lower, upper))
        x = first + (second - first) * share
    return x


def _convolve(x: jax.Array, kernel: jax.Array, layer: Layer) -> jax.Array:
    return lax.conv_general_dilated(
        x, kernel, (layer[3],) * 2, layer[4],
        dimension_numbers=("NHWC", "HWIO", "NHWC"), precision=lax.Precision.HIGHEST,
    )  # fmt: skip


def _features(x: jax.Array, convolve: Callable[..., jax.Array]) -> jax.Array:
    """[n, 299, 299, 3] -> [n, 2048], given convolve(x, name, layer) -> x."""
    x = _branch(x, _STEM, "", convolve)
    for block, branches in _BLOCKS.items():
        ends = [_branch(x, branch, f"{block}.", convolve) for branch in branches]
        x = jnp.concatenate(ends, axis=-1)
    return jnp.mean(x, axis=(1, 2))


def _branch(
    x: jax.Array, branch: Branch, prefix: str, convolve: Callable[..., jax.Array]
) -> jax.Array:
    for item in branch:
        if item[0] in ("max pool", "mean pool"):
            x = _pool(x, *item)
        elif isinstance(item[0], tuple):
            x = jnp.concatenate([convolve(x, prefix + layer[0], layer) for layer in item], axis=-1)
        else:
            x = convolve(x, prefix + item[0], item)
    return x


def _pool(x: jax.Array, kind: str, stride: int, padding: str) -> jax.Array:
    window, strides = (1, 3, 3, 1), (1, stride, stride, 1)
    if kind == "max pool":
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding)
    total, count = (
        lax.reduce_window(values, 0.0, lax.add, window, strides, padding)
        for values in (x, jnp.ones((1, *x.shape[1:3], 1)))
    )
    return total / count
