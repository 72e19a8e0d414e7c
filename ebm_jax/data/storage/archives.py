"""Published archives: where they are looked for, and how they are told from others.

An archive is looked for in `<data_dir>/downloads/manual/<name>`, then downloaded. Either way its
SHA-256 is compared with the published one. Another file, put there by hand, is accepted if its own
SHA-256 lies beside it, as `sha256sum FILE > FILE.sha256` writes it.
"""

import contextlib
import glob
import hashlib
import shutil
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ebm_jax.data.storage.paths import manual_dir, missing

_ABANDONED = 3_600  # seconds without a byte after which a download is taken for abandoned

Arrays = tuple[np.ndarray, np.ndarray]  # images uint8 [n, height, width, channels], labels [n]


class Archive(NamedTuple):
    """A published file: its name, its address, and the SHA-256 of its contents."""

    filename: str
    url: str
    sha256: str

    @classmethod
    def at(cls, url: str, sha256: str) -> "Archive":
        """The archive at an address whose last part is its name."""
        return cls(url.rpartition("/")[2], url, sha256)


def fetch(dl_manager, name: str, archive: Archive) -> Path:
    """Path of an archive: the one put there by hand, else downloaded through `dl_manager`.

    Args:
        dl_manager: TFDS's download manager, which keeps what it downloads.
        name: name of the data set, which is also the folder of archives fetched by hand.
        archive: the file wanted.

    Raises:
        FileNotFoundError: not there by hand and not to be downloaded.
        ValueError: not the published file, nor one that is accepted.
    """
    directory = manual_dir(Path(dl_manager.download_dir).parent, name)
    by_hand = directory / archive.filename
    if by_hand.exists():
        _check_by_hand(by_hand, archive)
        return by_hand
    import requests  # TFDS downloads with it

    _remove_abandoned(Path(dl_manager.download_dir), archive.url)
    try:
        # One quick look before TFDS, which would retry for minutes where there is no network.
        requests.head(archive.url, timeout=10)
        path = Path(dl_manager.download(archive.url))
    except Exception as error:  # the network fails in many ways, and TFDS raises its own errors
        reason = " ".join(str(error).split())
        raise missing(
            name, directory, archive.filename, f", and {archive.url} failed ({reason})"
        ) from error
    digest = _sha256(path)
    if digest != archive.sha256:
        raise ValueError(
            f"{archive.url} gave a file with SHA-256 {digest[:12]}..., not the published "
            f"{archive.sha256[:12]}...; remove {path} and put the right file into {directory}"
        )
    return path


def _remove_abandoned(directory: Path, url: str) -> None:
    """Removes what killed downloads of `url` have left: TFDS begins each in a folder of its own."""
    from tensorflow_datasets.core.download import resource

    for folder in directory.glob(f"{glob.escape(resource.get_dl_fname(url))}.tmp.*"):
        with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
            newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            if time.time() - newest > _ABANDONED:
                shutil.rmtree(folder, ignore_errors=True)


def _check_by_hand(path: Path, archive: Archive) -> None:
    digest = _sha256(path)
    beside = path.with_name(path.name + ".sha256")
    accepted = beside.read_text(errors="replace").split()[:1] if beside.is_file() else []
    if digest == archive.sha256 or [digest] == accepted:
        return
    also = f", nor the {accepted[0][:12]}... of {beside.name}" if accepted else ""
    raise ValueError(
        f"{path} has SHA-256 {digest[:12]}..., not the published {archive.sha256[:12]}...{also}: "
        f"it is damaged or another file; fetch it again from {archive.url}, or accept it as it is "
        f"with: cd {path.parent} && sha256sum {path.name} > {beside.name}"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
