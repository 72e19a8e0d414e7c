"""MNIST: 60,000 + 10,000 gray images of handwritten digits, 28 x 28."""

from ebm_jax.data.sources.base import prepared_source
from ebm_jax.data.storage import idx
from ebm_jax.data.storage.archives import Archive

_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
# {split: (images, labels)}
ARCHIVES = {
    "train": (
        Archive.at(
            _URL + "train-images-idx3-ubyte.gz",
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        Archive.at(
            _URL + "train-labels-idx1-ubyte.gz",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
    ),
    "test": (
        Archive.at(
            _URL + "t10k-images-idx3-ubyte.gz",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        Archive.at(
            _URL + "t10k-labels-idx1-ubyte.gz",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
}

SOURCE = prepared_source(
    "mnist",
    lambda fetch: idx.read_splits(ARCHIVES, fetch, image_size=(28, 28), num_classes=10),
    version="3.0.1",
    image_shape=(28, 28, 1),
    num_classes=10,
    description=__doc__ or "",
    homepage="http://yann.lecun.com/exdb/mnist/",
    tfds_name="mnist",
)
