"""CIFAR-10 with multiscale denoising score matching: the row of Li, Chen & Sommer 2023.

    python main.py --config=configs/cifar10_mdsm.py --workdir=runs/cifar10_mdsm

Res18 with the quadratic head, F = 128, 62.3 M parameters; 128 noises from .05 to 1.2; Adam (.9,
.95) at 5e-5, cosine to 1e-6 over 300k steps; 2,700 steps of annealed Langevin to sample.
Hardware: accelerators, for days; this code has not run it to its end.
Figures of the paper, not of this code: IS 8.31, FID 31.7, 7.04 bits/dim.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """The paper's CIFAR-10 run."""
    config = default.get_config()
    config.data.low, config.data.high = 0.0, 1.0
    config.data.random_flip = False

    config.model = model = ml_collections.ConfigDict()
    model.name = "mdsm_resnet"
    model.width = 128  # "F": channels of the first convolution
    model.multipliers = (2, 4, 8)  # of the width, per stage; each stage halves the image first
    model.num_blocks = 3  # per stage: 3 is Res18, 2 is Res12
    model.formulation = "auto"
    model.dtype = "float32"

    config.objective = objective = ml_collections.ConfigDict()
    objective.name = "denoising_score_matching"
    objective.num_levels = 128  # noises; the batch is a multiple of it
    objective.min_noise = 0.05  # standard deviations, in model units
    objective.max_noise = 1.2
    objective.spacing = "linear"  # or log
    objective.target_sigma = 0.1  # "sigma_0": the noise whose score the energy learns
    objective.step_size = 0.02  # "epsilon" of the sampler: x -= eps^2/2 dE/dx, noise eps sqrt(T)
    objective.start_temperature = 100.0  # "T" of the first num_hot steps
    objective.num_hot = 500  # steps at that temperature
    objective.num_cooling = 2_000  # steps down to 1
    objective.num_final = 200  # steps from 1 to 0, linearly
    objective.cooling = "exp"  # or linear

    optimizer = config.optimizer
    optimizer.learning_rate = 5e-5
    optimizer.schedule = "cosine"
    optimizer.final_learning_rate = 1e-6
    optimizer.warmup_steps = 0
    optimizer.b2 = 0.95
    config.training.batch_size = 128
    config.training.num_steps = 300_000
    return config
