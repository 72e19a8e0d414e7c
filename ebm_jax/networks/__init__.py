"""Networks that return energies, and energies made from them."""

from ebm_jax.networks.conditional_mlp import ConditionalMLP
from ebm_jax.networks.energy_fn import (
    bind,
    class_mixture,
    has_spectral_norm,
    init_power_state,
    make_energy_fn,
    normalize_params,
)
from ebm_jax.networks.ensemble import Ensemble
from ebm_jax.networks.film_resnet import FilmResNet
from ebm_jax.networks.flat_images import FlatImages
from ebm_jax.networks.function import FunctionNetwork
from ebm_jax.networks.igebm import IgebmConvNet, IgebmResNet
from ebm_jax.networks.igebm_mlp import IgebmMLP
from ebm_jax.networks.level_constants import LevelConstants
from ebm_jax.networks.mdsm import MdsmResNet
from ebm_jax.networks.mlp import EnergyMLP
from ebm_jax.networks.recovery_resnet import RecoveryResNet

__all__ = [
    "ConditionalMLP",
    "EnergyMLP",
    "Ensemble",
    "FilmResNet",
    "FlatImages",
    "FunctionNetwork",
    "IgebmConvNet",
    "IgebmMLP",
    "IgebmResNet",
    "LevelConstants",
    "MdsmResNet",
    "RecoveryResNet",
    "bind",
    "class_mixture",
    "has_spectral_norm",
    "init_power_state",
    "make_energy_fn",
    "normalize_params",
]
