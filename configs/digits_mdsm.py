"""UCI digits with multiscale denoising score matching, for two CPU cores.

python main.py --config=configs/digits_mdsm.py --workdir=runs/digits_mdsm
"""

import ml_collections

from configs import cifar10_mdsm, digits


def get_config() -> ml_collections.ConfigDict:
    """A narrow network of two stages, a larger learning rate and a shorter sampler."""
    config = cifar10_mdsm.get_config()
    config.data.name = "digits"
    config.network.width = 16
    config.network.multipliers = (2, 4)
    config.network.num_blocks = 2
    # Steps 2.5 times the published ones, and a fifth as many: the noise still falls slowly beside
    # the steps that the chain takes to follow, and 561 gradients make a sample.
    config.sampler.step_size = 0.05
    config.sampler.num_hot = 100
    config.sampler.num_cooling = 400
    config.sampler.num_final = 60
    config.optimizer.learning_rate = 2e-3
    config.training = digits.get_config().training
    config.train = digits.get_config().train
    config.training.batch_size = 128
    config.training.num_steps = 2_000
    config.cpu_devices = 2
    config.evaluate.num_samples = 1_797
    config.fid.num_samples = 1_797
    return config
