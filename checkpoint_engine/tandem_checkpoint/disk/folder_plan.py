"""The files of a Hugging Face folder before they are written: which tensor goes where, headers, index."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import accumulate
from math import prod
from pathlib import Path

from tandem_api.weights import TensorInfo
from tandem_checkpoint.disk.formats import CODES, ITEM_BYTES
from tandem_checkpoint.disk.index import LENGTH_BYTES, SINGLE_FILE, StoredTensor

MOST_FILE_BYTES = 5_000_000_000
"""Larger folders are written in several files, as Hugging Face does; a larger tensor has a file of its own."""
HEADER_MULTIPLE_BYTES = 8
"""Headers are padded with spaces so that the data is aligned."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One safetensors file: its header, with the length before it, then its tensors end to end."""

    name: str
    head: bytes
    tensors: tuple[StoredTensor, ...]
    num_bytes: int


@dataclass(frozen=True)
class FolderPlan:
    """All files that hold tensors. The same on every rank, as it follows from the tensors alone."""

    files: tuple[PlannedFile, ...]
    index: bytes | None
    """Content of the index file; None where one file holds all."""

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor by name; its file is relative to the folder."""
        return {tensor.name: tensor for file in self.files for tensor in file.tensors}

    @property
    def num_bytes(self) -> int:
        """Size of the files."""
        return sum(file.num_bytes for file in self.files)

    @cached_property
    def digest(self) -> str:
        """A name for this plan: writers that differ in it would write over each other."""
        heads = sha256()
        for file in self.files:
            heads.update(file.name.encode() + b"\0" + file.head)
        return heads.hexdigest()


def plan_folder(tensors: Iterable[TensorInfo], most_file_bytes: int = MOST_FILE_BYTES) -> FolderPlan:
    """Return the files for these tensors, in their order. Raises: ValueError where two have one name."""
    shards = _sharded(list(tensors), most_file_bytes)
    names = [tensor.name for shard in shards for tensor in shard]
    if len(set(names)) < len(names):
        raise ValueError(f"two tensors are called {next(name for name in names if names.count(name) > 1)}")
    if len(shards) == 1:
        return FolderPlan((_planned(SINGLE_FILE, shards[0]),), None)
    files = tuple(
        _planned(f"model-{number:05d}-of-{len(shards):05d}.safetensors", shard)
        for number, shard in enumerate(shards, start=1)
    )
    return FolderPlan(files, _index_of(files))


def _sharded(tensors: Sequence[TensorInfo], most_file_bytes: int) -> list[list[TensorInfo]]:
    """Return the tensors file by file; a file is begun where the next tensor would make the last one too large."""
    shards: list[list[TensorInfo]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + _size(tensor) > most_file_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += _size(tensor)
    return shards


def _planned(name: str, shard: Sequence[TensorInfo]) -> PlannedFile:
    """Lay tensors end to end, those of wide items first: then each is aligned to its items."""
    ordered = sorted(shard, key=lambda tensor: -ITEM_BYTES[tensor.dtype])
    ends = [*accumulate((_size(tensor) for tensor in ordered), initial=0)]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for tensor, begin, end in zip(ordered, ends, ends[1:], strict=False):
        header[tensor.name] = {"dtype": CODES[tensor.dtype], "shape": tensor.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % HEADER_MULTIPLE_BYTES)
    head = len(text).to_bytes(LENGTH_BYTES, "little") + text
    placed = (
        StoredTensor(tensor.name, Path(name), tensor.dtype, tensor.shape, len(head) + begin)
        for tensor, begin in zip(ordered, ends, strict=False)
    )
    return PlannedFile(name, head, tuple(placed), len(head) + ends[-1])


def _index_of(files: Sequence[PlannedFile]) -> bytes:
    """Return the content of the index as transformers writes it."""
    tensors = [tensor for file in files for tensor in file.tensors]
    metadata = {
        "total_parameters": sum(prod(tensor.shape) for tensor in tensors),
        "total_size": sum(tensor.num_bytes for tensor in tensors),
    }
    weight_map = {tensor.name: str(tensor.file) for tensor in tensors}
    return (json.dumps({"metadata": metadata, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n").encode()


def _size(tensor: TensorInfo) -> int:
    return ITEM_BYTES[tensor.dtype] * prod(tensor.shape)
