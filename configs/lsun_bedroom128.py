"""LSUN bedroom at 128 x 128: the row of Gao et al. 2020.

    python main.py --config=configs/lsun_bedroom128.py --workdir=runs/lsun_bedroom128

Network: N = 5 blocks per resolution, 6 resolutions, 71.90 M parameters; T = 6, K = 30; batch 64,
beta_1 = .5, 580k steps. Decoded, the 3,033,042 images take 149 GB of disk.
Hardware: accelerators, for days; this code has not run it to its end.
Result reported in the paper, not of this code: FID 11.27.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The paper's run."""
    config = default.get_config()
    config.data.name = "lsun_bedroom"
    config.data.image_size = 128
    config.held_out_split = "validation"
    config.network.multipliers = (1, 2, 2, 2, 4, 4)
    config.network.num_blocks = 5
    config.optimizer.b1 = 0.5
    config.training.batch_size = 64
    config.training.num_steps = 580_000
    return config
