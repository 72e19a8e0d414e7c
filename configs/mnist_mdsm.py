"""MNIST with multiscale denoising score matching (Li, Chen & Sommer 2023).

    python main.py --config=configs/mnist_mdsm.py --workdir=runs/mnist_mdsm

Res12 with F = 64, images padded to 32 x 32, log-spaced noises from .1 to 3, Adam (.9, .95) at 1e-4,
100k steps.
Hardware: one accelerator; this code has not run it to its end. The paper gives pictures, no FID.
"""

import ml_collections

from configs import cifar10_mdsm


def get_config() -> ml_collections.ConfigDict:
    """The paper's run on MNIST."""
    config = cifar10_mdsm.get_config()
    config.data.name = "mnist"
    config.data.pad_to = 32
    config.network.width = 64
    config.network.num_blocks = 2
    config.method.min_noise = 0.1
    config.method.max_noise = 3.0
    config.method.spacing = "log"
    config.optimizer.learning_rate = 1e-4
    config.training.num_steps = 100_000
    return config
