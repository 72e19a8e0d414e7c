"""CIFAR-10, unconditional: the row of Gao et al. 2020.

    python main.py --config=configs/cifar10.py --workdir=runs/cifar10
    python main.py --config=configs/cifar10.py:small --workdir=runs/cifar10_small

Network: N = 8 blocks per resolution, 34.83 M parameters; T = 6, K = 30; batch 256, 240k steps.
Hardware: accelerators, for days; this code has not run it to its end.
Figures of the paper, not of this code: FID 9.58, Inception score 8.30.
Variant `small`: ch 32, N = 1, batch 16, 0.30 M parameters: a size that a CPU can step through.
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
