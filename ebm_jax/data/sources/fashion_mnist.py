"""Fashion-MNIST: 60,000 + 10,000 gray images of clothes, 28 x 28, in ten classes."""

from ebm_jax.data.sources.base import prepared_source
from ebm_jax.data.storage import idx
from ebm_jax.data.storage.archives import Archive

_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
# {split: (images, labels)}
ARCHIVES = {
    "train": (
        Archive.at(
            _URL + "train-images-idx3-ubyte.gz",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        Archive.at(
            _URL + "train-labels-idx1-ubyte.gz",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
    ),
    "test": (
        Archive.at(
            _URL + "t10k-images-idx3-ubyte.gz",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        Archive.at(
            _URL + "t10k-labels-idx1-ubyte.gz",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
}

SOURCE = prepared_source(
    "fashion_mnist",
    lambda fetch: idx.read_splits(ARCHIVES, fetch, image_size=(28, 28), num_classes=10),
    version="3.0.1",
    image_shape=(28, 28, 1),
    num_classes=10,
    description=__doc__ or "",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    tfds_name="fashion_mnist",
)
