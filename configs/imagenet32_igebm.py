"""ImageNet at 32 x 32, class-conditional, with IGEBM (Du & Mordatch 2019).

    python main.py --config=configs/imagenet32_igebm.py --workdir=runs/imagenet32_igebm

Width 256, 9 residual blocks, 1,000 classes, K = 60, lambda = 10, batch 32.
Hardware: accelerators, for days; this code has not run it to its end.
Results reported in the paper, not of this code: IS 18.22, FID 14.31.
"""

import ml_collections

from configs import cifar10_igebm


def get_config() -> ml_collections.ConfigDict:
    """CIFAR-10's unconditional network at twice the width, with classes."""
    config = cifar10_igebm.get_config()
    config.data.name = "imagenet32"
    config.held_out_split = "validation"
    config.network.width = 256
    config.network.num_classes = 1_000
    config.network.final_activation = (
        "leaky_relu"  # of the published conditional networks of 9 blocks
    )
    config.training.batch_size = 32
    return config
