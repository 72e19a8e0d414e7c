"""Methods by the names that configs use: one line each."""

from ebm_jax.methods.contrastive_divergence import ContrastiveDivergence
from ebm_jax.methods.denoising_score_matching import DenoisingScoreMatching
from ebm_jax.methods.dual_score_matching import DualScoreMatching
from ebm_jax.methods.energy_discrepancy import EnergyDiscrepancy
from ebm_jax.methods.recovery_likelihood import RecoveryLikelihood

METHODS = {
    "recovery_likelihood": RecoveryLikelihood,
    "contrastive_divergence": ContrastiveDivergence,
    "denoising_score_matching": DenoisingScoreMatching,
    "energy_discrepancy": EnergyDiscrepancy,
    "dual_score_matching": DualScoreMatching,
}


def that_do(kind: type) -> str:
    """The names of the methods that meet a contract, such as `Inpainter`, for messages."""
    return ", ".join(name for name, method in METHODS.items() if issubclass(method, kind))
