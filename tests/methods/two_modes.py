"""Two unequal Gaussian modes on the plane: data, training, and the KL divergence from a grid."""

import jax
import jax.numpy as jnp
import numpy as np

WEIGHTS, CENTERS = np.array([0.3, 0.7]), np.array([[-1.0, 0.0], [1.0, 0.5]])
KEY = jax.random.key(0)


def batches(deviation, num_updates, batch_size):
    """Samples of the data, float32 [num_updates, batch_size, 2]."""
    rng = np.random.default_rng(0)
    which = rng.choice(2, (num_updates, batch_size), p=WEIGHTS)
    noise = deviation * rng.normal(size=(num_updates, batch_size, 2))
    return jnp.asarray(CENTERS[which] + noise, jnp.float32)


def train(method, data, learning_rate):
    """Parameters after one update per batch, by RMSProp with a cosine decay to 0."""
    num_updates = len(data)
    params = jax.jit(method.network.init)(KEY, jnp.zeros((1, 2)))["params"]
    _, state = method.init(KEY, {"image": data[0]})
    rates = learning_rate * jnp.cos(jnp.linspace(0, jnp.pi / 2, num_updates))

    def update(carry, inputs):
        params, square, state = carry
        step, x, rate = inputs
        grads, (state, _) = jax.grad(method.loss, has_aux=True)(
            params, state, {"image": x}, jax.random.fold_in(KEY, step)
        )
        square = jax.tree.map(lambda s, g: 0.99 * s + 0.01 * g**2, square, grads)
        params = jax.tree.map(
            lambda p, s, g: p - rate * g / (jnp.sqrt(s) + 1e-4), params, square, grads
        )
        return (params, square, state), None

    carry = params, jax.tree.map(jnp.zeros_like, params), state
    inputs = jnp.arange(num_updates), data, rates
    return jax.jit(lambda c, i: jax.lax.scan(update, c, i))(carry, inputs)[0][0]


def kl_divergence(method, params, variance):
    """KL(modes of this variance | exp(-E) / Z), both on a grid, in nats."""
    axis = np.linspace(-4, 4, 121)
    cell = (axis[1] - axis[0]) ** 2
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    squares = ((grid[:, None] - CENTERS) ** 2).sum(-1) / (2 * variance)
    density = np.exp(-squares) @ WEIGHTS / (2 * np.pi * variance)
    energy_fn = jax.jit(lambda x: method.densities(params).energy(0)(x))
    log_q = -np.asarray(energy_fn(jnp.asarray(grid, jnp.float32)), np.float64)
    log_z = np.log(np.sum(np.exp(log_q - log_q.max())) * cell) + log_q.max()
    log_p = np.log(np.maximum(density, 1e-300))
    return np.sum(density * (log_p - log_q + log_z)) * cell
