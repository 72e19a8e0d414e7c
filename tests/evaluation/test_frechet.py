"""The Frechet distance against closed forms, scipy's square root, and its floor on digits."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ebm_jax import data
from ebm_jax.evaluation.fidelity.frechet import (
    GaussianFit,
    RunningGaussian,
    fit_gaussian,
    frechet_distance,
    why_undefined,
)

RNG = np.random.default_rng(0)


def gaussian(mean, covariance):
    return GaussianFit(np.asarray(mean, float), np.asarray(covariance, float), 1)


def random_covariance(d, rank=None):
    factor = RNG.normal(size=(d, rank or d))
    return factor @ factor.T / d


def by_sqrtm(a, b):
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    return np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)


def test_commuting_covariances():
    """With common eigenvectors, d = |m_1 - m_2|^2 + sum (sqrt(l_1) - sqrt(l_2))^2."""
    axes = np.linalg.qr(RNG.normal(size=(5, 5)))[0]
    first, second = np.array([4.0, 1, 9, 0.25, 1e-6]), np.array([1.0, 1, 16, 4, 1e-2])
    a = gaussian(RNG.normal(size=5), axes * first @ axes.T)
    b = gaussian(RNG.normal(size=5), axes * second @ axes.T)
    expected = np.sum((a.mean - b.mean) ** 2) + np.sum((np.sqrt(first) - np.sqrt(second)) ** 2)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-12)


def test_two_by_two_that_do_not_commute():
    """For 2 x 2, tr sqrt(M) = sqrt(tr M + 2 sqrt(det M)), M the product of the covariances."""
    a = gaussian([0, 0], [[2, 1], [1, 1]])
    b = gaussian([3, -4], [[1, -0.5], [-0.5, 3]])
    product = a.covariance @ b.covariance
    root_trace = np.sqrt(np.trace(product) + 2 * np.sqrt(np.linalg.det(product)))
    np.testing.assert_allclose(frechet_distance(a, b), 25 + 3 + 4 - 2 * root_trace, rtol=1e-12)


@pytest.mark.parametrize("d", [3, 20, 64])
def test_against_scipy_where_the_covariances_are_regular(d):
    a = gaussian(RNG.normal(size=d), random_covariance(d))
    b = gaussian(RNG.normal(size=d), random_covariance(d))
    distance = frechet_distance(a, b)
    np.testing.assert_allclose(distance, by_sqrtm(a, b), rtol=1e-8)
    np.testing.assert_allclose(distance, frechet_distance(b, a), rtol=1e-12)


def test_singular_covariances():
    """A point mass; covariances in orthogonal planes; a rank-deficient one and itself."""
    full, low = random_covariance(6), random_covariance(6, rank=2)
    point = gaussian(np.ones(6), np.zeros((6, 6)))
    zero = np.zeros(6)
    assert frechet_distance(gaussian(zero, full), point) == pytest.approx(6 + np.trace(full))
    planes = [np.diag([2.0, 3, 0, 0]), np.diag([0, 0, 5.0, 7])]
    assert frechet_distance(*(gaussian(np.zeros(4), c) for c in planes)) == pytest.approx(17)
    assert abs(frechet_distance(gaussian(zero, low), gaussian(zero, low))) < 1e-12
    # Between the rank-2 one and a full one, the limit of regular ones.
    regular = by_sqrtm(gaussian(zero, low + 1e-10 * np.eye(6)), gaussian(zero, full))
    assert frechet_distance(gaussian(zero, low), gaussian(zero, full)) == pytest.approx(
        regular, abs=1e-4
    )


def test_bures_scale_and_rotation():
    """d(c x, c y) = c^2 d(x, y), and rotating both changes nothing."""
    a = gaussian(RNG.normal(size=8), random_covariance(8))
    b = gaussian(RNG.normal(size=8), random_covariance(8, rank=5))
    turn = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    moved = [gaussian(3 * turn @ f.mean, 9 * turn @ f.covariance @ turn.T) for f in (a, b)]
    np.testing.assert_allclose(frechet_distance(*moved), 9 * frechet_distance(a, b), rtol=1e-10)


def test_fit_is_numpys_covariance_over_blocks_and_of_uint8():
    x = RNG.integers(0, 256, (10_000, 2, 3), dtype=np.uint8)
    fit = fit_gaussian(x, scale=1 / 127.5, offset=-1)
    rows = x.reshape(len(x), 6) / 127.5 - 1
    np.testing.assert_allclose(fit.mean, rows.mean(0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(fit.covariance, np.cov(rows, rowvar=False), rtol=1e-11, atol=1e-13)
    assert fit.num_examples == 10_000


def test_fit_far_from_zero_keeps_its_digits():
    """A covariance by E[x x'] - m m' would lose all of them here."""
    x = RNG.normal(size=(500, 3)) * 1e-3 + 1e6
    np.testing.assert_allclose(
        fit_gaussian(x).covariance, np.cov(x - 1e6, rowvar=False), rtol=1e-6, atol=1e-12
    )


@pytest.mark.parametrize("sizes", [[1] * 40, [25, 15], [7, 0, 33], [40]])
def test_running_fit_does_not_depend_on_the_batches(sizes):
    x = RNG.normal(size=(40, 2, 3)).astype(np.float32) + 100
    moments = RunningGaussian.empty(6)
    for batch in np.split(x, np.cumsum(sizes)[:-1]):
        before = moments
        moments = moments.update(batch)
        assert moments is before or before.num_examples < moments.num_examples
    fit, rows = moments.fit(scale=2, offset=-1), 2 * x.reshape(40, 6).astype(np.float64) - 1
    np.testing.assert_allclose(fit.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(fit.covariance, np.cov(rows, rowvar=False), rtol=0, atol=1e-11)
    whole = fit_gaussian(x, scale=2, offset=-1)
    for a, b in zip(fit, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_running_fit_refusals():
    moments = RunningGaussian.empty(3).update(np.ones((3, 3)))
    with pytest.raises(ValueError, match="expected 3 features, got 2"):
        moments.update(np.ones((4, 2)))
    with pytest.raises(ValueError, match="3 examples leave the covariance of 3 features singular"):
        moments.fit()
    with pytest.raises(ValueError, match="1 of 3 features have non-finite"):
        moments.update(np.array([[0, np.inf, 0]])).fit()


def test_estimated_distance_of_equal_gaussians_falls_as_one_over_n():
    """E d for two sets of n from N(0, I_1): 2/n from the means, 1/n from the deviations."""
    estimates = {
        n: np.mean([
            frechet_distance(fit_gaussian(a[:, None]), fit_gaussian(b[:, None]))
            for a, b in np.random.default_rng(n).normal(size=(600, 2, n))
        ])
        for n in (20, 80)
    }  # fmt: skip
    for n, estimate in estimates.items():
        assert estimate == pytest.approx(3 / n, rel=0.2)  # 4 standard errors, and 1 / n^2


def test_real_digits_held_out_half_against_training_half():
    halves = [data.load_dataset("digits", split).images for split in ("test", "train")]
    fits = [fit_gaussian(half, scale=1 / 127.5, offset=-1) for half in halves]
    assert [fit.num_examples for fit in fits] == [896, 901]
    assert frechet_distance(*fits) == pytest.approx(0.3253, abs=1e-4)
    assert frechet_distance(fits[0], fits[0]) == pytest.approx(0, abs=1e-12)


def test_refusals():
    assert why_undefined(65, 64) is None
    with pytest.raises(ValueError, match="64 examples leave the covariance of 64 features"):
        fit_gaussian(np.zeros((64, 8, 8, 1)))
    with pytest.raises(ValueError, match="1 of 3 features have non-finite"):
        fit_gaussian(np.where(np.arange(3) == 1, np.nan, np.ones((9, 3))))
    one, two = gaussian([0], [[1]]), gaussian([0, 0], np.eye(2))
    with pytest.raises(ValueError, match=r"features of one shape, got \(1,\) and \(2,\)"):
        frechet_distance(one, two)
    with pytest.raises(ValueError, match="not symmetric"):
        frechet_distance(two, gaussian([0, 0], [[1, 0.5], [0, 1]]))
    with pytest.raises(ValueError, match="negative eigenvalue -1"):
        frechet_distance(two, gaussian([0, 0], [[1, 0], [0, -1]]))
    for broken in (gaussian([0, np.inf], np.eye(2)), gaussian([0, 0], [[1, 0], [0, np.nan]])):
        with pytest.raises(ValueError, match="the mean or the covariance has non-finite values"):
            frechet_distance(two, broken)


@pytest.mark.parametrize(
    ("within", "beyond", "said"),
    [  # of a largest value of 4: 1e-6 of an entry, 1e-9 of the largest, 1e-6 of an eigenvalue
        ([[4, 2], [2 + 1.9e-6, 4]], [[4, 2], [2 + 2.2e-6, 4]], "not symmetric"),
        ([[4, 0], [3.9e-9, 4]], [[4, 0], [4.1e-9, 4]], "not symmetric"),
        ([[4, 0], [0, -3.9e-6]], [[4, 0], [0, -4.1e-6]], r"negative eigenvalue -4\.1e-06"),
    ],
)
def test_rounding_of_a_covariance_is_forgiven(within, beyond, said):
    point = gaussian([0, 0], np.zeros((2, 2)))
    trace = within[0][0] + within[1][1]
    assert frechet_distance(gaussian([0, 0], within), point) == pytest.approx(trace)
    with pytest.raises(ValueError, match=said):
        frechet_distance(gaussian([0, 0], beyond), point)


def test_arrays_of_jax_are_fitted_in_float64():
    x = (RNG.normal(size=(30, 2)) + 100).astype(np.float32)
    for a, b in zip(fit_gaussian(jnp.asarray(x)), fit_gaussian(x), strict=True):
        np.testing.assert_array_equal(a, b)
