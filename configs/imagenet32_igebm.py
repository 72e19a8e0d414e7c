"""ImageNet at 32 x 32, class-conditional, with IGEBM (Du & Mordatch 2019).

    python main.py --config=configs/imagenet32_igebm.py --workdir=runs/imagenet32_igebm

9 residual blocks 256x3 / 512x3 / 1024x3 after a first convolution of 128, 1,000 classes, 89.6 M
parameters; K = 60, lambda = 10, batch 32 per worker. *Quirk* of the published code: its README
writes the step size without dashes, so that a run of it as pasted has lambda = 1; 10 is meant.
Hardware: accelerators, for days; this code has not run it to its end.
Results reported in the paper, not of this code: IS 18.22, FID 14.31.
"""

import ml_collections

from configs import cifar10_igebm


def get_config() -> ml_collections.ConfigDict:
    """CIFAR-10's unconditional network at twice the width, but in the first layer; classes."""
    config = cifar10_igebm.get_config()
    config.data.name = "imagenet32"
    config.held_out_split = "validation"
    config.network.width = 256
    config.network.first_width = 128
    config.network.num_classes = 1_000
    config.training.batch_size = 32
    return config
