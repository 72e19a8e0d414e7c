"""What the effects of methods are computed by hand with.

The network of `effects_stubs` is E(x, c) = theta (1 + c) |x|^2 / 2: chains without noise are
products.
"""

import numpy as np
from effects_stubs import INDEX

THETA = 0.3
KNOWN = np.array([[True, False], [False, True]])[..., None]
LABEL = np.zeros(len(INDEX), np.int32)


def squares(x):
    return np.sum(np.square(x, dtype=np.float64), (1, 2, 3))


def as_images(values):
    return np.asarray(values, np.float64)[:, None, None, None]
