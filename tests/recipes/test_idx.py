"""IDX files: what is read, and the sentence for everything that is not one."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from xent.errors import DataError
from xent.recipes import _idx

IMAGES = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
LABELS = np.array([7, 9], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("name", ["plain", "named.gz"])
def test_reads_packed_or_not_whatever_the_name(tmp_path: Path, pack, name):
    path = tmp_path / name
    path.write_bytes(pack(idx(IMAGES)))
    np.testing.assert_array_equal(_idx.read_images(path), IMAGES)


IMAGE_BYTES = idx(IMAGES)
DAMAGED = {
    "empty file": (b"", "magic number missing"),
    "three bytes": (b"\0\0\x08", "is no MNIST file"),
    "text": (b"hello, world", "is no MNIST file (magic number 68656c6c)"),
    "labels for images": (idx(LABELS), "holds labels"),
    "floats": (b"\0\0\x0d\x03" + IMAGE_BYTES[4:], "is no MNIST file"),
    "header cut": (IMAGE_BYTES[:10], "ends inside its header"),
    "one byte short": (IMAGE_BYTES[:-1], "is truncated: 23 bytes of data; its header promises 2 × 3 × 4 = 24"),
    "one byte long": (IMAGE_BYTES + b"\0", "has trailing bytes"),
    "no rows": (idx(IMAGES[:0]), "is empty (0 × 3 × 4)"),
    "gzip cut": (gzip.compress(IMAGE_BYTES)[:-5], "is damaged"),
    "gzip flipped": (gzip.compress(IMAGE_BYTES)[:-8] + b"12345678", "is damaged (CRC check failed"),
    "gzip rubbish": (b"\x1f\x8b" + b"rubbish" * 9, "is damaged"),
    "huge promise": (IMAGE_BYTES[:4] + b"\xff" * 12, "is truncated"),
}


@pytest.mark.parametrize(("content", "sentence"), DAMAGED.values(), ids=DAMAGED.keys())
def test_says_what_is_wrong(tmp_path: Path, content, sentence):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        _idx.read_images(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_images_where_labels_belong(tmp_path: Path):
    (tmp_path / "labels").write_bytes(IMAGE_BYTES)
    with pytest.raises(
        DataError, match=r"holds images .*; labels begin with 00000801: check that the files are not sw"
    ):
        _idx.read_labels(tmp_path / "labels")


def test_a_label_must_be_a_digit(tmp_path: Path):
    (tmp_path / "labels").write_bytes(idx(np.array([3, 10], dtype=np.uint8)))
    with pytest.raises(DataError, match="holds label 10 in row 1"):
        _idx.read_labels(tmp_path / "labels")


def test_each_image_needs_its_label(tmp_path: Path):
    (tmp_path / "images").write_bytes(IMAGE_BYTES)
    (tmp_path / "labels").write_bytes(idx(LABELS[:1]))
    with pytest.raises(DataError, match="2 images and labels 1 labels"):
        _idx.read_pair(tmp_path / "images", tmp_path / "labels")


def test_a_directory_is_no_file(tmp_path: Path):
    with pytest.raises(DataError, match="can't be read"):
        _idx.read_images(tmp_path)
