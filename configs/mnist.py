"""MNIST padded to 32 x 32, unconditional. Not a run of the paper.

    python main.py --config=configs/mnist.py --workdir=runs/mnist

CIFAR-10's network with one channel, ch = 32 and N = 2: 0.57 M parameters.
Hardware: an accelerator; no figure has been measured yet.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """A small recovery-likelihood run on MNIST."""
    config = default.get_config()
    config.data.name = "mnist"
    config.data.pad_to = 32
    config.data.random_flip = False
    config.network.width = 32
    config.network.num_blocks = 2
    config.training.batch_size = 128
    config.training.num_steps = 50_000
    return config
