"""UCI digits with IGEBM, for two CPU cores.

    python main.py --config=configs/digits_igebm.py --workdir=runs/digits_igebm
    python main.py --config=configs/digits_igebm.py:conditional --workdir=runs/digits_classes

Variant `conditional`: an energy per class, for --mode=classify, robustness and crossclass.
"""

import ml_collections

from configs import cifar10_igebm, default, digits

VARIANTS = ("", "conditional")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """A narrow network, a short chain, a small buffer; longer chains to sample from noise."""
    default.check_variant(variant, VARIANTS)
    config = cifar10_igebm.get_config()
    config.data.name = "digits"
    config.network.width = 24
    config.network.multipliers = (1, 2)
    config.network.num_blocks = (1, 1)
    config.method.num_steps = 20
    config.sampler.num_steps = 200
    config.method.buffer_size = 2_000
    config.method.buffer_shards = 2
    config.optimizer.learning_rate = 1e-3
    config.training = digits.get_config().training
    config.train = digits.get_config().train
    config.training.num_steps = 1_000
    config.cpu_devices = 2
    config.evaluate.num_samples = 1_797
    config.fid.num_samples = 1_797
    if variant == "conditional":
        config.network.num_classes = 10
    return config
