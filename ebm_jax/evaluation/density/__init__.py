"""Normalizing constants, likelihoods and long chains of energies."""
