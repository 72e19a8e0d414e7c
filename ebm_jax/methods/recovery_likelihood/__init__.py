"""Diffusion recovery likelihood (Gao, Song, Poole, Wu & Kingma 2020, arXiv 2012.08125).

One energy per pair of neighboring noise levels, trained on the conditional of the cleaner given
the noisier: with y = multiplier_t x_t,

    -log p(y | x_{t+1}) = E(y, t) / s_t^2 + r_t |y - x_{t+1}|^2 / (2 sigma_{t+1}^2) + const.

The factor 1 / s_t^2 belongs to the model (a fixed temperature per level, `energy_scale`); the step
size of a chain is another number, though the paper gives both the same s_t.
"""

from ebm_jax.methods.recovery_likelihood.method import RecoveryLikelihood, RecoverySampler

__all__ = ["RecoveryLikelihood", "RecoverySampler"]
