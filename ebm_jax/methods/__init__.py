"""Methods: how an energy-based model is trained, sampled, and what its energies mean."""

from ebm_jax.methods.base import (
    Inpainter,
    LevelSampler,
    Mean,
    Method,
    MethodState,
    Restorer,
)
from ebm_jax.methods.contrastive_divergence import (
    ContrastiveDivergence,
    ContrastiveDivergenceSampler,
)
from ebm_jax.methods.denoising_score_matching import DenoisingScoreMatching
from ebm_jax.methods.denoising_score_matching.method import AnnealedLangevinSampler
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.methods.dual_score_matching import DualScoreMatching, DualScoreSampler
from ebm_jax.methods.energy_discrepancy import EnergyDiscrepancy, EnergyDiscrepancySampler
from ebm_jax.methods.recovery_likelihood import RecoveryLikelihood
from ebm_jax.methods.recovery_likelihood.method import RecoverySampler

__all__ = [
    "AnnealedLangevinSampler",
    "BaseDistribution",
    "ContrastiveDivergence",
    "ContrastiveDivergenceSampler",
    "DenoisingScoreMatching",
    "Densities",
    "DualScoreMatching",
    "DualScoreSampler",
    "EnergyDiscrepancy",
    "EnergyDiscrepancySampler",
    "Inpainter",
    "LevelSampler",
    "Mean",
    "Method",
    "MethodState",
    "RecoveryLikelihood",
    "RecoverySampler",
    "Restorer",
]
