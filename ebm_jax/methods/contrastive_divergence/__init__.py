"""Maximum likelihood by contrastive divergence, with the chains and terms of IGEBM.

The gradient of the negative log-likelihood is that of E at the data less that of E at samples
(Hinton 2002); the samples are the ends of K-step chains. Du & Mordatch 2019 (arXiv 1903.08689)
start the chains from a replay buffer and keep the energies small by their squares:

    loss = mean E(x_pos) - mean E(x_neg) + energy_l2 (mean E(x_pos)^2 + mean E(x_neg)^2).

A K-step chain that does not forget its start biases the optimum: on E = theta x^2 / 2 the trained
theta gives the *ends of the chains* the variance of the data.
"""

from ebm_jax.methods.contrastive_divergence.method import ContrastiveDivergence
from ebm_jax.methods.contrastive_divergence.sampler_settings import ContrastiveDivergenceSampler

__all__ = ["ContrastiveDivergence", "ContrastiveDivergenceSampler"]
