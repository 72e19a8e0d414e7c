"""Diffusion recovery likelihood once more: plain NumPy in float64, from the paper's equations.

Derivatives are taken by complex steps, Im f(x + i h) / h with h = 1e-30, exact to rounding: nothing
is differentiated by hand, and a leaky ReLU's kink is decided by the real part. What the paper holds
constant (the vectors of the power iteration) is computed from real parts.
"""

import math

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

_STEP = 1e-30


def shapes(module):
    """The parameters of a network, as shapes alone."""
    x = jax.ShapeDtypeStruct((1, *module.input_shape), np.float32)
    level = jax.ShapeDtypeStruct((1,), np.int32)
    return jax.eval_shape(module.init, jax.random.key(0), x, level)["params"]


def as_flat(params) -> dict[str, np.ndarray]:
    """A parameter tree as 'path/of/the/leaf' -> array."""
    return {name: np.asarray(leaf) for name, leaf in flatten_dict(params, sep="/").items()}


def as_tree(weights: dict[str, np.ndarray]):
    """The parameter tree of flat weights."""
    return unflatten_dict(weights, sep="/")


def random_weights(module, seed: int = 0) -> dict[str, np.ndarray]:
    """Flat float32 weights, none at its initial value, so that every one of them matters.

    The 'conv2' kernels of the first resolution have a norm above 1, the others one below.
    """
    rng = np.random.default_rng(seed)
    weights = {}
    for name, leaf in sorted(flatten_dict(shapes(module), sep="/").items()):
        value = rng.normal(size=leaf.shape)
        if name.endswith("/kernel"):
            value /= math.sqrt(math.prod(leaf.shape[:-1]))
        if name.endswith("/conv2/kernel") and "resolution_0" not in name:
            value /= 5
        weights[name] = (1 + 0.3 * value if name.endswith("/gain") else value).astype(np.float32)
    return weights


def normalized_names(weights: dict[str, np.ndarray]) -> list[str]:
    """The kernels with a spectral norm: all but the head's."""
    return [name for name in weights if name.endswith("/kernel") and "temb_dense_2" not in name]


def singular_vectors(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The converged u of every normalised kernel."""
    return {
        name: np.linalg.svd(weights[name].reshape(-1, weights[name].shape[-1]))[2][0]
        for name in normalized_names(weights)
    }


def schedule(num_pairs: int = 6) -> dict[str, np.ndarray]:
    """a, sigma, a_bar, sigma_bar over the levels 0..T, by products over the kept fine steps."""
    beta = np.append(np.linspace(1e-4, 0.02, 1000), 1.0)
    if num_pairs == 1000:
        kept = list(range(1001))
    else:
        stride = 1000 // (2 * (num_pairs - 1)) if num_pairs > 1 else 0
        kept = [stride * i for i in range(num_pairs)] + [999]
    starts = [0] + [k + 1 for k in kept[:-1]]
    a = np.array([np.prod(np.sqrt(1 - beta[i : k + 1])) for i, k in zip(starts, kept, strict=True)])
    a_bar = np.cumprod(a)
    return {
        "a": a,
        "sigma": np.sqrt(1 - a**2),
        "a_bar": a_bar,
        "sigma_bar": np.sqrt(1 - a_bar**2),
    }


def langevin_scale(levels: dict[str, np.ndarray], step_scale: float) -> np.ndarray:
    """s_t^2 = b^2 (sbar_t / sbar_0) sigma_{t+1}^2."""
    c_squared = levels["sigma_bar"][:-1] / levels["sigma_bar"][0]
    return step_scale * c_squared * levels["sigma"][1:] ** 2


def _unit(vector):
    return vector / math.sqrt(max(np.sum(vector**2), 1e-12))


def normalize(weights: dict[str, np.ndarray], vectors: dict[str, np.ndarray]):
    """Kernels over their largest singular value, that of 'conv2' only where it is above 1."""
    normalized = dict(weights)
    for name, u in vectors.items():
        matrix = weights[name].reshape(-1, weights[name].shape[-1])
        v = _unit(matrix.real @ u)
        new_u = _unit(v @ matrix.real)
        sigma = v @ matrix @ new_u
        if "/conv2/" in name:
            sigma = sigma + 1e-6
            normalized[name] = weights[name] if sigma.real < 1 else weights[name] / sigma
        else:
            normalized[name] = weights[name] / sigma
    return normalized


def leaky_relu(x):
    return np.where(x.real > 0, x, 0.2 * x)


def convolve(x, kernel):
    """3 x 3 'SAME': [batch, H, W, c_in], [3, 3, c_in, c_out]."""
    height, width = x.shape[1:3]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return sum(
        padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    )


def network(weights, x, level, *, multipliers, num_blocks):
    """E [batch] of the residual network; weights are normalised, named as in the module."""

    def layer(name, x):
        kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
        return (x @ kernel if kernel.ndim == 2 else convolve(x, kernel)) + bias

    half = weights["conv_in/kernel"].shape[-1] // 2
    frequency = np.exp(-math.log(10_000) * np.arange(half) / (half - 1))
    angle = np.asarray(level, float)[:, None] * frequency
    embedding = np.concatenate([np.sin(angle), np.cos(angle)], axis=1)
    embedding = layer("temb_dense_1", leaky_relu(layer("temb_dense_0", embedding)))

    h = layer("conv_in", x)
    for i in range(len(multipliers)):
        for j in range(num_blocks):
            block = f"resolution_{i}_block_{j}"
            inner = layer(f"{block}/conv1", leaky_relu(h))
            inner = inner + layer(f"{block}/temb_proj", leaky_relu(embedding))[:, None, None]
            inner = layer(f"{block}/conv2", leaky_relu(inner)) * weights[f"{block}/conv2/gain"]
            if f"{block}/conv_shortcut/kernel" in weights:
                h = layer(f"{block}/conv_shortcut", h)
            h = h + inner
        if i + 1 < len(multipliers):
            h = (h[:, ::2, ::2] + h[:, 1::2, ::2] + h[:, ::2, 1::2] + h[:, 1::2, 1::2]) / 4
    pooled = np.where(h.real > 0, h, 0).sum(axis=(1, 2))
    return -np.sum(pooled * layer("temb_dense_2", leaky_relu(embedding)), axis=1)


def input_gradient(energy_fn, x):
    """dE_i/dx_i of energy_fn(x [n, ...], example [n]) -> [n], all entries at once."""
    batch, size = len(x), x[0].size
    entries = np.tile(np.eye(size).reshape(size, *x.shape[1:]), (batch, *[1] * (x.ndim - 1)))
    example = np.repeat(np.arange(batch), size)
    energies = energy_fn(x[example] + 1j * _STEP * entries, example)
    return (energies.imag / _STEP).reshape(x.shape)


def directional_derivative(fn, weights, name, direction):
    """d/de fn(weights with weights[name] + e direction) at e = 0."""
    moved = {**weights, name: weights[name] + 1j * _STEP * direction}
    return fn(moved).imag / _STEP


def recovery_chain(marginal, levels, step_scale, x_noisy, level, noise):
    """y after the chain: y <- y - s^2 / 2 grad E(y | x_noisy) + s xi, noise [K, batch, ...].

    marginal: (y [n, ...], level [n]) -> E(y, t) [n], without the level's scale 1 / s_t^2.
    """
    column = (-1,) + (1,) * (x_noisy.ndim - 1)
    last_level = len(levels["a"]) - 2
    squared = langevin_scale(levels, step_scale)[level]
    precision = np.where(level == last_level, 0.0, 1 / levels["sigma"][1:][level] ** 2)
    y = x_noisy
    for xi in noise:
        grad = input_gradient(lambda x, example: marginal(x, level[example]), y)
        grad = grad / squared.reshape(column) + precision.reshape(column) * (y - x_noisy)
        y = y - squared.reshape(column) / 2 * grad + np.sqrt(squared).reshape(column) * xi
    return y


def multiplier(levels):
    """y_t = multiplier_t x_t: a_{t+1}, but 1 for the last pair."""
    return np.append(levels["a"][1:-1], 1.0)


def recovery_loss(marginal, levels, y_pos, y_neg, level):
    """mean (sigma_1 / sigma_{t+1}) (E(y_pos) - E(y_neg))."""
    weight = levels["sigma"][1] / levels["sigma"][1:][level]
    return np.mean(weight * (marginal(y_pos, level) - marginal(y_neg, level)))


def assert_same_slopes(grads, fn, weights, fraction: float) -> None:
    """Each leaf of grads against the derivative of fn(weights) along a random direction."""
    rng = np.random.default_rng(5)
    assert grads.keys() == weights.keys()
    for name, grad in grads.items():
        direction = rng.normal(size=grad.shape)
        slope = directional_derivative(fn, weights, name, direction)
        error = abs(np.sum(grad * direction) - slope)
        assert error <= fraction * np.linalg.norm(grad), f"{name}: {error} off {slope}"
