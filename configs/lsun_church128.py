"""LSUN church, outdoor, at 128 x 128: the row of Gao et al. 2020.

    python main.py --config=configs/lsun_church128.py --workdir=runs/lsun_church128

Network: N = 2 blocks per resolution, 6 resolutions, 29.12 M parameters; T = 6, K = 30; batch 64,
beta_1 = .5, 840k steps.
Hardware: accelerators, for days; this code has not run it to its end.
Result reported in the paper, not of this code: FID 9.76.
"""

import ml_collections

from configs import lsun_church64


def get_config() -> ml_collections.ConfigDict:
    """One resolution more than at 64 x 64."""
    config = lsun_church64.get_config()
    config.data.image_size = 128
    config.network.multipliers = (1, 2, 2, 2, 4, 4)
    config.optimizer.b1 = 0.5
    config.training.batch_size = 64
    config.training.num_steps = 840_000
    return config
