"""CIFAR-10, unconditional: the row of Gao et al. 2020.

    python main.py --config=configs/cifar10.py --workdir=runs/cifar10
    python main.py --config=configs/cifar10.py:small --workdir=runs/cifar10_small

Network: 34.83 M parameters, N = 8 blocks per resolution; T = 6, K = 30.
Hardware: an accelerator with 16 GB per 64 images of a batch; the paper used 8 TPU-v3 cores.
Figures of the paper (not of this code): FID 9.58, Inception score 8.30 after about 240k steps.
Variant `small`: ch 32, one block per resolution, batch 16: the same method at a size that a CPU can
step through.
"""

import ml_collections

from configs import default


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The paper's run, or `small`."""
    config = default.get_config()
    match variant:
        case "":
            pass
        case "small":
            config.model.width = 32
            config.model.num_blocks = 1
            config.training.batch_size = 16
        case _:
            raise ValueError(f"unknown variant {variant!r}: write one of small")
    return config
