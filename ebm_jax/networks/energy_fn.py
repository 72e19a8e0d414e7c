"""Energies from networks.  p(x) ∝ exp(-energy_fn(x)).

An energy_fn is made once and evaluated many times: what does not depend on x (spectral norm, level
embeddings, kernels in the form that the platform wants) happens in `make_energy_fn`, outside the
chains that call the result.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ebm_jax.energy import EnergyFn
from ebm_jax.networks import prepared, spectral_norm

Params = Any


def has_spectral_norm(module: nn.Module) -> bool:
    """Whether a network asks for spectral norm on some of its kernels."""
    return getattr(module, "spectral_norm_mode", None) is not None


def init_power_state(
    rng_key: jax.Array, module: nn.Module, params: Params
) -> spectral_norm.PowerState | tuple[()]:
    """Random vectors u for the spectral norm of a network in training; () where it has none."""
    if not has_spectral_norm(module):
        return ()
    return spectral_norm.init_power_state(rng_key, params, module.spectral_norm_mode)


def normalize_params(
    module: nn.Module, params: Params, power_state: spectral_norm.PowerState | None = None
) -> tuple[Params, spectral_norm.PowerState | tuple[()]]:
    """(normalized params, power state after one iteration); (params, ()) where there is no norm.

    Without a power state the converged one is computed from the parameters (sampling, evaluation).
    """
    if not has_spectral_norm(module):
        return params, ()
    mode = module.spectral_norm_mode
    if power_state is None:
        power_state = spectral_norm.converged_power_state(params, mode)
    return spectral_norm.normalize(params, power_state, mode)


def bind(
    module: nn.Module,
    params: Params,
    condition: jax.Array | None = None,
    *,
    scale: Any = 1.0,
    **inputs: Any,
) -> EnergyFn:
    """The energy of a network whose parameters are normalized already; see `make_energy_fn`.

    inputs: further keyword inputs of the network, such as dropout masks.
    """
    x = jnp.zeros(
        (1, *module.input_shape)
    )  # its values are unread: under jit only what is kept runs
    _, stored = module.apply(
        {"params": params}, x, condition, mutable=[prepared.COLLECTION], **inputs
    )
    variables = {"params": params, **stored}

    def energy_fn(x: jax.Array) -> jax.Array:
        return scale * module.apply(variables, x, condition, **inputs)

    return energy_fn


def make_energy_fn(
    module: nn.Module,
    params: Params,
    condition: jax.Array | None = None,
    *,
    power_state: spectral_norm.PowerState | None = None,
    scale: Any = 1.0,
) -> EnergyFn:
    """Prepares scale * E(x, condition), so that evaluating it does nothing that x does not need.

    Args:
      module: a network with `input_shape`, called as module(x, condition).
      params: its parameters, not normalized.
      condition: what the network is conditioned on, as it takes it: a level or a class, int [] or
        [batch]; a number, float [] or [batch]; a vector or a class distribution, float [batch, k];
        or None.
      power_state: vectors u of the spectral norm, iterated once; None: the converged ones.
      scale: factor of the energy, [] or [batch]; 1 / s_t^2 in recovery likelihood.
    Returns:
      energy_fn: x [batch, *input_shape] -> [batch].
    """
    params, _ = normalize_params(module, params, power_state)
    return bind(module, params, condition, scale=scale)


def class_mixture(
    module: nn.Module, params: Params, num_classes: int, *, scale: Any = 1.0
) -> EnergyFn:
    """The mixture of a conditional network's classes, -log mean_y exp(-scale E(x, y)).

    Class after class in one loop with a running log-sum-exp, so that neither the program nor the
    memory of its gradient grows with their number.

    Args:
      params: normalized already. num_classes: y = 0 .. num_classes - 1, equally likely.
    """

    def energy_fn(x: jax.Array) -> jax.Array:
        @jax.checkpoint
        def add(log_sum: jax.Array, label: jax.Array):
            return jnp.logaddexp(log_sum, -bind(module, params, label, scale=scale)(x)), None

        nothing = jnp.full(x.shape[0], -jnp.inf)
        log_sum, _ = jax.lax.scan(add, nothing, jnp.arange(num_classes))
        return jnp.log(num_classes) - log_sum

    return energy_fn
