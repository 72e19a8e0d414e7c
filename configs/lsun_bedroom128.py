"""LSUN bedroom at 128 x 128: the row of Gao et al. 2020.

    python main.py --config=configs/lsun_bedroom128.py --workdir=runs/lsun_bedroom128

Network: N = 5 blocks per resolution, 6 resolutions, 71.90 M parameters; T = 6, K = 30; batch 64,
beta_1 = .5, 580k steps. Decoded, the 3,033,042 images take 149 GB of disk.
Hardware: accelerators, for days; this code has not run it to its end.
Result reported in the paper, not of this code: FID 11.27.
"""

import ml_collections

from configs import lsun_church128


def get_config() -> ml_collections.ConfigDict:
    """The church's run on bedrooms, with more blocks."""
    config = lsun_church128.get_config()
    config.data.name = "lsun_bedroom"
    config.network.num_blocks = 5
    config.training.num_steps = 580_000
    return config
