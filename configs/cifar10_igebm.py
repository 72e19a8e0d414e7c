"""CIFAR-10 with IGEBM: the rows of Du & Mordatch 2019.

    python main.py --config=configs/cifar10_igebm.py --workdir=runs/cifar10_igebm
    python main.py --config=configs/cifar10_igebm.py:conditional --workdir=runs/conditional

Unconditional: 9 residual blocks 128x3 / 256x3 / 512x3; conditional: 6 blocks 128x2 / 256x4 with a
bias and a gain per class. K = 60, lambda = 10, gradients clipped at .01, batch 128, beta_1 = 0.
Hardware: accelerators, for days; this code has not run them to their end.
Figures of the paper, not of this code: unconditional IS 6.02, FID 40.58 (ten checkpoints together
6.78, 38.2); conditional IS 8.30, FID 37.9.
"""

import ml_collections

from configs import default


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The unconditional run, or `conditional`."""
    config = default.get_config()
    config.data.low, config.data.high = 0.0, 1.0
    config.data.random_flip = False
    config.data.dequantise = True

    config.model = model = ml_collections.ConfigDict()
    model.name = "igebm_resnet"
    model.width = 128  # channels of the first stage
    model.multipliers = (1, 2, 4)  # of the width, per stage; each stage halves the image first
    model.num_blocks = (3, 3, 3)  # residual blocks per stage
    model.num_classes = 0  # of a conditional network; 0: unconditional
    model.final_activation = "relu"  # before the sum over the image
    model.activation = "leaky_relu"
    model.formulation = "auto"
    model.dtype = "float32"

    config.objective = objective = ml_collections.ConfigDict()
    objective.name = "contrastive_divergence"
    objective.num_steps = 60  # Langevin steps in training, "K"
    objective.sampling_num_steps = 0  # of fresh chains when sampling; 0: as in training
    objective.step_size = 10.0  # "lambda": x -= lambda clip(dE/dx)
    objective.noise_std = 0.005  # added before the gradient, in units of the image's range
    objective.max_grad = 0.01  # each element of dE/dx is clipped to +- this; 0: no clipping
    objective.start_noise = "uniform"  # where fresh chains start, or normal
    objective.starts = "replay_buffer"  # of the chains; or persistent, data, noise
    objective.buffer_size = 10_000  # images, over all devices
    objective.buffer_storage = "uint8"  # or float, or igebm_uint8 as the published code stores
    objective.replay_probability = 0.95  # share of the chains that start from the buffer
    objective.form = "cd"  # of the likelihood term: cd, logsumexp, softplus, cd_with_kl
    objective.energy_l2 = 1.0  # "alpha": weight of mean E(x_pos)^2 + mean E(x_neg)^2
    objective.dropout = False  # True as in the published unconditional training program

    config.optimizer = optimizer = ml_collections.ConfigDict()
    optimizer.name = "igebm_adam"
    optimizer.learning_rate = 3e-4
    optimizer.schedule = "constant"
    optimizer.final_learning_rate = 0.0
    optimizer.warmup_steps = 0
    optimizer.b1 = 0.0
    optimizer.b2 = 0.999

    config.training.batch_size = 128
    config.training.ema_decay = 0.999
    match variant:
        case "":
            pass
        case "conditional":
            model.multipliers = (1, 2, 2)
            model.num_blocks = (2, 2, 2)
            model.num_classes = 10
        case _:
            raise ValueError(f"unknown variant {variant!r}: write one of conditional")
    return config
