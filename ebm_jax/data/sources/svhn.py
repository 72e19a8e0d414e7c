"""SVHN, cropped: 73,257 + 26,032 color images of house numbers' digits, 32 x 32.

The half million 'extra' images are left out: TFDS sorts that many on disk, with TensorFlow.
"""

from ebm_jax.data.sources.base import prepared_source
from ebm_jax.data.storage import mat
from ebm_jax.data.storage.archives import Archive

_URL = "http://ufldl.stanford.edu/housenumbers/"
ARCHIVES = {
    "train": Archive.at(
        _URL + "train_32x32.mat",
        "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    ),
    "test": Archive.at(
        _URL + "test_32x32.mat",
        "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    ),
}

SOURCE = prepared_source(
    "svhn",
    lambda fetch: {split: mat.read_svhn(fetch(archive)) for split, archive in ARCHIVES.items()},
    version="3.1.0",
    image_shape=(32, 32, 3),
    num_classes=10,
    description=__doc__ or "",
    homepage="http://ufldl.stanford.edu/housenumbers/",
    tfds_name="svhn_cropped",
)
