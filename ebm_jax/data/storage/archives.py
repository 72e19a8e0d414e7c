"""Published archives: where they are looked for, and how they are told from others.

An archive is looked for in `<data_dir>/downloads/manual/<name>`, then where a package of the system
installs it, then downloaded. In any case its SHA-256 is compared with the published one, or, for a
gzip file that may have been packed again, that of what it unpacks to. Another file, put there by
hand, is accepted if its own SHA-256 lies beside it, as `sha256sum FILE > FILE.sha256` writes it.
"""

import contextlib
import glob
import gzip
import hashlib
import shutil
import time
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ebm_jax.data.storage.paths import manual_dir, missing

_ABANDONED = 3_600  # seconds without a byte after which a download is taken for abandoned

Arrays = tuple[np.ndarray, np.ndarray]  # images uint8 [n, height, width, channels], labels [n]


class Package(NamedTuple):
    """A Debian package that installs archives: its name, and the directory that they are in."""

    name: str
    directory: Path


class Archive(NamedTuple):
    """A published file.

    Attributes:
        filename: its name.
        url: its address.
        sha256: of the file as it is published.
        content_sha256: of what a gzip file unpacks to, whose header may have another name or time;
            `''` where the file itself is to be the published one.
        package: that installs the file too, or None.
    """

    filename: str
    url: str
    sha256: str
    content_sha256: str = ""
    package: Package | None = None

    @classmethod
    def at(
        cls, url: str, sha256: str, content_sha256: str = "", package: Package | None = None
    ) -> "Archive":
        """The archive at an address whose last part is its name."""
        return cls(url.rpartition("/")[2], url, sha256, content_sha256, package)


def fetch(dl_manager, name: str, archive: Archive) -> Path:
    """Path of an archive: put there by hand, else installed, else downloaded through `dl_manager`.

    Args:
        dl_manager: TFDS's download manager, which keeps what it downloads.
        name: name of the data set, which is also the folder of archives fetched by hand.
        archive: the file wanted.

    Raises:
        FileNotFoundError: not there by hand, not installed and not to be downloaded.
        ValueError: not the published file, nor one that is accepted.
    """
    directory = manual_dir(Path(dl_manager.download_dir).parent, name)
    by_hand = directory / archive.filename
    if by_hand.exists():
        _check_by_hand(by_hand, archive)
        return by_hand
    package = archive.package
    if package is not None and (package.directory / archive.filename).exists():
        installed = package.directory / archive.filename
        if not _is_published(installed, archive):
            raise ValueError(
                f"{installed} is not the published file, or is damaged; install it again "
                f"(apt-get install --reinstall {package.name}), or put {archive.filename} of "
                f"{archive.url} into {directory}"
            )
        return installed
    import requests  # TFDS downloads with it

    _remove_abandoned(Path(dl_manager.download_dir), archive.url)
    try:
        # One quick look before TFDS, which would retry for minutes where there is no network.
        requests.head(archive.url, timeout=10)
        path = Path(dl_manager.download(archive.url))
    except Exception as error:  # the network fails in many ways, and TFDS raises its own errors
        reason = " ".join(str(error).split())
        install = f"; apt-get install {package.name} has it too" if package else ""
        raise missing(
            name, directory, archive.filename, f", and {archive.url} failed ({reason})", install
        ) from error
    if not _is_published(path, archive):
        digest = _sha256(path)
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
    if [digest] == accepted or _is_published(path, archive):
        return
    also = f", nor the {accepted[0][:12]}... of {beside.name}" if accepted else ""
    raise ValueError(
        f"{path} has SHA-256 {digest[:12]}..., not the published {archive.sha256[:12]}...{also}: "
        f"it is damaged or another file; fetch it again from {archive.url}, or accept it as it is "
        f"with: cd {path.parent} && sha256sum {path.name} > {beside.name}"
    )


def _is_published(path: Path, archive: Archive) -> bool:
    """Whether a file is the published one, or unpacks to the same bytes."""
    if _sha256(path) == archive.sha256:
        return True
    if not archive.content_sha256:
        return False
    try:
        # Read to its end, so that its own check sum is compared too.
        content = hashlib.sha256()
        with gzip.open(path) as file:
            while block := file.read(2**20):
                content.update(block)
    except (OSError, EOFError, zlib.error):  # no gzip file, or a damaged one
        return False
    return content.hexdigest() == archive.content_sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
