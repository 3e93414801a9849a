"""A checkpoint that many ranks write, each its own part, and any number of ranks reads: torch.distributed.checkpoint.

The parts are safetensors: torch's own table of them is a pickle, and nothing in a run is ever executed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from xent.errors import RunError
from xent.recipes._checkpoint import Parts, sync_directory
from xent.recipes._part_files import check_hashes, damaged, sha256_of
from xent.recipes._pieces import Piece


def write_parts(place: Path, pieces: Mapping[str, Piece]) -> dict[str, str]:
    """Write this rank's part; every rank makes the call, and what several have is written by one of them.

    Args:
        place: a new directory, the same on every rank.
        pieces: by name, the same names on every rank.

    Returns:
        SHA-256 of every file by its name, on every rank.

    Raises:
        RunError: on every rank, if one could not write, or not read what was written.
    """
    with _saying(lambda why: RunError(
        f"{place} can't be written ({why})", "each rank writes its part of a checkpoint",
        f"make room or allow writing, then go on with --resume {place.parent}",
    )):  # fmt: skip
        save(
            dict(pieces),
            storage_writer=HuggingFaceStorageWriter(str(place), save_distributed=True),
            planner=_PieceWriter(flatten_state_dict=False, flatten_sharded_tensors=False),
        )
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, _hashes_of_my_share(place))
    for rank, part in enumerate(found):
        if isinstance(part, str):
            raise RunError(
                f"{place} can't be read back (rank {rank}: {part})", "each rank reads its share of what was written",
                f"mend that, then go on with --resume {place.parent}",
            )  # fmt: skip
    return {name: digest for part in found for name, digest in part.items()}


def _hashes_of_my_share(place: Path) -> dict[str, str] | str:
    """SHA-256 by name of this rank's share of the files, or why there are none: the others must hear of it."""
    try:
        mine = sorted(place.glob("*.safetensors"))[dist.get_rank() :: dist.get_world_size()]
        found = {path.name: sha256_of(path) for path in mine}
        sync_directory(place)
    except OSError as error:
        return str(error)
    return found


def read_parts(place: Path, parts: Parts, pieces: Mapping[str, Piece]) -> None:
    """Read into this rank's pieces, whatever number of ranks wrote; every rank makes the call.

    Raises:
        RunError: on every rank, if a file is missing or damaged, or holds other tensors.
    """
    with _saying(lambda why: damaged(place, why)):
        load(dict(pieces), storage_reader=_CheckedReader(place, parts), planner=_PieceReader())


class _PieceWriter(DefaultSavePlanner):
    def create_local_plan(self) -> SavePlan:
        pieces: Any = self.state_dict
        self.plan = SavePlan([_written(name, piece) for name, piece in pieces.items() if piece.tensor.numel()])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor:
        pieces: Any = self.state_dict
        return pieces[write_item.index.fqn].tensor


class _PieceReader(LoadPlanner):
    """Reads blocks of pieces; torch's own planner knows tensors and DTensors only."""

    def set_up_planner(
        self, state_dict: dict[str, Any], metadata: Metadata | None = None, is_coordinator: bool = False
    ) -> None:
        self.pieces: dict[str, Piece] = state_dict
        self.saved: Mapping[str, Any] = metadata.state_dict_metadata if metadata else {}

    def create_local_plan(self) -> LoadPlan:
        return LoadPlan([item for name in self.pieces for item in self._read(name)])

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: Any) -> None:
        raise ValueError(f"{read_item.dest_index.fqn} is no tensor")

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        block = self.pieces[read_item.dest_index.fqn].tensor
        for dim, (offset, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            block = block.narrow(dim, offset, length)
        return block

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """What `resolve_tensor` gave is the place itself."""

    def _read(self, name: str) -> list[ReadItem]:
        piece, saved = self.pieces[name], self.saved.get(name)
        if not isinstance(saved, TensorStorageMetadata) or saved.size != piece.shape:
            has = tuple(saved.size) if isinstance(saved, TensorStorageMetadata) else "not there"
            raise ValueError(f"{name} is {has}, and must have shape {tuple(piece.shape)}")
        return create_read_items_for_chunk_list(name, saved, [_chunk(piece)] if piece.tensor.numel() else [])


class _CheckedReader(HuggingFaceStorageReader):
    """Reads files whose hashes are known; each rank checks its share of them."""

    def __init__(self, place: Path, parts: Parts) -> None:
        super().__init__(str(place))
        self._place, self._parts = place, parts

    def read_metadata(self, *arguments: Any, **options: Any) -> Metadata:
        check_hashes(self._place, self._parts, [])  # that all files are there
        return super().read_metadata(*arguments, **options)

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Any:
        mine = sorted(self._parts.files)[dist.get_rank() :: dist.get_world_size()]
        check_hashes(self._place, self._parts, mine)
        return super().read_data(plan, planner)


def _written(name: str, piece: Piece) -> WriteItem:
    about = TensorWriteData(_chunk(piece), TensorProperties.create_from_tensor(piece.tensor), piece.shape)
    return WriteItem(MetadataIndex(name, piece.offsets), WriteItemType.SHARD, tensor_data=about)


def _chunk(piece: Piece) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(piece.offsets), piece.tensor.shape)


@contextmanager
def _saying(make: Any) -> Iterator[None]:
    """Make torch's collected failures one error of ours, the same on every rank."""
    try:
        yield
    except CheckpointException as error:
        rank, (first, _) = min(error.failures.items())
        raise make(f"rank {rank}: {' '.join(str(first).split())[:300]}") from error
