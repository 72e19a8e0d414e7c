"""LSUN bedroom at 64 x 64: the row of Gao et al. 2020.

    python main.py --config=configs/lsun_bedroom64.py --workdir=runs/lsun_bedroom64

Network: N = 2 blocks per resolution, 5 resolutions, 19.15 M parameters; T = 6, K = 30; batch 128,
760k steps. Decoded, the 3,033,042 images take 37 GB of disk.
Hardware: accelerators, for days; this code has not run it to its end.
Result reported in the paper, not of this code: FID 8.98.
"""

import ml_collections

from configs import lsun_church64


def get_config() -> ml_collections.ConfigDict:
    """The church's run on bedrooms."""
    config = lsun_church64.get_config()
    config.data.name = "lsun_bedroom"
    config.training.num_steps = 760_000
    return config
