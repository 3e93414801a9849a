"""The tokens and word vectors of a spaCy pipeline; the only file of the recipes that imports spaCy, and when asked to.

A static vector depends on the token alone, so only the pipeline's tokenizer runs, and a vector is kept once per word.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xent.errors import DataError, DependencyError, OptionError
from xent.recipes._words import Item

_BATCH = 256  # texts that go to a process at once
_CALAMANCY = "tl_calamancy"


class SpacyWords:
    """Words as a pipeline's tokenizer cuts them, without the whitespace that it counts among its tokens."""

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def identity(self) -> str:
        """The pipeline's files, by size and time; loads it only where it is no directory that Python can find."""
        spacy = _spacy(self.name)
        root = _place(self.name) or self.pipeline.path
        files = sorted(path for path in Path(root).rglob("*") if path.is_file() and path.suffix != ".pyc")
        stats = [(str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        digest = hashlib.sha256(repr(stats).encode()).hexdigest()
        return f"spacy {spacy.__version__} {Path(root).absolute()} {digest}"

    @cached_property
    def pipeline(self) -> Any:
        """The loaded pipeline.

        Raises:
            DependencyError: spaCy, calamanCy or the pipeline is not installed.
            DataError: it can't be loaded, or has no word vectors.
        """
        pipeline = _loaded(self.name)
        if not pipeline.vocab.vectors_length or not len(pipeline.vocab.vectors):
            raise DataError(
                f"the pipeline {self.name} has no word vectors",
                "--vectors takes a vector of every word from it",
                "pass a pipeline that has some (in spaCy's naming one that ends in _md or _lg)",
            )
        pipeline.max_length = 1 << 40  # a bound of parsers, which do not run here
        return pipeline

    def pipe(self, items: Iterable[Item], processes: int = 1) -> Iterator[tuple[list[str], Any]]:
        """The words of each text, in order, with what goes with it."""
        pipeline = self.pipeline
        with pipeline.select_pipes(disable=list(pipeline.pipe_names)):
            docs = pipeline.pipe(items, as_tuples=True, batch_size=_BATCH, n_process=processes)
            for doc, what in docs:
                yield [token.text for token in doc if not token.is_space], what

    def vectors(self, words: list[str]) -> tuple[Tensor, Tensor]:
        """The vector (U, D) of every word, zero where it has none, and whether it has one (U,)."""
        vocab = self.pipeline.vocab
        vectors_UD = torch.zeros(len(words), vocab.vectors_length)
        has_U = torch.zeros(len(words), dtype=torch.bool)
        for place, word in enumerate(words):
            if vocab.has_vector(word):
                vectors_UD[place] = torch.as_tensor(vocab.get_vector(word), dtype=torch.float32)
                has_U[place] = True
        return vectors_UD, has_U


def _spacy(name: str) -> Any:
    try:
        return importlib.import_module("spacy")
    except ImportError as error:
        extra = "calamancy" if _is_calamancy(name) else "spacy"
        raise DependencyError(
            "spaCy is not installed", f"--vectors {name} is a pipeline of it", f"pip install 'xent[{extra}]'"
        ) from error


def _is_calamancy(name: str) -> bool:
    return Path(name).name.startswith(_CALAMANCY) and not Path(name).is_dir()


def _place(name: str) -> Path | None:
    """Where a pipeline lies, as a directory or as an installed package; None where neither is found."""
    if Path(name).is_dir():
        return Path(name)
    package = name.partition("-")[0]
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = list(spec.submodule_search_locations or []) if spec else []
    return Path(places[0]) if places else None


def _loaded(name: str) -> Any:
    spacy, place = _spacy(name), _place(name)
    if place is None and _is_calamancy(name):
        return _from_calamancy(name)
    if place is None:
        raise DependencyError(
            f"there is no pipeline {name}",
            "--vectors takes an installed spaCy pipeline or the directory of one",
            "check the path" if "/" in name or "\\" in name else f"python -m spacy download {name}",
        )
    try:
        return spacy.load(name if Path(name).is_dir() else name.partition("-")[0])
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DataError(
            f"the pipeline {name} can't be loaded ({' '.join(str(error).split())[:200]})",
            "spacy.load must be able to",
            "check it with spacy.load, or pass another",
        ) from error


def _from_calamancy(name: str) -> Any:
    """A pipeline that calamanCy knows, which it downloads the first time."""
    try:
        calamancy = importlib.import_module("calamancy")
    except ImportError as error:
        raise DependencyError(
            f"neither the pipeline {name} nor calamanCy is installed",
            "calamanCy, which downloads its pipelines, needs transformers 4 and so an environment of its own",
            "python -m venv tagalog && tagalog/bin/pip install 'xent[calamancy]'",
        ) from error
    known = [model for model in calamancy.models() if model == name or model.startswith(f"{name}-")]
    if not known:
        raise OptionError(f"calamanCy has no pipeline {name}", f"it has {', '.join(calamancy.models())}", "pass one")
    newest = max(known, key=_version)
    try:
        return calamancy.load(newest)
    except Exception as error:  # of huggingface_hub, pip or spaCy, as the version of calamanCy has it
        raise DataError(
            f"calamanCy can't load {newest} ({' '.join(str(error).split()).partition('. ')[0][:200]})",
            "it downloads a pipeline the first time",
            "check the network, and calamancy.load",
        ) from error


def _version(model: str) -> list[int]:
    return [int(number) for number in model.rpartition("-")[2].split(".") if number.isdigit()]
