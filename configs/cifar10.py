"""CIFAR-10, unconditional: the row of Gao et al. 2020.

    python main.py --config=configs/cifar10.py --workdir=runs/cifar10
    python main.py --config=configs/cifar10.py:small --workdir=runs/cifar10_small

Network: N = 8 blocks per resolution, 34.83 M parameters; T = 6, K = 30; batch 256, 240k steps.
Hardware: accelerators, for days; this code has not run it to its end.
Results reported in the paper, not of this code: FID 9.58, Inception score 8.30.
Variant `small`: ch 32, N = 1, batch 16, 0.30 M parameters: a size that a CPU can step through.
Variant `t1k`: the paper's other setting, T = 1000 and no chain: one Gaussian transition per
level, in training and in sampling. The paper gives neither its energy scale nor its weights of
the levels.
"""

import ml_collections

from configs import default

VARIANTS = ("", "small", "t1k")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The paper's run, or `small`, or `t1k`."""
    default.check_variant(variant, VARIANTS)
    config = default.get_config()
    if variant == "small":
        config.network.width = 32
        config.network.num_blocks = 1
        config.training.batch_size = 16
    if variant == "t1k":
        config.method.num_pairs = 1_000
        config.method.transition = "gaussian"
        config.sampler.noise_scale = 1.0
        config.method.transition_variance = "step"  # sigma_{t+1}^2; or posterior, as digits
    return config
