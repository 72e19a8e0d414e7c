"""Tiny data sets in their published formats, made from random pixels."""

import gzip
import hashlib
import io
import tarfile

import numpy as np
import pytest


class Archives:
    """Writes archives where those that were fetched by hand belong, below `data_dir`."""

    def __init__(self, data_dir):
        self.data_dir = data_dir
        self.rng = np.random.default_rng(0)

    def folder(self, name):
        path = self.data_dir / "downloads" / "manual" / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def accept(self, *paths):
        """Writes the digests that let these files stand in for the published ones."""
        for path in paths:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            path.with_name(path.name + ".sha256").write_text(f"{digest}  {path.name}\n")

    def pixels(self, *shape):
        return self.rng.integers(0, 256, shape).astype(np.uint8)

    def cifar10(self, per_batch=4):
        """Returns `{split: (images, labels)}` in the order of the files."""
        arrays = {"train": ([], []), "test": ([], [])}
        path = self.folder("cifar10") / "cifar-10-binary.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
                images, labels = (
                    self.pixels(per_batch, 32, 32, 3),
                    self.rng.integers(0, 10, per_batch),
                )
                content = b"".join(
                    bytes([label]) + b"".join(image[:, :, c].tobytes() for c in range(3))
                    for image, label in zip(images, labels, strict=True)
                )
                member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}.bin")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                split = "test" if name == "test_batch" else "train"
                arrays[split][0].append(images)
                arrays[split][1].append(labels)
        self.accept(path)
        return {k: (np.concatenate(x), np.concatenate(y)) for k, (x, y) in arrays.items()}

    def mnist(self, name="mnist", train=20, test=7, side=28, num_classes=10):
        """Returns `{split: (images, labels)}` in the order of the files."""
        arrays = {}
        for split, prefix, n in (("train", "train", train), ("test", "t10k", test)):
            images, labels = self.pixels(n, side, side), self.rng.integers(0, num_classes, n)
            labels = labels.astype(np.uint8)
            for kind, values in (("images", images), ("labels", labels)):
                path = self.folder(name) / f"{prefix}-{kind}-idx{values.ndim}-ubyte.gz"
                sizes = b"".join(size.to_bytes(4, "big") for size in values.shape)
                with gzip.open(path, "wb") as file:
                    file.write(b"\0\0\x08" + bytes([values.ndim]) + sizes + values.tobytes())
                self.accept(path)
            arrays[split] = images[..., None], labels
        return arrays

    def svhn(self, n=12):
        """Returns `{split: (images, labels)}` in the order of the files, the digit 0 as 0."""
        import scipy.io

        arrays = {}
        for split in ("train", "test"):
            images, labels = self.pixels(n, 32, 32, 3), self.rng.integers(1, 11, (n, 1))
            labels[0] = 10
            scipy.io.savemat(
                self.folder("svhn") / f"{split}_32x32.mat",
                {"X": images.transpose(1, 2, 3, 0), "y": labels.astype(np.uint8)},
                do_compression=True,
            )
            self.accept(self.folder("svhn") / f"{split}_32x32.mat")
            arrays[split] = images, np.where(labels == 10, 0, labels)[:, 0]
        return arrays


@pytest.fixture
def archives(tmp_path):
    """A maker of archives below an empty data directory, `archives.data_dir`."""
    return Archives(tmp_path / "data")
