"""Networks and objectives by the names that configs use.

A config's section names one maker and gives its keywords: after `config.model.name`, the other
fields of `config.model` are those of the network. In a config 0 stands for "none" where None
has no type: no classes, no clipping.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from flax import linen as nn

from ebm_jax import samplers
from ebm_jax.diffusion import make_schedule
from ebm_jax.evaluation import marginals
from ebm_jax.evaluation.model import Model, annealed_model, chain_model, recovery_model
from ebm_jax.networks.igebm import IgebmConvNet, IgebmResNet
from ebm_jax.networks.mdsm import MdsmResNet
from ebm_jax.networks.mlp import EnergyMLP
from ebm_jax.networks.recovery_resnet import RecoveryResNet
from ebm_jax.objectives import recovery_likelihood as recovery
from ebm_jax.objectives.base import Objective
from ebm_jax.objectives.contrastive_divergence import igebm, igebm_kernel
from ebm_jax.objectives.denoising_score_matching import denoising_score_matching, noise_ladder
from ebm_jax.objectives.recovery_likelihood import recovery_likelihood


class Batch(NamedTuple):
    """What an objective may have to know of the batches it will see.

    low, high: range of the images, in model units. size: examples per step on all devices.
    num_devices: that share it.
    """

    low: float
    high: float
    size: int
    num_devices: int


def _image_network(network: type[nn.Module]) -> Callable[..., nn.Module]:
    def make(example_shape: tuple[int, ...], **fields: Any) -> nn.Module:
        if len(example_shape) != 3 or example_shape[0] != example_shape[1]:
            raise ValueError(
                f"{network.__name__} takes square images, not examples of shape {example_shape}: "
                "write data.pad_to, or another model"
            )
        if "num_classes" in fields:
            fields["num_classes"] = fields["num_classes"] or None
        return network(image_size=example_shape[0], channels=example_shape[2], **fields)

    return make


def _mlp(example_shape: tuple[int, ...], **fields: Any) -> nn.Module:
    if len(example_shape) != 1:
        raise ValueError(f"the model 'mlp' takes vectors, not examples of shape {example_shape}")
    return EnergyMLP(input_size=example_shape[0], **fields)


def _recovery_likelihood(
    module: nn.Module, batch: Batch, *, num_pairs: int, **fields: Any
) -> Objective:
    del batch
    return recovery_likelihood(module, make_schedule(num_pairs), **fields)


def _contrastive_divergence(
    module: nn.Module, batch: Batch, *, sampling_num_steps: int, **fields: Any
) -> Objective:
    return igebm(
        module,
        low=batch.low,
        high=batch.high,
        num_shards=batch.num_devices,
        sampling_num_steps=sampling_num_steps or None,
        **fields,
    )


def _denoising_score_matching(
    module: nn.Module,
    batch: Batch,
    *,
    num_levels: int,
    min_noise: float,
    max_noise: float,
    spacing: str,
    start_temperature: float,
    num_hot: int,
    num_cooling: int,
    num_final: int,
    cooling: str,
    **fields: Any,
) -> Objective:
    return denoising_score_matching(
        module,
        noise_ladder(num_levels, min_noise, max_noise, spacing=spacing),
        batch_size=batch.size,
        temperatures=samplers.mdsm_temperatures(
            start=start_temperature,
            num_hot=num_hot,
            num_cooling=num_cooling,
            num_final=num_final,
            cooling=cooling,
        ),
        centre=(batch.low + batch.high) / 2,
        **fields,
    )


# A trained model takes of its objective's fields those that sampling knows.


def _recovery_model(
    module: nn.Module,
    batch: Batch,
    params: Any,
    *,
    num_pairs: int,
    num_steps: int,
    step_scale: float,
    step_growth: float,
    energy_in_nats: bool,
    sampling_noise_scale: float,
    draw_variance: str = "step",
    **of_training: Any,
) -> Model:
    del batch, of_training
    schedule = make_schedule(num_pairs)
    steps = {"step_scale": step_scale, "step_growth": step_growth, "num_steps": num_steps}
    make_kernel, chain_steps = recovery.chain_per_level(
        schedule, noise_scale=sampling_noise_scale, draw_variance=draw_variance, **steps
    )
    return recovery_model(
        module,
        params,
        schedule,
        recovery.energy_scale(schedule, energy_in_nats=energy_in_nats, **steps),
        make_kernel,
        num_steps=chain_steps,
    )


def _chain_model(
    module: nn.Module,
    batch: Batch,
    params: Any,
    *,
    num_steps: int,
    sampling_num_steps: int,
    step_size: float,
    noise_std: float,
    max_grad: float,
    start_noise: str,
    temperature: float = 1.0,
    max_batch_norm: float | None = None,
    **of_training: Any,
) -> Model:
    del of_training
    return chain_model(
        module,
        params,
        igebm_kernel(
            step_size=step_size,
            noise_std=noise_std,
            max_grad=max_grad,
            max_batch_norm=max_batch_norm,
            low=batch.low,
            high=batch.high,
        ),
        num_steps=sampling_num_steps or num_steps,
        temperature=temperature,
        start_noise=start_noise,
        low=batch.low,
        high=batch.high,
    )


def _annealed_model(
    module: nn.Module,
    batch: Batch,
    params: Any,
    *,
    target_sigma: float,
    step_size: float,
    **fields: Any,
) -> Model:
    return annealed_model(
        module,
        params,
        _temperatures(**fields),
        step_size=step_size,
        target_sigma=target_sigma,
        centre=(batch.low + batch.high) / 2,
    )


def _temperatures(
    *,
    start_temperature: float,
    num_hot: int,
    num_cooling: int,
    num_final: int,
    cooling: str,
    **of_training: Any,
) -> np.ndarray:
    del of_training
    return samplers.mdsm_temperatures(
        start=start_temperature,
        num_hot=num_hot,
        num_cooling=num_cooling,
        num_final=num_final,
        cooling=cooling,
    )


def _recovery_marginals(
    module: nn.Module,
    batch: Batch,
    params: Any,
    *,
    num_pairs: int,
    num_steps: int,
    step_scale: float,
    step_growth: float,
    energy_in_nats: bool,
    **of_sampling: Any,
) -> marginals.Marginals:
    del batch, of_sampling
    schedule = make_schedule(num_pairs)
    scale = recovery.energy_scale(
        schedule,
        step_scale=step_scale,
        step_growth=step_growth,
        energy_in_nats=energy_in_nats,
        num_steps=num_steps,
    )
    steps = schedule.langevin_scale(step_scale, step_growth) if num_steps else None
    return marginals.recovery_marginals(module, params, schedule, scale, steps)


def _chain_marginals(
    module: nn.Module,
    batch: Batch,
    params: Any,
    *,
    step_size: float,
    noise_std: float,
    max_grad: float,
    max_batch_norm: float | None = None,
    temperature: float = 1.0,
    **of_sampling: Any,
) -> marginals.Marginals:
    del of_sampling
    make_kernel = igebm_kernel(
        step_size=step_size,
        noise_std=noise_std,
        max_grad=max_grad,
        max_batch_norm=max_batch_norm,
        low=batch.low,
        high=batch.high,
    )
    return marginals.chain_marginals(
        module, params, make_kernel, temperature=temperature, low=batch.low, high=batch.high
    )


def _annealed_marginals(
    module: nn.Module,
    batch: Batch,
    params: Any,
    *,
    step_size: float,
    target_sigma: float,
    **of_sampling: Any,
) -> marginals.Marginals:
    del of_sampling
    return marginals.annealed_marginals(
        module,
        params,
        step_size=step_size,
        target_sigma=target_sigma,
        centre=(batch.low + batch.high) / 2,
    )


# (shape of one example, **fields) -> network
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "recovery_resnet": _image_network(RecoveryResNet),
    "igebm_resnet": _image_network(IgebmResNet),
    "igebm_conv": _image_network(IgebmConvNet),
    "mdsm_resnet": _image_network(MdsmResNet),
    "mlp": _mlp,
}

# (network, Batch, **fields) -> Objective
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "recovery_likelihood": _recovery_likelihood,
    "contrastive_divergence": _contrastive_divergence,
    "denoising_score_matching": _denoising_score_matching,
}

# (network, Batch, params, **fields of the objective) -> Model
MODELS: dict[str, Callable[..., Model]] = {
    "recovery_likelihood": _recovery_model,
    "contrastive_divergence": _chain_model,
    "denoising_score_matching": _annealed_model,
}

# (network, Batch, params, **fields of the objective) -> Marginals
MARGINALS: dict[str, Callable[..., marginals.Marginals]] = {
    "recovery_likelihood": _recovery_marginals,
    "contrastive_divergence": _chain_marginals,
    "denoising_score_matching": _annealed_marginals,
}
