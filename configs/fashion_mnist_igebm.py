"""Fashion-MNIST padded to 32 x 32, unconditional, with IGEBM. Not a run of the paper.

    python main.py --config=configs/fashion_mnist_igebm.py:cpu --workdir=runs/fashion_igebm
    python main.py --config=configs/fashion_mnist_igebm.py --workdir=runs/fashion_igebm_large

CIFAR-10's unconditional run with one channel. Hardware: an accelerator; no figure has been
measured yet.
Variant `cpu`: for CPU cores, as `configs/fashion_mnist.py:cpu`; an hour on one of them. Outlines of
clothes, filled with speckles: figures in docs/trained_models.md.
"""

import ml_collections

from configs import cifar10_igebm, default, fashion_mnist

VARIANTS = ("", "cpu")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The large run, or `cpu`."""
    default.check_variant(variant, VARIANTS)
    config = cifar10_igebm.get_config()
    config.data.name = "fashion_mnist"
    config.data.pad_to = 32
    config.data.random_flip = True
    config.training.num_steps = 100_000
    if variant == "cpu":
        config.network.patch_size = 4
        config.network.width = 48
        config.network.multipliers = (1, 2)
        config.network.num_blocks = (1, 1)
        config.method.num_steps = 20
        config.sampler.num_steps = 200
        config.method.buffer_size = 5_000
        config.method.buffer_shards = 2
        config.optimizer.learning_rate = 1e-3
        small = fashion_mnist.get_config("cpu")
        config.training, config.train = small.training, small.train
        config.cpu_devices = small.cpu_devices
    return config
