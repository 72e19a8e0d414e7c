"""A softmax network of a size with an energy network: what its energies are compared with."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from ebm_jax import networks
from ebm_jax.methods import base
from ebm_jax.methods.base import MethodState, Params
from ebm_jax.networks.ensemble import Ensemble
from ebm_jax.networks.flat_images import FlatImages


@dataclasses.dataclass(frozen=True, eq=False)
class SoftmaxClassifier:
    """p(y | x) = softmax(network(x)), trained by cross-entropy.

    Has `init` and `loss` as methods have, so that the same training step trains it.
    network: (x) -> logits [batch, classes]. has_norm: whether kernels keep the network's spectral
    norm in training; else they start with it, as the network expects, and are free afterwards.
    """

    network: nn.Module
    has_norm: bool = True

    def init(
        self, rng_key: jax.Array, example_batch: Mapping[str, jax.Array]
    ) -> tuple[Params, MethodState]:
        """See `base.Method.init`."""
        params_key, state_key = jax.random.split(rng_key)
        params = self.network.init(params_key, example_batch["image"][:1])["params"]
        if not self.has_norm:
            return networks.normalize_params(self.network, params)[0], MethodState()
        return params, MethodState(networks.init_power_state(state_key, self.network, params))

    def loss(
        self,
        params: Params,
        method_state: MethodState,
        batch: Mapping[str, jax.Array],
        rng_key: jax.Array,
    ) -> tuple[jax.Array, tuple[MethodState, dict[str, Any]]]:
        """Mean of -log p(label | x); 'accuracy' on the batch.

        batch: 'is_candidate', bool [batch, classes], where it is there: classes that an example may
        have, among which alone the softmax is; the logits of the others have no gradient.
        """
        del rng_key
        state: Any = ()
        if self.has_norm:
            params, state = networks.normalize_params(self.network, params, method_state.shared)
        logits = self._apply(params, batch["image"])
        if "is_candidate" in batch:
            logits = jnp.where(batch["is_candidate"], logits, -jnp.inf)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], 1)[:, 0]
        is_right = jnp.argmax(logits, 1) == batch["label"]
        metrics = {"accuracy": base.mean_over_batch(is_right.astype(jnp.float32))}
        return -jnp.mean(chosen), (MethodState(state), metrics)

    def logits(self, params: Params, x: jax.Array) -> jax.Array:
        """[batch, classes] of x [batch, ...], with the converged norm."""
        if self.has_norm:
            params, _ = networks.normalize_params(self.network, params)
        return self._apply(params, x)

    def _apply(self, params: Params, x: jax.Array) -> jax.Array:
        logits: Any = self.network.apply({"params": params}, x)
        return logits


def softmax_classifier(network: nn.Module, *, has_norm: bool) -> SoftmaxClassifier:
    """Of the architecture of a class-conditional network: its label gone, its head one per class.

    Raises:
      ValueError: for a network that has no such head.
    """
    return SoftmaxClassifier(_with_logits(network), has_norm)


def _with_logits(network: nn.Module) -> nn.Module:
    if isinstance(network, Ensemble):
        return _with_logits(network.base)
    if isinstance(network, FlatImages):
        return network.clone(base=_with_logits(network.base))
    if "num_outputs" not in network.__dataclass_fields__:
        raise ValueError(
            f"baseline: expected 'none', as {type(network).__name__} has no head for classes "
            "(num_outputs)"
        )
    num_classes = getattr(network, "num_classes", None)
    return network.clone(num_classes=None, num_outputs=num_classes)
