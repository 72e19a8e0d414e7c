"""Denoising score matching at one or many noise levels (Li, Chen & Sommer, arXiv 1910.07762).

One energy E(x) for all levels. With x_noisy = x + sigma eps, eps ~ N(0, I),

    loss = mean_i |grad E(x_noisy_i) - (x_noisy_i - x_i) / sigma_0^2|^2 / sigma_i^2,

sigma_0 fixed whatever sigma_i is. With the one level sigma_0 this is denoising score matching
(Vincent 2011), whose optimum is the log density of x_noisy. With a ladder the optimum is

    sigma_0^2 grad E(x_noisy) = E[(x_noisy - x) / sigma^2 | x_noisy] / E[1 / sigma^2 | x_noisy],

which is no log density at any level: do not read likelihoods at sigma_0 off it.
"""

from ebm_jax.methods.denoising_score_matching.method import (
    AnnealedLangevinSampler,
    DenoisingScoreMatching,
)

__all__ = ["AnnealedLangevinSampler", "DenoisingScoreMatching"]
