"""Your own images, a folder of them: recovery likelihood; no figure has been measured.

    python main.py --config=configs/folder.py --config.data.path=my/photos --workdir=runs/mine

PNG, JPEG and WebP files, in the folder or in folders in it; see docs/data.md. They are resized to
data.image_size, 64 or any other multiple of 8. The network takes its height, width and channels
from the images, gray or color; half of CIFAR-10's width and a quarter of its depth.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """A small network for the images of data.path."""
    config = default.get_config()
    config.data.name = "folder"
    config.data.image_size = 64
    config.network = default.network("recovery_resnet", width=64, num_blocks=2)
    config.training.batch_size = 64
    config.training.num_steps = 100_000
    return config
