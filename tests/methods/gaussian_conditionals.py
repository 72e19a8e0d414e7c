"""A correlated Gaussian in three dimensions, of which one is known, and its exact conditional."""

import numpy as np

MEAN = np.array([0.4, -0.2, 0.1])
COVARIANCE = np.array([[0.5, 0.35, -0.2], [0.35, 0.6, 0.1], [-0.2, 0.1, 0.4]])
KNOWN = np.array([True, False, False])


def conditional(mean, covariance):
    """(gain, offset, covariance) of the unknown given the known: m | u ~ N(gain u + offset, .)."""
    uu, mu = covariance[KNOWN][:, KNOWN], covariance[~KNOWN][:, KNOWN]
    gain = mu @ np.linalg.inv(uu)
    return gain, mean[~KNOWN] - gain @ mean[KNOWN], covariance[~KNOWN][:, ~KNOWN] - gain @ mu.T


def assert_gaussian(samples, mean, covariance, extra=0.0):
    """Mean and covariance within 4 standard errors, the covariance of normal samples."""
    n = len(samples)
    variances = np.diag(covariance)
    np.testing.assert_array_less(np.abs(samples.mean(0) - mean), 4 * np.sqrt(variances / n) + extra)
    errors = np.sqrt((np.outer(variances, variances) + covariance**2) / n)
    np.testing.assert_array_less(np.abs(np.cov(samples.T) - covariance), 4 * errors + extra)
