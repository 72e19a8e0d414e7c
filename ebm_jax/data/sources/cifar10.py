"""CIFAR-10: 50,000 + 10,000 color images of 32 x 32 in ten classes."""

from ebm_jax.data.sources.base import prepared_source
from ebm_jax.data.storage import cifar
from ebm_jax.data.storage.archives import Archive

ARCHIVE = Archive(
    "cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
BATCHES = {
    "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
    "test": ["test_batch.bin"],
}

SOURCE = prepared_source(
    "cifar10",
    lambda fetch: cifar.read_binary(fetch(ARCHIVE), BATCHES, num_classes=10),
    version="3.0.2",
    image_shape=(32, 32, 3),
    num_classes=10,
    description=__doc__ or "",
    homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
    tfds_name="cifar10",
)
