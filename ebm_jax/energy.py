"""Energies from networks, and energies from energies.  p(x) ∝ exp(-energy_fn(x)).

An energy_fn maps x [batch, ...] to energies [batch]. It is made once and evaluated many times: what
does not depend on x (spectral norm, level embeddings, kernels in the form that the platform wants)
happens in `make_energy_fn`, outside the chains that call the result.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ebm_jax import spectral_norm
from ebm_jax.networks import preparation

EnergyFn = Callable[[jax.Array], jax.Array]
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
) -> tuple[Params, spectral_norm.PowerState]:
    """(normalised params, power state after one iteration); (params, ()) where there is no norm.

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
    """The energy of a network whose parameters are normalised already; see `make_energy_fn`.

    inputs: further keyword inputs of the network, such as dropout masks.
    """
    x = jnp.zeros(
        (1, *module.input_shape)
    )  # its values are unread: under jit only what is kept runs
    _, prepared = module.apply(
        {"params": params}, x, condition, mutable=[preparation.COLLECTION], **inputs
    )
    variables = {"params": params, **prepared}

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
      params: its parameters, not normalised.
      condition: what the network is conditioned on: level or label, int [] or [batch], or None.
      power_state: vectors u of the spectral norm, iterated once; None: the converged ones.
      scale: factor of the energy, [] or [batch]; 1 / s_t^2 in recovery likelihood.
    Returns:
      energy_fn: x [batch, *input_shape] -> [batch].
    """
    params, _ = normalize_params(module, params, power_state)
    return bind(module, params, condition, scale=scale)


def recovery_energy(
    energy_fn: EnergyFn, x_noisy: jax.Array, sigma: jax.Array, weight: jax.Array
) -> EnergyFn:
    """Energy of the conditional p(y | x_noisy): E(y) + weight |y - x_noisy|^2 / (2 sigma^2).

    Gao et al. 2020, eq. 5. weight (the paper's r_t) is 1, or 0 for the marginal at the last level.

    Args:
      energy_fn: the marginal energy E of y. x_noisy: x_{t+1} [batch, ...].
      sigma: sigma_{t+1}, [] or [batch]. weight: [] or [batch].
    """
    precision = weight / sigma**2
    axes = tuple(range(1, x_noisy.ndim))

    def conditional(y: jax.Array) -> jax.Array:
        return energy_fn(y) + 0.5 * precision * jnp.sum((y - x_noisy) ** 2, axes)

    return conditional


def clamp(energy_fn: EnergyFn, is_fixed: jax.Array, x_fixed: jax.Array) -> EnergyFn:
    """x -> E(x with its fixed entries replaced): the conditional of the others given these.

    Any kernel may run on it. Fixed entries have no gradient; what a chain leaves there is noise,
    so put x_fixed back at its end.

    Args:
      is_fixed: bool, and x_fixed: real, both broadcasting against x [batch, ...].
    """
    return lambda x: energy_fn(jnp.where(is_fixed, x_fixed, x))


def sum_energies(
    energy_fns: Sequence[EnergyFn], weights: Sequence[float] | None = None
) -> EnergyFn:
    """sum_i w_i E_i: the product of experts, or of powers of them (composition of concepts)."""
    weights = _checked_weights(energy_fns, weights, default=1.0)
    return lambda x: sum(w * e(x) for w, e in zip(weights, energy_fns, strict=True))


def mean_energy(energy_fns: Sequence[EnergyFn]) -> EnergyFn:
    """The mean of energies: the geometric mean of the densities (an ensemble of checkpoints)."""
    return temper(sum_energies(energy_fns), len(energy_fns))


def mixture_energy(
    energy_fns: Sequence[EnergyFn], weights: Sequence[float] | None = None
) -> EnergyFn:
    """-log sum_i w_i exp(-E_i): mixture of the unnormalised densities, equal weights by default."""
    weights = _checked_weights(energy_fns, weights, default=1 / max(len(energy_fns), 1))
    if min(weights) < 0:
        raise ValueError(f"mixture weights are {list(weights)}: write weights of at least 0")
    log_weights = jnp.log(jnp.asarray(weights))

    def energy_fn(x: jax.Array) -> jax.Array:
        energies = jnp.stack([e(x) for e in energy_fns])
        return -jax.nn.logsumexp(log_weights[:, None] - energies, axis=0)

    return energy_fn


def temper(energy_fn: EnergyFn, temperature: Any) -> EnergyFn:
    """E / temperature: flatter above 1, sharper below."""
    return lambda x: energy_fn(x) / temperature


def _checked_weights(energy_fns, weights, default: float) -> Sequence[float]:
    if not energy_fns:
        raise ValueError("no energies were given: write at least one energy_fn")
    if weights is None:
        return [default] * len(energy_fns)
    if len(weights) != len(energy_fns):
        raise ValueError(
            f"{len(weights)} weights for {len(energy_fns)} energies: write one weight per energy"
        )
    return weights
