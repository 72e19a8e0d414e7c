"""UCI digits (8 x 8) with dual score matching: a density that is known, for two CPU cores.

    python main.py --config=configs/digits_dual.py --workdir=runs/digits_dual
    python main.py --config=configs/digits_dual.py --workdir=runs/digits_dual --mode=likelihood
    python main.py --config=configs/digits_dual.py:chains --workdir=runs/digits_chains
    python main.py --config=configs/digits_dual.py:mixture --workdir=runs/digits_mixture

A perceptron of the 64 values about the Gaussian of the training half, at noises from .05 on.
Variant `chains`: with maximum likelihood at the lowest noise by chains that persist. Where noised
data never come the published loss leaves the energy free, and long chains end there. Variant
`mixture`: these too, and about a mixture of five Gaussians.
"""

import ml_collections

from configs import default

VARIANTS = ("", "chains", "mixture")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """A small network and a short run: 901 images are soon learned by heart; or a variant."""
    default.check_variant(variant, VARIANTS)
    config = default.get_config()
    config.data.name = "digits"
    config.data.random_flip = False
    config.network = default.network("mlp", width=96, depth=2)
    # sqrt(10 tr(covariance)) of the digits is 13.6
    config.method = default.method("dual_score_matching", min_noise=0.05, max_noise=14.0)
    config.sampler = default.sampler("dual_score_matching")
    config.optimizer.learning_rate = 2e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.training.batch_size = 256
    config.training.num_steps = 2_000
    config.training.ema_decay = 0.995
    config.train.log_every = 50
    config.train.sample_every = 1_000
    config.train.checkpoint_every = 500
    config.evaluate.num_samples = 1_797
    config.fid.num_samples = 1_797
    if variant == "chains":
        config.method.chain_weight = 3.0
        config.method.chain_after = 800
    elif variant == "mixture":
        config.method.num_components = 5
        config.method.chain_weight = 1.0
    return config
