"""CIFAR-10 with IGEBM: the rows of Du & Mordatch 2019.

    python main.py --config=configs/cifar10_igebm.py --workdir=runs/cifar10_igebm
    python main.py --config=configs/cifar10_igebm.py:conditional --workdir=runs/conditional

Unconditional: 9 residual blocks 128x3 / 256x3 / 512x3; conditional: 6 blocks 128x2 / 256x4 with a
bias and a gain per class. K = 60, lambda = 10, gradients clipped at .01, batch 128, beta_1 = 0.
Hardware: accelerators, for days; this code has not run them to their end.
Results reported in the paper, not of this code: unconditional IS 6.02, FID 40.58
(ten checkpoints together 6.78, 38.2); conditional IS 8.30, FID 37.9.
"""

import ml_collections

from configs import default

VARIANTS = ("", "conditional")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The unconditional run, or `conditional`."""
    default.check_variant(variant, VARIANTS)
    config = default.get_config()
    config.data.low, config.data.high = 0.0, 1.0
    config.data.random_flip = False
    config.data.dequantize = True

    config.network = default.network(
        "igebm_resnet", width=128, multipliers=(1, 2, 4), num_blocks=(3, 3, 3)
    )
    config.method = default.method("contrastive_divergence")
    config.sampler = default.sampler("contrastive_divergence")
    config.optimizer = default.optimizer("igebm_adam", learning_rate=3e-4)

    config.training.batch_size = 128
    config.training.ema_decay = 0.999
    if variant == "conditional":
        config.network.multipliers = (1, 2, 2)
        config.network.num_blocks = (2, 2, 2)
        config.network.num_classes = 10
    return config
