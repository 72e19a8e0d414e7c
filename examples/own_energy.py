"""An energy of one's own, a plain function of (params, x), trained on an array.

    python examples/own_energy.py

Any method trains it: here energy discrepancy, which needs no chains. The energy is that of a
Gaussian whose covariance is not known; data and answer are printed at the end.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ebm_jax.methods.energy_discrepancy import EnergyDiscrepancy
from ebm_jax.networks import FunctionNetwork
from ebm_jax.training.state import init_train_state
from ebm_jax.training.train_step import make_train_step


def energy_fn(params, x):  # [batch, 2] -> [batch];  p(x) ∝ exp(-energy_fn(params, x))
    return 0.5 * jnp.sum((x @ params["factor"] - params["offset"]) ** 2, axis=-1)


def init_params(rng_key):  # any pytree of arrays
    return {"factor": 0.5 * jnp.eye(2), "offset": jnp.zeros(2)}


def train(data: np.ndarray, num_steps: int = 1_000, batch_size: int = 512):
    """The trained parameters of `energy_fn`: ten lines that serve any energy and any method."""
    network = FunctionNetwork(energy_fn, init_params, input_shape=data.shape[1:])
    method = EnergyDiscrepancy(network, base_std=100.0)  # a base this wide changes nothing
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-2, num_steps))
    key, rng = jax.random.key(0), np.random.default_rng(0)
    state = init_train_state(key, method, optimizer, {"image": jnp.asarray(data[:batch_size])})
    step_fn = jax.jit(make_train_step(method, optimizer, rng_key=key, ema_decay=0.98))
    for _ in range(num_steps):
        batch = {"image": rng.choice(data, batch_size)}
        state, _ = step_fn(state, batch)
    return state.ema_params["energy"]


def main(num_steps: int = 1_000) -> tuple[np.ndarray, np.ndarray]:
    """(covariance of the data, covariance of the energy after training)."""
    mixing = np.array([[1.0, 0.0], [0.8, 0.6]], np.float32)
    data = np.random.default_rng(1).normal(size=(20_000, 2)).astype(np.float32) @ mixing.T
    factor = np.asarray(train(data, num_steps)["factor"])
    return np.cov(data.T), np.linalg.inv(factor @ factor.T)


if __name__ == "__main__":
    print(*main(), sep="\n")
