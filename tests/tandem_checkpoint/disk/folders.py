"""Folders of random tensors, written by the safetensors library, and random boxes in them."""

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from tandem_api.weights import TensorInfo
from tandem_checkpoint.disk.coverage import Box
from tandem_checkpoint.disk.index import INDEX_FILE, SINGLE_FILE
from tandem_checkpoint.disk.memory_box import MemoryBox

Tensors = Mapping[str, NDArray[Any]]
ITEMS = {"float32": np.uint32, "bfloat16": np.uint16, "float16": np.uint16, "float8_e4m3fn": np.uint8}
"""What NumPy holds a format's items as."""


def random_tensor(shape: tuple[int, ...], dtype: str, seed: int = 0) -> NDArray[Any]:
    """Return a tensor of random bits."""
    item = np.dtype(ITEMS[dtype])
    return np.random.default_rng(seed).integers(0, 256, (*shape, item.itemsize), np.uint8).view(item)[..., 0]


def write_single(folder: Path, tensors: Tensors) -> Path:
    """Write one safetensors file (of float32 or unsigned numbers); return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / SINGLE_FILE)
    return folder


def write_shards(folder: Path, shards: Sequence[Tensors]) -> Path:
    """Write one file a shard, and the index; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, start=1):
        name = shard_name(number, len(shards))
        save_file(dict(tensors), folder / name)
        weight_map |= dict.fromkeys(tensors, name)
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def shard_name(number: int, num_shards: int) -> str:
    return f"model-{number:05d}-of-{num_shards:05d}.safetensors"


def write_raw(folder: Path, header: object, data: bytes) -> Path:
    """Write a safetensors file byte by byte: its header, as it is or as JSON, and its data."""
    folder.mkdir(parents=True, exist_ok=True)
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / SINGLE_FILE).write_bytes(len(text).to_bytes(8, "little") + text + data)
    return folder


def part_of(tensor: NDArray[Any], box: Box) -> NDArray[Any]:
    """Return a view on a box."""
    if not box.start:
        return tensor
    view: NDArray[Any] = tensor[tuple(slice(start, stop) for start, stop in zip(box.start, box.stop, strict=True))]
    return view


def memory_box_of(tensor: NDArray[Any], box: Box) -> MemoryBox:
    """Return a box whose memory is a view on the whole tensor."""
    return MemoryBox(box.tensor, box.start, box.stop, part_of(tensor, box))


def infos(tensors: Tensors, dtypes: Mapping[str, str]) -> list[TensorInfo]:
    return [TensorInfo(name=name, dtype=dtypes[name], shape=tensor.shape) for name, tensor in tensors.items()]


def formats() -> st.SearchStrategy[dict[str, tuple[str, tuple[int, ...]]]]:
    """Dtype and shape of some tensors by name."""
    shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple)
    return st.dictionaries(
        st.sampled_from(["a", "b.weight", "c.0.bias", "d", "ünï"]),
        st.tuples(st.sampled_from(sorted(ITEMS)), shapes),
        min_size=1,
    )


@st.composite
def boxes(draw: st.DrawFn, name: str, shape: tuple[int, ...]) -> Box:
    """Any box of a tensor, empty ones too."""
    ends = [sorted(draw(st.tuples(st.integers(0, length), st.integers(0, length)))) for length in shape]
    return Box(name, tuple(low for low, _ in ends), tuple(high for _, high in ends))


@st.composite
def partitions(draw: st.DrawFn, name: str, shape: tuple[int, ...]) -> list[Box]:
    """Boxes that make up a tensor, cut by a grid."""
    edges = [
        sorted({0, length, *draw(st.lists(st.integers(0, length), max_size=2))} if length else {0}) for length in shape
    ]
    spans = [[*pairwise(line)] for line in edges]
    return [Box(name, tuple(low for low, _ in corner), tuple(high for _, high in corner)) for corner in product(*spans)]
