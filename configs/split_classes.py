"""Class-incremental learning by energies: tasks of two classes, one after the other. Our design.

    python main.py --config=configs/split_classes.py:digits --workdir=runs/digits --mode=continual
    python main.py --config=configs/split_classes.py:mnist5k --workdir=runs/5k --mode=continual

Variants `mnist` (Split MNIST), `fashion_mnist`, `mnist5k` (extra `mnist5k`), and `digits`. E(x, y)
of flattened images: two hidden layers of 400, K = 20, Adam (0, .999) at 1e-3, no EMA. Du & Mordatch
2019 published no code of this. `--mode=train` trains the network on all classes at once.
What came out: `docs/experiments.md`.
"""

import ml_collections

from configs import cifar10_igebm, default

VARIANTS = ("mnist", "fashion_mnist", "mnist5k", "digits")


def get_config(variant: str = "mnist") -> ml_collections.ConfigDict:
    """Of one data set; without a variant MNIST."""
    default.check_variant(variant, VARIANTS)
    config = cifar10_igebm.get_config()
    config.data.name = variant
    config.network = default.network("igebm_mlp", width=400, depth=2, num_classes=10)
    config.method.num_steps = 20
    config.optimizer = default.optimizer("adam", learning_rate=1e-3, b1=0.0)
    config.sampling.batch_size = 500
    config.training.ema_decay = 0.0
    config.training.num_steps = 4 * 60_000 // 128
    if variant == "mnist5k":
        config.training.num_steps = 4 * 4_000 // 128
    if variant == "digits":
        config.network.width = 64
        config.method.buffer_size = 2_000
        config.training.num_steps = 1_000
    return config
