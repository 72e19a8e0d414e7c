"""Spectral normalization as pure functions on parameter trees (Miyato et al. 2018).

A kernel W, seen as the matrix M = [everything but the last axis, c_out], is divided by its largest
singular value sigma, estimated by power iteration from a stored vector u [c_out]:

    v = l2n(u M^T),   u' = l2n(v M),   sigma = v M u'^T      (u', v constants for differentiation).

This stands outside the networks, and outside the chains: a network is evaluated hundreds of times
with the same kernels, so they are normalized once, before. Which kernels, and how, the network says
by its method `spectral_norm_mode(path) -> 'unit' | 'cap' | None`:

    'unit': W / sigma.
    'cap':  W min(sigma', 1) / sigma' with sigma' = sigma + 1e-6: lowered to norm 1, never raised.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

Params = Any
PowerState = dict[str, jax.Array]  # 'path/of/the/kernel' -> u [c_out]
Mode = Callable[[tuple[str, ...]], str | None]

_CAP_EPSILON = 1e-6


def _l2_normalize(a: jax.Array) -> jax.Array:
    """a / |a|, |a|^2 bounded below by 1e-12 (a kernel may start as good as zero)."""
    return a * jax.lax.rsqrt(jnp.maximum(jnp.sum(a**2), 1e-12))


def _as_matrix(kernel: jax.Array) -> jax.Array:
    return kernel.reshape(-1, kernel.shape[-1])


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    # Full float32 also where the platform's default is less: sigma scales every activation.
    return jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST)


def power_iteration(kernel: jax.Array, u: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One power iteration: (sigma [], the new u [c_out]).

    Args:
      kernel: [..., c_out]. u: [c_out].
    Returns:
      sigma, differentiable in the kernel with u and v held constant, and the new u.
    """
    matrix = _as_matrix(kernel)
    constant = jax.lax.stop_gradient(matrix)
    v = _l2_normalize(_dot(constant, u))
    new_u = _l2_normalize(_dot(v, constant))
    return _dot(_dot(v, matrix), new_u), new_u


def dominant_vector(kernel: jax.Array, num_squarings: int = 10) -> jax.Array:
    """The converged u [c_out] of a kernel, from the kernel alone.

    Squaring the Gram matrix M^T M ten times is 1,024 power iterations at the price of ten small
    matrix products. The start is its longest row, which is not orthogonal to the answer.
    """
    matrix = _as_matrix(kernel)
    gram = _dot(matrix.T, matrix)
    power = gram
    for _ in range(num_squarings):
        power = power / jnp.maximum(jnp.max(power), 1e-30)  # the largest |entry| of a Gram matrix
        power = _dot(power, power)
    row = jnp.argmax(jnp.sum(power * power, axis=1))
    return jax.lax.stop_gradient(_l2_normalize(power[row]))


def _normalized_paths(params: Params, mode: Mode) -> dict[str, str]:
    flat = flatten_dict(params)
    modes = {path: mode(path) for path in flat}
    return {"/".join(path): kind for path, kind in modes.items() if kind is not None}


def init_power_state(rng_key: jax.Array, params: Params, mode: Mode) -> PowerState:
    """Starts u ~ N(0, 1) for every kernel that `mode` names (its length does not matter)."""
    flat: dict[str, Any] = flatten_dict(params, sep="/")
    paths = sorted(_normalized_paths(params, mode))
    keys = jax.random.split(rng_key, len(paths))
    return {
        path: jax.random.normal(key, flat[path].shape[-1:])
        for path, key in zip(paths, keys, strict=True)
    }


def converged_power_state(params: Params, mode: Mode) -> PowerState:
    """The converged u of every kernel that `mode` names: for sampling and evaluation."""
    flat: dict[str, Any] = flatten_dict(params, sep="/")
    return {path: dominant_vector(flat[path]) for path in _normalized_paths(params, mode)}


def normalize(params: Params, power_state: PowerState, mode: Mode) -> tuple[Params, PowerState]:
    """Normalized parameters after one power iteration, and the iterated power state.

    Args:
      params: parameter tree. power_state: u for every kernel that `mode` names.
      mode: (path) -> 'unit', 'cap' or None, see the module's docstring.
    Returns:
      (params of the same structure, new power state). Differentiable in params.
    Raises:
      KeyError: where the power state lacks a kernel that `mode` names.
    """
    flat: dict[str, Any] = flatten_dict(params, sep="/")
    new_state = {}
    for path, kind in _normalized_paths(params, mode).items():
        sigma, new_state[path] = power_iteration(flat[path], power_state[path])
        if kind == "cap":
            sigma = sigma + _CAP_EPSILON
            flat[path] = flat[path] * (jnp.minimum(sigma, 1.0) / sigma)
        else:
            flat[path] = flat[path] / sigma
    return unflatten_dict(flat, sep="/"), new_state
