"""SVHN (cropped digits), unconditional: supported by the code of Gao et al. 2020, no figure given.

    python main.py --config=configs/svhn.py --workdir=runs/svhn

The network and schedule of CIFAR-10, N = 8; images are not mirrored, as digits are not symmetric.
Hardware as for configs/cifar10.py; no figure has been measured yet.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """CIFAR-10's run on SVHN."""
    config = default.get_config()
    config.data.name = "svhn"
    config.data.random_flip = False
    return config
