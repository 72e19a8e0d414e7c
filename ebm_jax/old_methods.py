"""Networks and methods by the names that configs use.

A config's section names one maker and gives its keywords: after `config.model.name`, the other
fields of `config.model` are those of the network. In a config 0 stands for "none" where None
has no type: no classes, no clipping.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


class Method(NamedTuple):
    """A method with the fields of its config: what trains a network, and what a trained one is.

    objective: (network) -> Objective. model, marginals: (network, params) -> what can be done with
    it, and the densities that it stands for; both pure, for use in jit.
    """

    objective: Callable[[nn.Module], Objective]
    model: Callable[[nn.Module, Any], Model]
    marginals: Callable[[nn.Module, Any], marginals.Marginals]


def _recovery_likelihood(
    batch: Batch,
    *,
    num_pairs: int,
    num_steps: int,
    step_scale: float,
    step_growth: float,
    energy_in_nats: bool,
    sampling_noise_scale: float,
    noise_levels: Sequence[float] = (),
    draw_variance: str = "step",
    **of_training: Any,
) -> Method:
    del batch
    schedule = make_schedule(num_pairs, noise_levels)
    steps = {"step_scale": step_scale, "step_growth": step_growth, "num_steps": num_steps}
    scale = recovery.energy_scale(schedule, energy_in_nats=energy_in_nats, **steps)
    make_kernel, chain_steps = recovery.chain_per_level(
        schedule, noise_scale=sampling_noise_scale, draw_variance=draw_variance, **steps
    )

    def objective(module: nn.Module) -> Objective:
        return recovery_likelihood(
            module,
            schedule,
            energy_in_nats=energy_in_nats,
            sampling_noise_scale=sampling_noise_scale,
            draw_variance=draw_variance,
            **steps,
            **of_training,
        )

    def model(module: nn.Module, params: Any) -> Model:
        return recovery_model(module, params, schedule, scale, make_kernel, num_steps=chain_steps)

    def densities(module: nn.Module, params: Any) -> marginals.Marginals:
        if num_steps == 0:
            return marginals.draw_marginals(module, params, schedule, scale, make_kernel)
        langevin_scale = schedule.langevin_scale(step_scale, step_growth)
        return marginals.recovery_marginals(module, params, schedule, scale, langevin_scale)

    return Method(objective, model, densities)


def _contrastive_divergence(
    batch: Batch,
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
) -> Method:
    box = {"low": batch.low, "high": batch.high}
    chain = {
        "step_size": step_size,
        "noise_std": noise_std,
        "max_grad": max_grad,
        "max_batch_norm": max_batch_norm,
    }

    def objective(module: nn.Module) -> Objective:
        return igebm(
            module,
            num_steps=num_steps,
            sampling_num_steps=sampling_num_steps or None,
            start_noise=start_noise,
            temperature=temperature,
            num_shards=batch.num_devices,
            **box,
            **chain,
            **of_training,
        )

    def model(module: nn.Module, params: Any) -> Model:
        return chain_model(
            module,
            params,
            igebm_kernel(**chain, **box),
            num_steps=sampling_num_steps or num_steps,
            temperature=temperature,
            start_noise=start_noise,
            **box,
        )

    def densities(module: nn.Module, params: Any) -> marginals.Marginals:
        make_kernel = igebm_kernel(**chain, **box)
        return marginals.chain_marginals(
            module, params, make_kernel, temperature=temperature, **box
        )

    return Method(objective, model, densities)


def _denoising_score_matching(
    batch: Batch,
    *,
    num_levels: int,
    min_noise: float,
    max_noise: float,
    spacing: str,
    target_sigma: float,
    step_size: float,
    start_temperature: float,
    num_hot: int,
    num_cooling: int,
    num_final: int,
    cooling: str,
    **of_training: Any,
) -> Method:
    chain = {
        "step_size": step_size,
        "target_sigma": target_sigma,
        "centre": (batch.low + batch.high) / 2,
    }
    temperatures = samplers.mdsm_temperatures(
        start=start_temperature,
        num_hot=num_hot,
        num_cooling=num_cooling,
        num_final=num_final,
        cooling=cooling,
    )

    def objective(module: nn.Module) -> Objective:
        return denoising_score_matching(
            module,
            noise_ladder(num_levels, min_noise, max_noise, spacing=spacing),
            batch_size=batch.size,
            temperatures=temperatures,
            **chain,
            **of_training,
        )

    def model(module: nn.Module, params: Any) -> Model:
        return annealed_model(module, params, temperatures, **chain)

    def densities(module: nn.Module, params: Any) -> marginals.Marginals:
        return marginals.annealed_marginals(module, params, **chain)

    return Method(objective, model, densities)


# (shape of one example, **fields) -> network
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "recovery_resnet": _image_network(RecoveryResNet),
    "igebm_resnet": _image_network(IgebmResNet),
    "igebm_conv": _image_network(IgebmConvNet),
    "mdsm_resnet": _image_network(MdsmResNet),
    "mlp": _mlp,
}

# (Batch, **fields of the objective) -> Method
METHODS: dict[str, Callable[..., Method]] = {
    "recovery_likelihood": _recovery_likelihood,
    "contrastive_divergence": _contrastive_divergence,
    "denoising_score_matching": _denoising_score_matching,
}
