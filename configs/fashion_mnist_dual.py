"""Fashion-MNIST (28 x 28) with dual score matching: a density that is known. Not a published run.

    python main.py --config=configs/fashion_mnist_dual.py:cpu --workdir=runs/dual
    python main.py --config=configs/fashion_mnist_dual.py:cpu --workdir=runs/dual --mode=likelihood
    python main.py --config=configs/fashion_mnist_dual.py --workdir=runs/dual_large

Hardware of the large run: an accelerator; no figure has been measured yet. Variant `cpu`: .1 M
parameters, for two CPU cores; its network takes squares of 4 x 4 pixels as channels. After 8 to 14
minutes the density of its samples has 5.82 bits/dim held out (noise .05), where a Gaussian has 6.59
and a mixture 6.38. exp(-U) is no density of images: see docs/trained_models.md.
"""

import ml_collections

from configs import default

VARIANTS = ("", "cpu")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The large run, or `cpu`."""
    default.check_variant(variant, VARIANTS)
    config = default.get_config()
    config.data.name = "fashion_mnist"
    config.data.random_flip = False
    config.network = default.network("film_resnet", multipliers=(1, 2, 4))
    # sqrt(10 tr(covariance)) of the images is 52.3
    config.method = default.method(
        "dual_score_matching", min_noise=0.05, max_noise=53.0, num_levels=30
    )
    config.sampler = default.sampler("dual_score_matching")
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 200
    config.optimizer.max_grad_norm = 1.0
    config.training.batch_size = 128
    config.training.num_steps = 100_000
    if variant == "cpu":
        config.network.patch_size = 4
        config.network.width = 48
        config.network.multipliers = (1,)
        config.network.num_blocks = 1
        config.optimizer.learning_rate = 2e-3
        config.training.batch_size = 64
        config.training.num_steps = 20_000
        config.training.ema_decay = 0.998
        config.train.log_every = 100
        config.train.sample_every = 5_000
        config.train.checkpoint_every = 1_000
    return config
