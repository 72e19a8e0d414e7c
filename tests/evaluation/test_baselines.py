"""The Gaussian and the mixture beside every model: exact likelihoods."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from ebm_jax.data import mixture
from ebm_jax.evaluation.density import baselines

RNG = np.random.default_rng(0)
CENTERS = np.array([[-3.0, 0.0, 1.0], [3.0, 1.0, 0.0]])
X = CENTERS[np.arange(400) % 2] + RNG.normal(size=(400, 3)) * [1.0, 0.5, 0.2]
X = X[RNG.permutation(400)].reshape(400, 3, 1)  # as images
NOISE = 0.3


def test_the_gaussian_has_the_moments_of_the_data_and_the_noise():
    flat = X.reshape(400, 3)
    covariance = np.cov(flat.T, bias=True) + NOISE**2 * np.eye(3)
    expected = multivariate_normal(flat.mean(0), covariance).logpdf(flat)
    found = baselines.fit_gaussian(X, NOISE)
    np.testing.assert_allclose(found.log_density(X), expected, rtol=1e-10)
    likelihood = baselines.baseline(found, {"held out": X}).likelihood["held out"]
    assert likelihood.mean == pytest.approx(expected.mean())
    assert likelihood.standard_error == pytest.approx(expected.std(ddof=1) / 20)


def test_pixels_that_do_not_vary_are_as_wide_as_the_noise():
    x = np.concatenate([X.reshape(400, 3), np.zeros((400, 1))], 1)
    found = baselines.fit_gaussian(x, NOISE)
    assert found.covariances[0, 3, 3] == pytest.approx(NOISE**2)
    assert np.isfinite(baselines.fit_gaussian(x, 0.0).log_density(x)).all()


def test_a_mixture_is_that_of_scikit_learn_and_finds_the_two_modes():
    from sklearn.mixture import GaussianMixture

    found = baselines.fit_mixture(X, NOISE, (1, 2, 60), seed=0)
    assert found.num_components == 2  # 60 fit the images and not those left out
    flat = X.reshape(400, 3)
    reference = GaussianMixture(2, reg_covar=NOISE**2, random_state=0).fit(flat)
    np.testing.assert_allclose(found.log_density(X), reference.score_samples(flat), rtol=1e-8)
    np.testing.assert_allclose(np.sort(found.means[:, 0]), [-3, 3], atol=0.4)
    # a density: its integral over the plane of the first two values, the third integrated out
    axis = np.linspace(-9, 9, 91)
    grid = np.stack(np.meshgrid(axis, axis, axis[::3] / 3), -1).reshape(-1, 3)
    cell = 0.2 * 0.2 * 0.2
    assert np.exp(found.log_density(grid)).sum() * cell == pytest.approx(1, abs=0.01)


def test_images_that_are_left_out_have_noise_of_their_own(monkeypatch):
    judged, flat = [], X.reshape(400, 3)

    class Fit:
        """Of 320 images; the one of three Gaussians is best."""

        def __init__(self, data, number, added, seed):
            self.given = len(data), number, added, seed

        def log_density(self, x):
            judged.append(x - flat[320:])
            return np.zeros(80) - (self.given[1] - 3) ** 2

    monkeypatch.setattr(mixture, "fit_mixture", Fit)
    assert baselines.fit_mixture(X, NOISE, (2, 3, 4), seed=5).given == (400, 3, NOISE**2, 5)
    assert len(judged) == 3
    assert len(np.unique(judged[0])) == 240
    assert judged[0].std() == pytest.approx(NOISE, rel=4 / np.sqrt(480))
    np.testing.assert_array_equal(judged[0], judged[2])


def test_more_components_than_images_are_refused_in_one_line():
    with pytest.raises(ValueError, match=r"^num_components: expected at most 16, .* got 17$"):
        baselines.fit_mixture(X[:20], NOISE, (2, 17), seed=0)
    with pytest.raises(ValueError, match=r"^num_components: expected at most 1, .* got 2$"):
        baselines.fit_mixture(X[:2], NOISE, (2,), seed=0)  # one is left out, always
    assert baselines.fit_mixture(X[:3], NOISE, (2,), seed=0).num_components == 2
