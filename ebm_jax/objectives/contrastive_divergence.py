"""Maximum likelihood by contrastive divergence, with the chains and terms of IGEBM.

The gradient of the negative log-likelihood is that of E at the data less that of E at samples
(Hinton 2002); the samples are the ends of K-step chains. Du & Mordatch 2019 (arXiv 1903.08689)
start the chains from a replay buffer and keep the energies small by their squares:

    loss = mean E(x_pos) - mean E(x_neg) + energy_l2 (mean E(x_pos)^2 + mean E(x_neg)^2).

A K-step chain that does not forget its start biases the optimum: on E = theta x^2 / 2 the trained
theta gives the *ends of the chains* the variance of the data.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ebm_jax import energy, networks, samplers
from ebm_jax.networks.labels import check_classes
from ebm_jax.objectives import chain_starts
from ebm_jax.objectives.base import (
    Mean,
    Objective,
    ObjectiveState,
    example_index,
    mean_over_batch,
)
from ebm_jax.samplers import random

FORMS = ("cd", "logsumexp", "softplus", "cd_with_kl")

MakeKernel = Callable[[energy.EnergyFn], samplers.Kernel]


def likelihood_loss(
    energy_pos: jax.Array, energy_neg: jax.Array, *, form: str = "cd", temperature: float = 1.0
) -> jax.Array:
    """The likelihood term of IGEBM, from energies of data and of samples, both [batch]; T below.

    'cd', 'cd_with_kl': T mean(E+) - T mean(E-).
    'logsumexp': T mean(E+) - sum_b w_b T E-_b / (sum w + 1e-4), w = exp(-T (E- - min E-)) constant:
        samples weighted by how likely the model holds them, among the examples of one device.
    'softplus': mean_b softplus(T (E+_b - E-_b)), data and samples in pairs.
    """
    pos, neg = temperature * energy_pos, temperature * energy_neg
    if form == "softplus":
        return jnp.mean(jax.nn.softplus(pos - neg))
    if form == "logsumexp":
        weights = jax.lax.stop_gradient(jnp.exp(jnp.min(neg) - neg))
        return jnp.mean(pos) - jnp.sum(weights * neg) / (jnp.sum(weights) + 1e-4)
    return jnp.mean(pos) - jnp.mean(neg)


def energy_penalty(energy_pos: jax.Array, energy_neg: jax.Array) -> jax.Array:
    """mean(E+^2) + mean(E-^2), which keeps the energies from drifting off."""
    return jnp.mean(energy_pos**2) + jnp.mean(energy_neg**2)


def igebm(
    module: nn.Module,
    *,
    num_steps: int = 60,
    step_size: float = 10.0,
    noise_std: float = 0.005,
    max_grad: float | None = 0.01,
    max_batch_norm: float | None = None,
    low: float = 0.0,
    high: float = 1.0,
    **options: Any,
) -> Objective:
    """`contrastive_divergence` with the chain of IGEBM's training program.

    Args:
      module: the network. num_steps: K. step_size: lambda.
      noise_std: of the noise added before the gradient, in units of high - low.
      max_grad: their proj_norm, on each element of the gradient; None or 0 leaves it.
      max_batch_norm: instead, their 'l2' projection, on the norm of the whole batch's gradient.
      low, high: the box of the images and of the chains.
      **options: the rest of `contrastive_divergence`.
    """
    make_kernel = igebm_kernel(
        step_size=step_size,
        noise_std=noise_std,
        max_grad=max_grad,
        max_batch_norm=max_batch_norm,
        low=low,
        high=high,
    )
    return contrastive_divergence(
        module, make_kernel, num_steps=num_steps, low=low, high=high, **options
    )


def igebm_kernel(
    *,
    step_size: float,
    noise_std: float,
    max_grad: float | None,
    max_batch_norm: float | None,
    low: float,
    high: float,
) -> MakeKernel:
    """The chain of IGEBM in a box of images; arguments as in `igebm`."""

    def make_kernel(energy_fn: energy.EnergyFn) -> samplers.Kernel:
        return samplers.igebm_langevin(
            energy_fn,
            step_size,
            noise_std=noise_std * (high - low),
            max_grad=max_grad or None,
            max_batch_norm=max_batch_norm or None,
            box=(low, high),
        )

    return make_kernel


def contrastive_divergence(
    module: nn.Module,
    make_kernel: MakeKernel,
    *,
    num_steps: int,
    starts: str = "replay_buffer",
    form: str = "cd",
    likelihood_weight: float = 1.0,
    energy_l2: float = 1.0,
    temperature: float = 1.0,
    low: float = 0.0,
    high: float = 1.0,
    start_noise: str = "uniform",
    buffer_size: int = 10_000,
    buffer_storage: str = "uint8",
    replay_probability: float = 0.95,
    num_shards: int = 1,
    dropout: bool = False,
    sampling_num_steps: int | None = None,
) -> Objective:
    """The objective of contrastive divergence.

    Args:
      module: network called as module(x, label), label None unless it has `num_classes`. In
        conditional training a chain has the label of the example that it stands beside, whatever
        it started from (*quirk* of the published code: its buffer holds no labels).
      make_kernel: (energy_fn) -> kernel of the chains. num_steps: K, in training.
      starts: of the chains. 'replay_buffer': see `samplers.replay_buffer`, from the third step on.
        'persistent': where the chains of the step before ended (Tieleman 2008).
        'data': the examples themselves (Hinton 2002). 'noise': fresh noise at every step.
      form: of the likelihood term, see `likelihood_loss`. 'cd_with_kl' adds mean E(x_neg) with
        constant weights, x_neg differentiated through the whole chain: memory grows with K.
      likelihood_weight, energy_l2: of that term and of `energy_penalty`.
      temperature: T, factor of the energy in the chain and in the likelihood term.
      low, high: values of black and white in the data; the box of the noise and of the buffer.
      start_noise: 'uniform' or 'normal', see `chain_starts.box_noise`.
      buffer_size: entries on all devices together. buffer_storage: 'uint8', 'float', or
        'igebm_uint8', which darkens as the published one does.
      replay_probability: share of the chains that start from the buffer.
      num_shards: devices that share the batch; each keeps buffer_size / num_shards entries apart.
      dropout: masks of rate 1/2 in every block (`IgebmResNet`), fresh ones for each evaluation, the
        chain's included (*quirk* of the published unconditional training). `sample` has none.
      sampling_num_steps: K of `sample`; None: num_steps.
    Returns:
      Objective. sample(..., label=None) runs fresh chains from noise, never from the buffer; a
      conditional network gets all classes in turn unless labels are given.
      Metrics: 'energy_pos', and by the start of the chains, with 'buffer', 'chain' (persistent),
      'data' or 'noise' for S: 'energy_neg_from_S', 'displacement_from_S' (L2 distance between the
      ends), 'grad_norm_from_S' (at the last step); 'l2_penalty', unweighted.
    Raises:
      ValueError: for an unknown name, num_steps < 1, an empty box, dropout in a network without;
        by init, for data outside the box, missing labels, classes out of range, and a buffer
        smaller than the batch.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}: write one of {', '.join(FORMS)}")
    if num_steps < 1 or not low < high:
        raise ValueError(
            f"num_steps is {num_steps} and the box {low} to {high}: "
            "write at least 1 step, and a low below the high"
        )
    if dropout and not hasattr(module, "mask_shapes"):
        raise ValueError(f"{type(module).__name__} has no dropout: write dropout=False")
    num_classes = getattr(module, "num_classes", None)
    noise = chain_starts.box_noise(start_noise, module.input_shape, low, high)
    starting = chain_starts.chain_starts(
        starts,
        noise,
        low=low,
        high=high,
        buffer_size=buffer_size,
        buffer_storage=buffer_storage,
        replay_probability=replay_probability,
        num_shards=num_shards,
    )

    def label_of(batch) -> jax.Array | None:
        if num_classes is None:
            return None
        if "label" not in batch:
            raise ValueError(
                f"the network is conditional on {num_classes} classes and the data have no labels: "
                "take other data, or write num_classes=None"
            )
        return batch["label"]

    def init(rng_key, params, example_batch) -> ObjectiveState:
        x = example_batch["image"]
        label = label_of(example_batch)
        if not isinstance(x, jax.core.Tracer):
            _check_box(x, low, high)
            if label is not None:
                check_classes(label, num_classes)
        power_state = networks.init_power_state(rng_key, module, params)
        return ObjectiveState(power_state, starting.init(x))

    def masks(rng_key, chain) -> dict[str, Any]:
        """Inputs of one evaluation of the network: a function of (rng_key, chain) per chain."""
        if not dropout:
            return {}
        like = [jnp.zeros((chain.shape[0], *shape)) for shape in module.mask_shapes]
        return {"keep_masks": [draw > 0 for draw in random.normal(rng_key, chain, like)]}

    def chain_kernel(params, label) -> samplers.Kernel:
        plain = make_kernel(networks.bind(module, params, label, scale=temperature))
        if not dropout:
            return plain

        def step(rng_key, state):  # another energy at each step
            inputs = masks(jax.random.fold_in(rng_key, 1), state.chain)
            energy_fn = networks.bind(module, params, label, scale=temperature, **inputs)
            return make_kernel(energy_fn).step(rng_key, state)

        return samplers.Kernel(plain.init, step)

    def energies(params, label, x_pos, x_neg, rng_key, index):
        """E+ and E- [batch] in one evaluation."""
        halves = [masks(key, index) for key in jax.random.split(rng_key)]
        inputs = jax.tree.map(lambda *half: jnp.concatenate(half), *halves)
        both = None if label is None else jnp.concatenate([label, label])
        energy_fn = networks.bind(module, params, both, **inputs)
        return jnp.split(energy_fn(jnp.concatenate([x_pos, x_neg])), 2)

    def loss(params, objective_state, batch, rng_key):
        start_key, chain_key, mask_key, kl_key = jax.random.split(rng_key, 4)
        x_pos, index, label = batch["image"], example_index(batch), label_of(batch)
        normalized, power_state = networks.normalize_params(
            module, params, objective_state.power_state
        )
        constant = jax.lax.stop_gradient(normalized)
        memory = objective_state.replay_buffer
        x, started = starting.draw(start_key, memory, x_pos, index)
        end, info = samplers.run_chain(
            chain_key,
            chain_kernel(normalized if form == "cd_with_kl" else constant, label),
            x,
            num_steps,
            first_chain=index[0],
        )
        x_neg = jax.lax.stop_gradient(end.x)

        energy_pos, energy_neg = energies(normalized, label, x_pos, x_neg, mask_key, index)
        likelihood = likelihood_loss(energy_pos, energy_neg, form=form, temperature=temperature)
        penalty = energy_penalty(energy_pos, energy_neg)
        total = likelihood_weight * likelihood + energy_l2 * penalty
        if form == "cd_with_kl":
            fixed = networks.bind(module, constant, label, **masks(kl_key, index))
            total = total + jnp.mean(fixed(end.x))

        metrics = {
            "energy_pos": mean_over_batch(energy_pos),
            "l2_penalty": mean_over_batch(energy_pos**2 + energy_neg**2),
        }
        for name, values in (
            ("energy_neg", energy_neg),
            ("displacement", info.displacement),
            ("grad_norm", info.grad_norm),
        ):
            for place, is_there in started.items():
                metrics[f"{name}_from_{place}"] = _mean_where(values, is_there)
        new_state = ObjectiveState(power_state, starting.remember(memory, x_neg))
        return total, (new_state, jax.lax.stop_gradient(metrics))

    def sample(rng_key, params, num_samples, *, first_sample=0, label=None):
        start_key, chain_key = jax.random.split(rng_key)
        index = first_sample + jnp.arange(num_samples)
        if label is None and num_classes is not None:
            label = index % num_classes
        energy_fn = networks.make_energy_fn(module, params, label, scale=temperature)
        end, _ = samplers.run_chain(
            chain_key,
            make_kernel(energy_fn),
            noise(start_key, index),
            sampling_num_steps or num_steps,
            first_chain=first_sample,
        )
        return end.x

    return Objective(init, loss, sample)


def _mean_where(values: jax.Array, member: jax.Array) -> Mean:
    return Mean(jnp.sum(jnp.where(member, values, 0.0)), jnp.sum(member, dtype=jnp.float32))


def _check_box(x: jax.Array, low: float, high: float) -> None:
    values = np.asarray(x)
    smallest, largest = values.min(), values.max()
    if smallest < low or largest > high:
        raise ValueError(
            f"the data lie in {smallest:g} to {largest:g}, outside the box {low:g} to {high:g}: "
            "write a low and high that contain them"
        )
