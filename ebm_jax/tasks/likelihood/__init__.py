"""--mode=likelihood: log-likelihoods by annealed importance sampling, bracketed from both sides."""

from ebm_jax.tasks.likelihood.mode import run
from ebm_jax.tasks.likelihood.settings import Settings

__all__ = ["IMAGES_ONLY", "Settings", "run"]

IMAGES_ONLY = False
