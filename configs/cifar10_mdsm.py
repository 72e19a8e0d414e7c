"""CIFAR-10 with multiscale denoising score matching: the row of Li, Chen & Sommer 2023.

    python main.py --config=configs/cifar10_mdsm.py --workdir=runs/cifar10_mdsm
    python main.py --config=configs/cifar10_mdsm.py:single --workdir=runs/cifar10_single

Res18 with the quadratic head, F = 128, 62.3 M parameters; 128 noises from .05 to 1.2; Adam (.9,
.95) at 5e-5, cosine to 1e-6 over 300k steps; 2,700 steps of annealed Langevin to sample.
Variant `single`: the paper's ablation, one noise level; which one, .3, is a choice made here. Its
energy is a log density of the noisy data, and its chains start at temperature 1.
Hardware: accelerators, for days; this code has not run it to its end.
Results reported in the paper, not of this code: IS 8.31, FID 31.7, 7.04 bits/dim.
"""

import ml_collections

from configs import default

VARIANTS = ("", "single")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The paper's CIFAR-10 run, or `single`."""
    default.check_variant(variant, VARIANTS)
    config = default.get_config()
    config.data.low, config.data.high = 0.0, 1.0
    config.data.random_flip = False

    config.network = default.network("mdsm_resnet", width=128, multipliers=(2, 4, 8), num_blocks=3)
    config.method = default.method("denoising_score_matching")
    config.sampler = default.sampler("denoising_score_matching")

    optimizer = config.optimizer
    optimizer.learning_rate = 5e-5
    optimizer.schedule = "cosine"
    optimizer.final_learning_rate = 1e-6
    optimizer.warmup_steps = 0
    optimizer.b2 = 0.95
    config.training.batch_size = 128
    config.training.num_steps = 300_000
    if variant == "single":
        config.method.num_levels = 1
        config.method.min_noise = config.method.max_noise = config.method.target_sigma = 0.3
        config.sampler.start_temperature = 1.0
    return config
