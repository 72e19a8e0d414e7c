"""TFDS builders that prepare and read without TensorFlow.

Images are raw bytes (`Tensor` with `encoding='bytes'`), since encoding a PNG needs TensorFlow.
Importing this module imports tensorflow_datasets: half a second, so it is done where it is needed.
"""

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered


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

    class Digits(tfds.core.GeneratorBasedBuilder):
        """UCI handwritten digits, 8x8, as scikit-learn carries them: 1,797 images.

        Grey values 0..16 become `round(255 v / 16)`: 17 distinct values from 0 to 255. Half of each
        class, drawn at random once and for all, is `train` (901 images), the rest `test` (896), in
        scikit-learn's order. (Alternate images would make halves more alike than independent
        samples are: neighbours were written by the same hand.)
        """

        VERSION = tfds.core.Version("1.0.0")

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
