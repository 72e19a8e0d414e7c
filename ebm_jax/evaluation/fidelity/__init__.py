"""Fidelity of samples to data: FID, KID, Inception score, classifier, memorization."""
