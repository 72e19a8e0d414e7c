"""Methods: how an energy-based model is trained, sampled, and what its energies mean."""

from ebm_jax.methods.base import Inpainter, Mean, Method, MethodState, Restorer
from ebm_jax.methods.contrastive_divergence import ContrastiveDivergence
from ebm_jax.methods.denoising_score_matching import DenoisingScoreMatching
from ebm_jax.methods.densities import BaseDistribution, Densities
from ebm_jax.methods.dual_score_matching import DualScoreMatching
from ebm_jax.methods.energy_discrepancy import EnergyDiscrepancy
from ebm_jax.methods.recovery_likelihood import RecoveryLikelihood

__all__ = [
    "BaseDistribution",
    "ContrastiveDivergence",
    "DenoisingScoreMatching",
    "Densities",
    "DualScoreMatching",
    "EnergyDiscrepancy",
    "Inpainter",
    "Mean",
    "Method",
    "MethodState",
    "RecoveryLikelihood",
    "Restorer",
]
