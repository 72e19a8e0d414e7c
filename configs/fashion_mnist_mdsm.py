"""Fashion-MNIST with multiscale denoising score matching (Li, Chen & Sommer 2023).

    python main.py --config=configs/fashion_mnist_mdsm.py --workdir=runs/fashion_mdsm
    python main.py --config=configs/fashion_mnist_mdsm.py:cpu --workdir=runs/fashion_mdsm_cpu

The paper's run, which is that of MNIST: see `configs/mnist_mdsm.py`.
Variant `cpu`: for CPU cores, as `configs/fashion_mnist.py:cpu`; 50 minutes on one of them. Clothes
that are named at once, and stripes for a third of the samples: see docs/trained_models.md.
"""

import ml_collections

from configs import default, fashion_mnist, mnist_mdsm

VARIANTS = ("", "cpu")


def get_config(variant: str = "") -> ml_collections.ConfigDict:
    """The paper's run, or `cpu`."""
    default.check_variant(variant, VARIANTS)
    config = mnist_mdsm.get_config()
    config.data.name = "fashion_mnist"
    if variant == "cpu":
        config.network.patch_size = 4
        config.network.width = 48
        config.network.multipliers = (2, 4)
        config.sampler.step_size = 0.05
        config.sampler.num_hot = 100
        config.sampler.num_cooling = 400
        config.sampler.num_final = 60
        config.optimizer.learning_rate = 1e-3
        small = fashion_mnist.get_config("cpu")
        config.training, config.train = small.training, small.train
        config.training.batch_size = 128
        config.cpu_devices = small.cpu_devices
    return config
