"""--mode=long_run: chains far longer than those of training, and where they go."""

from ebm_jax.tasks.long_run.mode import run
from ebm_jax.tasks.long_run.settings import Settings

__all__ = ["IMAGES_ONLY", "Settings", "run"]

IMAGES_ONLY = True
