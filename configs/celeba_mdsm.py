"""CelebA at 32 x 32 with multiscale denoising score matching (Li, Chen & Sommer 2023).

    python main.py --config=configs/celeba_mdsm.py --workdir=runs/celeba_mdsm

CIFAR-10's network and noises, learning rate 1e-4 for 100k steps; faces are mirrored at random.
Hardware: accelerators; this code has not run it to its end. The paper gives pictures, no FID.
"""

import ml_collections

from configs import cifar10_mdsm


def get_config() -> ml_collections.ConfigDict:
    """CIFAR-10's run on faces."""
    config = cifar10_mdsm.get_config()
    config.data.name = "celeba"
    config.data.image_size = 32
    config.data.random_flip = True
    config.optimizer.learning_rate = 1e-4
    config.training.num_steps = 100_000
    return config
