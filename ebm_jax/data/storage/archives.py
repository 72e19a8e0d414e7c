"""The published archives of the small image sets: where they are looked for, and their formats."""

import gzip
import hashlib
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ebm_jax.data.storage.paths import manual_dir, missing, reading

Arrays = tuple[np.ndarray, np.ndarray]  # images uint8 [n, height, width, channels], labels [n]


class Archive(NamedTuple):
    """A published file: its name, its address, and the SHA-256 of its contents."""

    filename: str
    url: str
    sha256: str


def fetch(dl_manager, name: str, archive: Archive) -> Path:
    """Path of an archive: the one put there by hand, else downloaded through `dl_manager`.

    Args:
        dl_manager: TFDS's download manager, which keeps what it downloads.
        name: name of the data set, which is also the folder of archives fetched by hand.
        archive: the file wanted.

    Raises:
        FileNotFoundError: not there by hand and not to be downloaded.
        ValueError: downloaded, but not the published file.
    """
    directory = manual_dir(Path(dl_manager.download_dir).parent, name)
    by_hand = directory / archive.filename
    if by_hand.exists():
        return by_hand
    import requests  # TFDS downloads with it

    try:
        # One quick look before TFDS, which would retry for minutes where there is no network.
        requests.head(archive.url, timeout=10)
        path = Path(dl_manager.download(archive.url))
    except Exception as error:  # the network fails in many ways, and TFDS raises its own errors
        reason = " ".join(str(error).split())
        raise missing(
            name, directory, archive.filename, f", and {archive.url} failed ({reason})"
        ) from error
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != archive.sha256:
        raise ValueError(
            f"{archive.url} gave a file with SHA-256 {digest[:12]}..., not the published "
            f"{archive.sha256[:12]}...; remove {path} and put the right file into {directory}"
        )
    return path


def read_cifar10(path: Path) -> dict[str, Arrays]:
    """Read `cifar-10-binary.tar.gz`: per image a label byte and 3072 bytes in planes R, G, B.

    Returns:
        `{'train': ..., 'test': ...}`; the five training batches follow each other.
    """
    batches = {
        "train": [f"data_batch_{number}.bin" for number in range(1, 6)],
        "test": ["test_batch.bin"],
    }
    with reading(path, "the binary CIFAR-10 archive"), tarfile.open(path) as tar:
        contents = {
            Path(member.name).name: tar.extractfile(member).read()
            for member in tar
            if member.isfile() and member.name.endswith(".bin")
        }
        arrays = {}
        for split, names in batches.items():
            rows = np.concatenate([np.frombuffer(contents[name], np.uint8) for name in names])
            rows = rows.reshape(-1, 1 + 3072)
            images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            arrays[split] = images, rows[:, 0]
    return arrays


def _read_idx(path: Path, dimensions: int) -> np.ndarray:
    """One gzipped IDX file of bytes: magic `0 0 8 dimensions`, big-endian sizes, data."""
    with reading(path, f"a gzipped IDX file of {dimensions} dimensions"):
        with gzip.open(path) as file:
            content = file.read()
        if content[:4] != bytes([0, 0, 8, dimensions]):
            raise ValueError(f"it begins with {content[:4].hex()}")
        start = 4 + 4 * dimensions
        shape = np.frombuffer(content[4:start], ">u4").astype(int)
        return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_mnist(images_path: Path, labels_path: Path) -> Arrays:
    """Read one split of MNIST or Fashion-MNIST from its two gzipped IDX files."""
    images, labels = _read_idx(images_path, 3), _read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(images)} images, {labels_path} {len(labels)} labels; "
            "fetch both again"
        )
    return images[..., None], labels


def read_svhn(path: Path) -> Arrays:
    """Read one split of cropped SVHN: a MATLAB file with X `[32, 32, 3, n]` and y `[n, 1]`.

    The file calls the digit 0 by the label 10; here it is 0.
    """
    import scipy.io

    with reading(path, "an SVHN file in MATLAB format"):
        content = scipy.io.loadmat(str(path), variable_names=["X", "y"])
        images, labels = np.moveaxis(content["X"], -1, 0), content["y"].reshape(-1)
        if len(images) != len(labels) or images.shape[1:] != (32, 32, 3):
            raise ValueError(f"X has shape {content['X'].shape}, y {content['y'].shape}")
    return images, labels % 10
