"""Reading TFRecord files without TensorFlow.

A record is: length n as little-endian uint64, masked CRC-32C of those 8 bytes, n bytes, masked
CRC-32C of them. The checks of the lengths are verified, so that the records are cut at the right
places; those of the contents are not: in Python that takes seconds per 10 MB.
"""

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

_HEADER = struct.Struct("<QI")
_FOOTER_SIZE = 4


def _crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_TABLE = _crc32c_table()


def masked_crc32c(content: bytes) -> int:
    """CRC-32C (Castagnoli) of `content`, rotated and shifted as TFRecord stores it."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_records(path: str | os.PathLike) -> Iterator[bytes]:
    """The records of one uncompressed TFRecord file, in order.

    Raises:
        ValueError: if the file is cut short or is not a TFRecord file.
    """
    path = Path(path)
    size = path.stat().st_size
    if size == 0:
        return  # a shard may be empty, and cannot be mapped
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        start = 0
        while start < size:
            body = start + _HEADER.size
            if body > size:
                raise ValueError(f"{path} is damaged at byte {start}; prepare the data set again")
            length, crc = _HEADER.unpack_from(content, start)
            start = body + length + _FOOTER_SIZE
            if start > size or crc != masked_crc32c(content[body - _HEADER.size : body - 4]):
                raise ValueError(
                    f"{path} is damaged at byte {body - _HEADER.size}; prepare the data set again"
                )
            yield content[body : body + length]
