"""UCI digits with IGEBM, for two CPU cores.

python main.py --config=configs/digits_igebm.py --workdir=runs/digits_igebm
"""

import ml_collections

from configs import cifar10_igebm, digits


def get_config() -> ml_collections.ConfigDict:
    """A narrow network, a short chain, a small buffer; longer chains to sample from noise."""
    config = cifar10_igebm.get_config()
    config.data.name = "digits"
    config.model.width = 24
    config.model.multipliers = (1, 2)
    config.model.num_blocks = (1, 1)
    config.objective.num_steps = 20
    config.objective.sampling_num_steps = 200
    config.objective.buffer_size = 2_000
    config.optimizer.learning_rate = 1e-3
    config.training = digits.get_config().training
    config.training.num_steps = 1_000
    config.cpu_devices = 2
    config.evaluation.num_samples = 1_797
    config.fid.num_samples = 1_797
    return config
