"""Fashion-MNIST padded to 32 x 32, unconditional, with recovery likelihood. Not a run of the paper.

    python main.py --config=configs/fashion_mnist.py:cpu --workdir=runs/fashion
    python main.py --config=configs/fashion_mnist.py --workdir=runs/fashion_large

CIFAR-10's run with one channel and N = 2: 9.05 M parameters. Hardware: an accelerator; no figure
has been measured yet.
Variant `cpu`: .31 M parameters, for two CPU cores, where it takes 18 minutes. The first convolution
takes squares of 4 x 4 pixels as channels, so that all others see 8 x 8 positions.
"""

import ml_collections

from configs import default

VARIANTS = ("", "cpu")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The large run, or `cpu`."""
    default.check_variant(variant, VARIANTS)
    config = default.get_config()
    config.data.name = "fashion_mnist"
    config.data.pad_to = 32
    config.network.num_blocks = 2
    config.training.batch_size = 128
    config.training.num_steps = 100_000
    if variant == "cpu":
        config.network.patch_size = 4
        config.network.width = 48
        config.network.multipliers = (1, 2)
        config.network.num_blocks = 1
        config.method.num_pairs = 3
        config.method.noise_levels = (0.05, 0.25, 0.6)
        config.method.num_steps = 10
        config.method.step_scale = 7e-3
        config.optimizer.learning_rate = 2e-3
        config.optimizer.schedule = "cosine"
        config.optimizer.warmup_steps = 200
        config.optimizer.max_grad_norm = 1.0
        config.cpu_devices = 2
        config.training.batch_size = 64
        config.training.num_steps = 10_000
        config.training.ema_decay = 0.998
        config.train.log_every = 50
        config.train.sample_every = 2_000
        config.train.checkpoint_every = 500
        config.train.max_retries = 1
    return config
