"""Images of a Gaussian fitted to pixels: the plainest model, which any other has to beat."""

from typing import NamedTuple

import numpy as np

from ebm_jax.evaluation.fidelity import frechet


class GaussianImages(NamedTuple):
    """N(mean, factor factor') over pixels in 0 .. 255: [d] and [d, d], d the values of `shape`."""

    mean: np.ndarray
    factor: np.ndarray
    shape: tuple[int, ...]

    def draw(self, first: int, stop: int, *, seed: int) -> np.ndarray:
        """Images first .. stop - 1, uint8 [stop - first, *shape]; each a function of (seed, i).

        Rounded, and cut off at black and white.
        """
        size = len(self.mean)
        noise = [np.random.default_rng([seed, i]).standard_normal(size) for i in range(first, stop)]
        pixels = np.stack(noise) @ self.factor.T + self.mean
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).reshape(-1, *self.shape)


def fit_gaussian_images(images: np.ndarray) -> GaussianImages:
    """With the mean and the covariance of images, uint8 [n, height, width, channels].

    Raises:
      ValueError: no more images than values in one.
    """
    fit = frechet.fit_gaussian(images)
    # Not Cholesky's: pixels that never vary, as padding does not, make the covariance singular.
    values, vectors = np.linalg.eigh(fit.covariance)
    factor = vectors * np.sqrt(np.maximum(values, 0.0))
    return GaussianImages(fit.mean, factor, images.shape[1:])
