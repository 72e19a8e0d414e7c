"""A network that predicts the next state: what energies of it are compared with."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ebm_jax import networks
from ebm_jax.methods import base
from ebm_jax.methods.base import MethodState, Params
from ebm_jax.networks.conditional_mlp import ConditionalMLP, NextStateMLP
from ebm_jax.networks.ensemble import Ensemble


@dataclasses.dataclass(frozen=True, eq=False)
class NextStatePredictor:
    """x_t = network(label), trained by the squared error; the mean of x_t at its optimum.

    Has `init` and `loss` as methods have, so that the same training step trains it.
    network: of a label, the context and perhaps an action. has_norm: whether each of its kernels is
    divided by its largest singular value.
    """

    network: nn.Module
    has_norm: bool = False

    def init(
        self, rng_key: jax.Array, example_batch: Mapping[str, jax.Array]
    ) -> tuple[Params, MethodState]:
        """See `base.Method.init`."""
        params = self.network.init(rng_key, example_batch["label"][:1])["params"]
        if not self.has_norm:
            return params, MethodState()
        state_key = jax.random.fold_in(rng_key, 1)
        return params, MethodState(networks.init_power_state(state_key, self.network, params))

    def loss(
        self,
        params: Params,
        method_state: MethodState,
        batch: Mapping[str, jax.Array],
        rng_key: jax.Array,
    ) -> tuple[jax.Array, tuple[MethodState, dict[str, Any]]]:
        """Mean of (x_t - network(label))^2 over examples and values."""
        del rng_key
        state = method_state.shared
        if self.has_norm:
            params, state = networks.normalize_params(self.network, params, state)
        errors = (batch["image"] - self._apply(params, batch["label"])) ** 2
        metrics = {"squared_error": base.mean_over_batch(jnp.mean(errors, axis=1))}
        return jnp.mean(errors), (MethodState(state), metrics)

    def predict(self, params: Params, label: jax.Array) -> jax.Array:
        """Next states [batch, d] of labels [batch, k], with the converged norm."""
        if self.has_norm:
            params, _ = networks.normalize_params(self.network, params)
        return self._apply(params, label)

    def _apply(self, params: Params, label: jax.Array) -> jax.Array:
        predicted: Any = self.network.apply({"params": params}, label)
        return predicted


def next_state_predictor(network: nn.Module, *, has_norm: bool = False) -> NextStatePredictor:
    """Of the layers of an energy of states given their contexts.

    Raises:
      ValueError: for another network.
    """
    if isinstance(network, Ensemble):
        network = network.base
    if not isinstance(network, ConditionalMLP):
        raise ValueError(
            f"rollout.feed_forward: expected False, as {type(network).__name__} is no "
            "conditional_mlp, whose layers the feed-forward network has"
        )
    return NextStatePredictor(
        NextStateMLP(network.input_size, network.width, network.depth, network.activation), has_norm
    )
