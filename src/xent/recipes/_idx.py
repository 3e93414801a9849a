"""MNIST's IDX files: two zero bytes, a type byte, how many dimensions, each size as big-endian uint32, the data."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xent.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
MAGIC = {"labels": 0x00000801, "images": 0x00000803}  # 08 = unsigned bytes, then the number of dimensions
NUM_CLASSES = 10


def read_images(path: Path) -> NDArray[np.uint8]:
    """Read the images of an IDX file, gzipped or not, as (N, height, width) bytes.

    Raises:
        DataError: the file can't be read, is not an IDX file of images, or is shorter or longer than its header says.
    """
    return _read(path, "images")


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Read the labels of an IDX file, gzipped or not, as (N,) bytes, each in [0, 10).

    Raises:
        DataError: as for `read_images`, or a label is no digit.
    """
    labels = _read(path, "labels")
    if labels.max() >= NUM_CLASSES:
        row = int(np.argmax(labels >= NUM_CLASSES))
        raise DataError(
            f"{path} holds label {labels[row]} in row {row}", "a label must be a digit, 0 to 9", "get a fresh copy"
        )
    return labels


def read_pair(images_path: Path, labels_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read images and the labels that belong to them.

    Raises:
        DataError: one of the two can't be read, or they differ in their number of rows.
    """
    images, labels = read_images(images_path), read_labels(labels_path)
    if len(images) != len(labels):
        raise DataError(
            f"{images_path} holds {len(images):,} images and {labels_path.name} {len(labels):,} labels",
            "each image needs its label",
            "get both files from the same place",
        )
    return images, labels


def _read(path: Path, kind: str) -> NDArray[np.uint8]:
    content = _content(path)
    _check_magic(path, kind, content[:4])
    num_dims = content[3]
    header_end = 4 + 4 * num_dims
    if len(content) < header_end:
        raise DataError(f"{path} ends inside its header", f"the header takes {header_end} bytes", "get a fresh copy")
    shape = [int.from_bytes(content[start : start + 4], "big") for start in range(4, header_end, 4)]
    _check_length(path, shape, len(content) - header_end)
    return np.frombuffer(content, np.uint8, offset=header_end).reshape(shape)


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        # By content, not by name: unpacked files often keep their .gz, and packed ones lose it.
        return gzip.decompress(content) if content.startswith(GZIP_MAGIC) else content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is damaged ({str(error).rstrip('.')})", "gzip must unpack it to the end", "get a fresh copy"
        ) from error
    except OSError as error:
        raise DataError(
            f"{path} can't be read ({error.strerror})", "xent must be able to open it", "check the file and its rights"
        ) from error


def _check_magic(path: Path, kind: str, start: bytes) -> None:
    magic = int.from_bytes(start, "big")
    if len(start) == 4 and magic == MAGIC[kind]:
        return
    found = next((f"holds {other}" for other, known in MAGIC.items() if known == magic), "is no MNIST file")
    raise DataError(
        f"{path} {found} (magic number {start.hex() or 'missing'})",
        f"{kind} begin with {MAGIC[kind]:08x}",
        "check that the files are not swapped" if found.startswith("holds") else "get a fresh copy",
    )


def _check_length(path: Path, shape: list[int], num_bytes: int) -> None:
    promised = math.prod(shape)
    sizes = " × ".join(map(str, shape))
    if promised == 0:
        raise DataError(f"{path} is empty ({sizes})", "training needs rows", "get a fresh copy")
    if num_bytes != promised:
        state = "is truncated" if num_bytes < promised else "has trailing bytes"
        raise DataError(
            f"{path} {state}: {num_bytes:,} bytes of data",
            f"its header promises {sizes} = {promised:,}",
            "get a fresh copy",
        )
