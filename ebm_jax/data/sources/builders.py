"""TFDS builders that prepare and read without TensorFlow.

Images are raw bytes (`Tensor` with `encoding='bytes'`), since encoding a PNG needs TensorFlow.
Importing this module imports tensorflow_datasets: half a second, so it is done where it is needed.
"""

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered

from ebm_jax.data.storage import archives

_CIFAR10 = archives.Archive(
    "cifar-10-binary.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)


def _archives(url: str, **sha256: str) -> dict[str, archives.Archive]:
    """`{key: archive}` of the files that lie side by side at `url`."""
    names = {
        "train_images": "train-images-idx3-ubyte.gz",
        "train_labels": "train-labels-idx1-ubyte.gz",
        "test_images": "t10k-images-idx3-ubyte.gz",
        "test_labels": "t10k-labels-idx1-ubyte.gz",
        "train": "train_32x32.mat",
        "test": "test_32x32.mat",
    }
    return {
        key: archives.Archive(names[key], url + names[key], digest)
        for key, digest in sha256.items()
    }


_MNIST = _archives(
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    train_images="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    train_labels="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
    test_images="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    test_labels="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
)
_FASHION_MNIST = _archives(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    train_images="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
    train_labels="a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
    test_images="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    test_labels="67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
)
_SVHN = _archives(
    "http://ufldl.stanford.edu/housenumbers/",
    train="435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
    test="cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
)


def _info(builder, *, shape, num_classes, description, homepage, ordered=False):
    """`DatasetInfo` of a set with an image and a class label per example."""
    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding="bytes"),
                "label": tfds.features.ClassLabel(num_classes=num_classes),
            }
        ),
        supervised_keys=("image", "label"),
        homepage=homepage,
        disable_shuffling=ordered,
    )


# TFDS finds builders by the name of their class; these would hide its own of the same names.
with registered.skip_registration():

    class _ArchiveBuilder(tfds.core.GeneratorBasedBuilder):
        """A labelled set made from archives that are in place or can be downloaded.

        Keys count from 0 in each split, as in TFDS's own builders: TFDS orders examples by a hash
        of split and key, so that the order here is the one of TFDS.
        """

        SHOW_PROGRESS = True
        SHAPE: tuple[int, int, int]
        HOMEPAGE: str

        def _info(self):
            return _info(
                self,
                shape=self.SHAPE,
                num_classes=10,
                description=self.__doc__,
                homepage=self.HOMEPAGE,
            )

        def _arrays(self, get) -> dict[str, archives.Arrays]:
            """Images and labels of each split; `get(archive)` is the path of an archive."""
            raise NotImplementedError

        def _split_generators(self, dl_manager):
            arrays = self._arrays(lambda archive: archives.fetch(dl_manager, self.name, archive))
            return {split: self._generate_examples(*pair) for split, pair in arrays.items()}

        def _generate_examples(self, images, labels):
            for index, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
                yield index, {"image": image, "label": label}

    class Cifar10(_ArchiveBuilder):
        """CIFAR-10: 50,000 + 10,000 colour images of 32x32."""

        VERSION = tfds.core.Version("3.0.2")
        SHAPE = (32, 32, 3)
        HOMEPAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"

        def _arrays(self, get):
            return archives.read_cifar10(get(_CIFAR10))

    class Mnist(_ArchiveBuilder):
        """MNIST: 60,000 + 10,000 grey images of handwritten digits, 28x28."""

        VERSION = tfds.core.Version("3.0.1")
        SHAPE = (28, 28, 1)
        HOMEPAGE = "http://yann.lecun.com/exdb/mnist/"
        ARCHIVES = _MNIST

        def _arrays(self, get):
            path = {key: get(archive) for key, archive in self.ARCHIVES.items()}
            return {
                split: archives.read_mnist(path[f"{split}_images"], path[f"{split}_labels"])
                for split in ("train", "test")
            }

    class FashionMnist(Mnist):
        """Fashion-MNIST: 60,000 + 10,000 grey images of clothes, 28x28."""

        HOMEPAGE = "https://github.com/zalandoresearch/fashion-mnist"
        ARCHIVES = _FASHION_MNIST

    class Svhn(_ArchiveBuilder):
        """SVHN, cropped: 73,257 + 26,032 colour images of house numbers' digits, 32x32.

        The half million 'extra' images are left out: TFDS sorts that many on disk, with TensorFlow.
        """

        VERSION = tfds.core.Version("3.1.0")
        SHAPE = (32, 32, 3)
        HOMEPAGE = "http://ufldl.stanford.edu/housenumbers/"

        def _arrays(self, get):
            return {split: archives.read_svhn(get(archive)) for split, archive in _SVHN.items()}

    class Digits(tfds.core.GeneratorBasedBuilder):
        """UCI handwritten digits, 8x8, as scikit-learn carries them: 1,797 images.

        Grey values 0..16 become `round(255 v / 16)`: 17 distinct values from 0 to 255. Half of each
        class, drawn at random once and for all, is `train` (901 images), the rest `test` (896), in
        scikit-learn's order. (Alternate images would make halves more alike than independent
        samples are: neighbours were written by the same hand.)
        """

        VERSION = tfds.core.Version("1.0.0")
        SHOW_PROGRESS = False  # it takes a second

        def _info(self):
            return _info(
                self,
                shape=(8, 8, 1),
                num_classes=10,
                description="UCI optical recognition of handwritten digits, test part, 8x8.",
                homepage="https://archive.ics.uci.edu/dataset/80",
                ordered=True,
            )

        def _split_generators(self, dl_manager):
            del dl_manager  # scikit-learn carries the data
            from sklearn.datasets import load_digits

            digits = load_digits()
            # Sorted raw words of a bit generator: a permutation that no NumPy version changes.
            order = np.argsort(
                np.random.Philox(key=0).random_raw(len(digits.target)), kind="stable"
            )
            by_class = [order[digits.target[order] == label] for label in range(10)]
            halves = {
                "train": np.concatenate([members[::2] for members in by_class]),
                "test": np.concatenate([members[1::2] for members in by_class]),
            }
            images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
            return {
                split: self._generate_examples(np.sort(half), images, digits.target)
                for split, half in halves.items()
            }

        def _generate_examples(self, chosen, images, labels):
            for index in chosen.tolist():
                yield index, {"image": images[index], "label": int(labels[index])}
