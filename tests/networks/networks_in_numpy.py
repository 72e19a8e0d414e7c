"""The networks of IGEBM and MDSM once more: plain loops in float64, from the equations."""

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict


def random_params(module, condition=None, seed=0):
    """Parameters all away from their initial zeros and ones, kernels on both sides of norm 1."""
    x = jnp.zeros((1, *module.input_shape))
    shapes = jax.eval_shape(module.init, jax.random.key(0), x, condition)["params"]
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        fan_in = np.prod(leaf.shape[:-1]) if path[-1].key == "kernel" else 1
        scale = rng.choice([0.3, 1.0]) / np.sqrt(fan_in)
        return jnp.asarray(scale * rng.normal(size=leaf.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def power_state(module, params):
    """The converged vectors u of the spectral norm, from a singular value decomposition."""
    flat = {k: v for k, v in flatten_dict(params).items() if module.spectral_norm_mode(k)}
    matrices = {k: np.asarray(v).reshape(-1, v.shape[-1]) for k, v in flat.items()}
    return {"/".join(k): jnp.asarray(np.linalg.svd(m)[2][0]) for k, m in matrices.items()}


def as_float64(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def conv(x, kernel, stride=1):
    """'SAME' convolution by its definition: [B, H, W, c_in], [k, k, c_in, c_out]."""
    size, k = x.shape[1], kernel.shape[0]
    out = -(-size // stride)
    total = max((out - 1) * stride + k - size, 0)
    pad = (total // 2, total - total // 2)
    x = np.pad(x, ((0, 0), pad, pad, (0, 0)))
    y = np.zeros((len(x), out, out, kernel.shape[-1]))
    for i in range(out):
        for j in range(out):
            patch = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            y[:, i, j] = np.tensordot(patch, kernel, 3)
    return y


def largest_singular_value(kernel):
    return np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]), compute_uv=False)[0]


def unit(kernel):
    return kernel / largest_singular_value(kernel)


def at_most_unit(kernel):
    return kernel / max(largest_singular_value(kernel), 1.0)


def pool(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def leaky_relu(x):
    return np.maximum(x, 0.2 * x)


def relu(x):
    return np.maximum(x, 0)


def swish(x):
    return x / (1 + np.exp(-x))


def elu(x):
    return np.where(x > 0, x, np.exp(np.minimum(x, 0)) - 1)


def label_vector(params, name, label):
    """A plain vector, or the row of the label: broadcasts against [B, H, W, C]."""
    return params[name] if label is None else params[name][label][:, None, None, :]


def gain(params, label):
    return label_vector(params, "gain", label) + (0 if label is None else params["gain_offset"])


def igebm_resnet(params, x, *, stages, act, final_act, first_act=None, label=None, masks=None):
    """stages: blocks per stage; first_act: of the first block; masks: of dropout, at rate 1/2."""
    masks = iter(masks or [0.5] * sum(stages))
    x, usual_act = act(conv(x, unit(params["conv_in"]["kernel"]))), act
    for i, num_blocks in enumerate(stages):
        for j in range(num_blocks):
            act = first_act or usual_act if i == j == 0 else usual_act
            p = params[f"stage_{i}_block_{j}"]
            h = conv(x + label_vector(p, "in_bias_1", label), unit(p["conv1"]["kernel"]))
            h = act(h * next(masks) / 0.5) + label_vector(p, "in_bias_2", label)
            h = gain(p, label) * conv(h, at_most_unit(p["conv2"]["kernel"]))
            shortcut = p.get("conv_shortcut")
            x = h + (x if shortcut is None else conv(x, unit(shortcut["kernel"])))
            x = act(pool(x) if j == 0 else x)
    h = final_act(x).sum((1, 2))
    return (h @ params["head"]["kernel"] + params["head"]["bias"])[:, 0]


def igebm_conv_net(params, x, *, num_convs, act, label=None, gain_layer=None):
    x = act(conv(x, unit(params["conv_in"]["kernel"])))
    for i in range(num_convs):
        if label is not None:
            x = x + label_vector(params, f"in_bias_{i}", label)
        x = conv(x, unit(params[f"conv_{i}"]["kernel"]), stride=2)
        has_gain = label is not None and i == gain_layer
        x = act(x * gain(params, label) if has_gain else x)
    dense, head = params["dense"], params["head"]
    h = act(x.reshape(len(x), -1) @ unit(dense["kernel"]) + dense["bias"])
    return (h @ head["kernel"] + head["bias"])[:, 0]


def mdsm_resnet(params, x, *, stages):
    x = conv(x, params["conv_in"]["kernel"]) + params["conv_in"]["bias"]
    for i, num_blocks in enumerate(stages):
        for j in range(num_blocks):
            p = params[f"stage_{i}_block_{j}"]
            h = conv(elu(x), p["conv1"]["kernel"])
            h = conv(elu(h), p["conv2"]["kernel"]) + p["conv2"]["bias"]
            if j == 0:
                x, h = pool(x), pool(h)
            x = h + conv(x, p["conv_shortcut"]["kernel"]) + p["conv_shortcut"]["bias"]
    h = x.reshape(len(x), -1)
    parts = [
        (features @ params[name]["kernel"] + params[name]["bias"])[:, 0]
        for name, features in (("linear_1", h), ("linear_2", h), ("quadratic", h**2))
    ]
    return parts[0] * parts[1] + parts[2]


def affine(params, x):
    return x @ params["kernel"] + params["bias"]


def film_resnet(params, x, condition, *, resolutions, num_blocks):
    """condition: vectors [batch, k]."""
    size = np.prod(x.shape[1:])
    features = swish(affine(params["condition"], condition))
    x = conv(x, params["conv_in"]["kernel"]) + params["conv_in"]["bias"]
    for i in range(resolutions):
        for j in range(num_blocks):
            p = params[f"resolution_{i}_block_{j}"]
            scale, shift = np.split(affine(p["film"], features)[:, None, None, :], 2, axis=-1)
            h = conv(swish(x), p["conv1"]["kernel"]) + p["conv1"]["bias"]
            h = swish((1 + scale) * h + shift)
            h = conv(h, p["conv2"]["kernel"]) + p["conv2"]["bias"]
            shortcut = p.get("conv_shortcut")
            if shortcut is not None:
                x = conv(x, shortcut["kernel"]) + shortcut["bias"]
            x = x + h
        x = pool(x) if i + 1 < resolutions else x
    summed = swish(x).sum((1, 2)) / x.shape[1]
    energies = (summed * affine(params["head"], features)).sum(-1)
    return energies + np.sqrt(size) * affine(params["constant"], features)[:, 0]
