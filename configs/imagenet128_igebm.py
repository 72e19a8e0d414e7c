"""ImageNet at 128 x 128, class-conditional, with IGEBM (Du & Mordatch 2019).

    python main.py --config=configs/imagenet128_igebm.py --config.data.path=train --workdir=runs/128

data.path: the training images of ILSVRC 2012, unpacked into one folder per class. Shorter side to
128, centre crop, not mirrored. Six residual blocks of 64 to 512 channels, swish but for the first,
1,000 classes, 21.2 M parameters; K = 50, lambda = 100, no clipping, batch 16 per worker.
Held out is a tenth of that folder, not the published validation images.
Hardware: accelerators, for days; this code has not run it to its end.
Results reported in the paper, not of this code: IS 28.6, FID 43.7.
"""

import ml_collections

from configs import cifar10_igebm, default


def get_config() -> ml_collections.ConfigDict:
    """The published network and chain on a folder of 1,000 classes."""
    config = cifar10_igebm.get_config()
    config.data.name = "folder"
    config.data.image_size = 128
    config.network = default.network(
        "igebm_resnet",
        width=64,
        multipliers=(1, 2, 4, 8, 8),
        num_blocks=(1, 1, 1, 1, 2),
        num_classes=1_000,
        activation="swish",
        first_block_activation="leaky_relu",
        final_activation="swish",
    )
    config.method.num_steps = 50
    config.method.step_size = 100.0
    config.method.max_grad = 0.0
    config.training.batch_size = 16
    return config
