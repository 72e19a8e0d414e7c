"""UCI digits (8 x 8, scikit-learn): the run that a laptop finishes in minutes.

    python main.py --config=configs/digits.py --workdir=runs/digits

Trains on one half of the 1,797 images, judges with the other (--mode=evaluate).
Hardware: two CPU cores.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """A small network, a larger step, and a short schedule with a decaying learning rate."""
    config = default.get_config()
    config.data.name = "digits"
    config.data.random_flip = False
    config.model.width = 24
    config.model.multipliers = (1, 2, 2)
    config.model.num_blocks = 1
    config.objective.num_steps = 20
    config.objective.step_scale = 1e-3
    config.objective.sampling_noise_scale = 0.95
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 100
    config.optimizer.max_grad_norm = 1.0
    config.cpu_devices = 2
    config.training.batch_size = 64
    config.training.num_steps = 2_500
    config.training.ema_decay = 0.995
    config.training.log_every = 50
    config.training.sample_every = 1_000
    config.training.checkpoint_every = 500
    config.evaluation.num_samples = 1_797
    return config
