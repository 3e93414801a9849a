"""The digits to train and validate on: scikit-learn's bundled 8×8 images, or MNIST from IDX files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xent.errors import DataError, OptionError
from xent.recipes import _idx

VALIDATION_SHARE = 0.2
SEPARATORS = ("-", ".")  # train-images-idx3-ubyte as published; train-images.idx3-ubyte as many archives unpack it

Labelled = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # images (N, height, width), labels (N,)


@dataclass(frozen=True)
class Rows:
    """Features (N, D) in [0, 1] and labels (N,) in [0, 10); the whole set is one tensor."""

    features: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Rows:
        return Rows(self.features[rows], self.labels[rows])


@dataclass(frozen=True)
class DigitImages:
    """Rows to train on, rows to validate on, where they came from and the SHA-256 of the images and labels read."""

    train: Rows
    validation: Rows
    source: str
    sha256: str

    @property
    def num_features(self) -> int:
        """Pixels per image, D."""
        return self.train.features.shape[1]

    def to_dict(self) -> dict[str, Any]:
        """What config.json says about the data."""
        return {
            "source": self.source,
            "sha256": self.sha256,
            "features": self.num_features,
            "train_rows": len(self.train),
            "validation_rows": len(self.validation),
        }


def load_digit_images(directory: str | Path | None, generator: torch.Generator) -> DigitImages:
    """Load the digits; a set without a split of its own is split 80/20 by `generator`.

    Raises:
        OptionError: `directory` is none, or holds no MNIST files.
        DataError: a file is missing, truncated or not what its name says.
    """
    if directory is None:
        return _split(*_bundled(), generator)
    train, test = _pair(Path(directory), "train"), _pair(Path(directory), "t10k")
    source = f"IDX files in {directory}"
    if train and test:
        return _keep_apart(train, test, source)
    if one := train or test:
        return _split(one, 255, source, generator)
    raise OptionError(
        f"data is {directory}, which {_lack(Path(directory))}",
        "it must be a directory with MNIST's IDX files",
        "put train-images-idx3-ubyte and train-labels-idx1-ubyte, or the t10k pair, there, gzipped or not",
    )


def _lack(directory: Path) -> str:
    if directory.is_dir():
        return "holds no such file"
    return "is no directory" if directory.exists() else "does not exist"


def _bundled() -> tuple[Labelled, int, str]:
    try:
        from sklearn.datasets import load_digits  # a second to import, and an optional extra
    except ImportError as error:
        raise DataError(
            "scikit-learn is not installed",
            "the default digits are bundled with it",
            "pip install 'xent[digits]', or pass --data with a directory of MNIST files",
        ) from error
    bunch: Any = load_digits()
    return (bunch.images.astype(np.uint8), bunch.target.astype(np.uint8)), 16, "scikit-learn's load_digits"


def _pair(directory: Path, prefix: str) -> Labelled | None:
    images, labels = (_find(directory, f"{prefix}-{kind}") for kind in ("images?idx3-ubyte", "labels?idx1-ubyte"))
    if images and labels:
        return _idx.read_pair(images, labels)
    if images or labels:
        missing = f"{prefix}-{'labels-idx1' if images else 'images-idx3'}-ubyte"
        raise DataError(f"{images or labels} stands alone", f"{missing} must stand beside it", "get the missing file")
    return None


def _find(directory: Path, pattern: str) -> Path | None:
    names = [pattern.replace("?", separator) + ending for separator in SEPARATORS for ending in ("", ".gz")]
    return next((directory / name for name in names if (directory / name).is_file()), None)


def _split(labelled: Labelled, brightest: int, source: str, generator: torch.Generator) -> DigitImages:
    rows = _rows(labelled, brightest)
    num_validation = int(len(rows) * VALIDATION_SHARE)
    if num_validation == 0:
        raise DataError(
            f"{source}: {len(rows)} rows", "a split 80/20 needs 5 or more", "add rows, or the other pair of files"
        )
    order = torch.randperm(len(rows), generator=generator)
    return DigitImages(rows[order[num_validation:]], rows[order[:num_validation]], source, _sha256(labelled))


def _keep_apart(train: Labelled, validation: Labelled, source: str) -> DigitImages:
    if train[0].shape[1:] != validation[0].shape[1:]:
        sizes = " and ".join("×".join(map(str, images.shape[1:])) for images, _ in (train, validation))
        raise DataError(
            f"train and t10k images are {sizes}", "they must be of one size", "get both from the same place"
        )
    return DigitImages(_rows(train, 255), _rows(validation, 255), source, _sha256(train, validation))


def _rows(labelled: Labelled, brightest: int) -> Rows:
    images, labels = labelled
    features_ND = torch.tensor(images).flatten(1).float() / brightest
    return Rows(features_ND, torch.tensor(labels).long())


def _sha256(*parts: Labelled) -> str:
    """Hash shapes and bytes as read, so that a gzipped file and its unpacked copy are the same data."""
    digest = hashlib.sha256()
    for array in (array for part in parts for array in part):
        digest.update(repr(array.shape).encode() + array.tobytes())
    return digest.hexdigest()
