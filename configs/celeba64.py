"""CelebA at 64 x 64, unconditional: the row of Gao et al. 2020.

    python main.py --config=configs/celeba64.py --workdir=runs/celeba64

Network: N = 6 blocks per resolution, 5 resolutions, 56.27 M parameters; T = 6, K = 30; batch 128,
beta_1 = .5, 880k steps. Faces are cropped to 178 x 178 and resized with antialiasing.
Hardware: accelerators, for days; this code has not run it to its end.
Result reported in the paper, not of this code: FID 5.98.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The paper's run."""
    config = default.get_config()
    config.data.name = "celeba"
    config.data.image_size = 64
    config.network.multipliers = (1, 2, 2, 2, 4)
    config.network.num_blocks = 6
    config.optimizer.b1 = 0.5
    config.training.batch_size = 128
    config.training.num_steps = 880_000
    return config
