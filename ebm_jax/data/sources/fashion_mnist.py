"""Fashion-MNIST: 60,000 + 10,000 gray images of clothes, 28 x 28, in ten classes.

The Debian package `dataset-fashion-mnist` has the published pixels, packed again.
"""

from pathlib import Path

from ebm_jax.data.sources.base import prepared_source
from ebm_jax.data.storage import idx
from ebm_jax.data.storage.archives import Archive, Package

_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
PACKAGE = Package("dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist"))
# {split: (images, labels)}
ARCHIVES = {
    "train": (
        Archive.at(
            _URL + "train-images-idx3-ubyte.gz",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            PACKAGE,
        ),
        Archive.at(
            _URL + "train-labels-idx1-ubyte.gz",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            PACKAGE,
        ),
    ),
    "test": (
        Archive.at(
            _URL + "t10k-images-idx3-ubyte.gz",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            PACKAGE,
        ),
        Archive.at(
            _URL + "t10k-labels-idx1-ubyte.gz",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            PACKAGE,
        ),
    ),
}

SOURCE = prepared_source(
    "fashion_mnist",
    lambda fetch: idx.read_splits(ARCHIVES, fetch, image_size=(28, 28), num_classes=10),
    version="3.0.1",
    image_shape=(28, 28, 1),
    num_classes=10,
    description="60,000 + 10,000 gray images of clothes, 28 x 28, in ten classes.",
    homepage="https://github.com/zalandoresearch/fashion-mnist",
    tfds_name="fashion_mnist",
)
