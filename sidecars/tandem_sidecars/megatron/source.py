"""Where a rank's weights come from: a Hugging Face folder, or a generation in the pod's segment.

A source is looked over as a whole when it is opened, before the first weight changes. What is read from it then is
what this rank holds, and no more.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch

from tandem_api.weights import Piece, TensorInfo
from tandem_checkpoint.architectures import block_scales as names
from tandem_checkpoint.architectures.block_scales import SCALES
from tandem_checkpoint.architectures.config import PolicyFolderError
from tandem_checkpoint.disk.index import FolderIndex, read_index
from tandem_checkpoint.disk.memory_box import MemoryBox
from tandem_checkpoint.disk.policy_check import READABLE
from tandem_checkpoint.disk.reading import FolderReader
from tandem_checkpoint.layouts.scales import scale_region
from tandem_checkpoint.layouts.shares import regions_of
from tandem_checkpoint.layouts.strip import LocalParameter, Strip
from tandem_checkpoint.process.commands import FolderSource, SegmentSource, WeightSource
from tandem_checkpoint.segments.layout import SegmentLayout
from tandem_checkpoint.segments.manifest import Box, BrokenSegment, check_part, verify
from tandem_checkpoint.segments.store import SegmentError, map_for_reading
from tandem_sidecars import block_scales
from tandem_sidecars.block_scales import FORMAT, WHOLE_BLOCKS
from tandem_sidecars.megatron.arrays import array_of
from tandem_sidecars.megatron.weights import Tensors, check_names, cleared, fill

SOURCE_ERRORS = (PolicyFolderError, BrokenSegment, SegmentError)
"""What can be wrong with a source."""
READ_BYTES = 256 << 20
"""So much of a folder is asked for at once: enough for all of the reader's threads."""


class Source(Protocol):
    """Weights that can be read, as far as can be told beforehand."""

    def fill(self, parameters: Tensors) -> None:
        """Copy this rank's weights into its parameters. Errors: PolicyFolderError where a folder changes meanwhile."""


def open_source(source: WeightSource, layout: SegmentLayout, local: Sequence[LocalParameter]) -> Source:
    """Return the weights of a rank, which are `local`, once everything about their source is right.

    Raises: PolicyFolderError for a folder that lacks some; SegmentError for a segment that is not there; BrokenSegment
    where its pieces do not make up the policy, or where a checksum of what the rank needs differs.
    """
    match source:
        case FolderSource(path=path):
            return FolderContent(Path(path), layout, local)
        case SegmentSource(path=path):
            pieces = tuple(piece for shard in source.shards for piece in shard.pieces)
            return SegmentContent(Path(path), pieces, layout, local)


class FolderContent:
    """The tensors of a folder, of which only headers were read so far."""

    def __init__(self, path: Path, layout: SegmentLayout, local: Sequence[LocalParameter]) -> None:
        self._index = read_index(path)
        self._local = local
        self._block = (layout.block_scales or WHOLE_BLOCKS).block
        for info in layout.tensors:
            self._check(info)

    def _check(self, info: TensorInfo) -> None:
        """Raise PolicyFolderError where a tensor cannot be read; what is served in FP8 may be here in plain numbers."""
        is_scales, path = info.name.endswith(SCALES), self._index.folder
        if is_scales and self._index[info.name.removesuffix(SCALES)].dtype != names.FORMAT:
            return
        stored = self._index[info.name]
        formats: tuple[str, ...] = (names.SCALE_FORMAT,) if is_scales else READABLE
        if info.dtype == names.FORMAT and info.name + SCALES in self._index.tensors:
            formats = (*READABLE, names.FORMAT)
        if stored.dtype not in formats:
            raise PolicyFolderError(
                f"{path}: {info.name} is {stored.dtype}; convert it to bfloat16, scales multiplied in"
            )
        if stored.shape != info.shape:
            raise PolicyFolderError(
                f"{path}: {info.name} is {stored.shape}, the policy's config.json says {info.shape}; use a checkpoint "
                "of this policy"
            )

    def fill(self, parameters: Tensors) -> None:
        """Read every strip into its place, or beside it where formats or devices differ."""
        check_names(parameters, self._local)
        with FolderReader(self._index) as reader:
            for batch in _batches(self._local, self._index):
                reads = [
                    _Read(self._index, cleared(parameters[item.name], item), item.strips, self._block) for item in batch
                ]
                reader.read(box for read in reads for box in read.boxes())
                for read in reads:
                    read.finish()


class _Read:
    """The strips of one parameter on their way from a folder; with a matrix in FP8 come the scales of its blocks."""

    def __init__(
        self, index: FolderIndex, parameter: torch.Tensor, strips: Sequence[Strip], block: tuple[int, int]
    ) -> None:
        self._strips = strips
        self._block = block
        self._targets = [parameter[strip.in_parameter] for strip in strips]
        self._memory = [
            _memory_for(target, getattr(torch, index[strip.tensor].dtype))
            for strip, target in zip(strips, self._targets, strict=True)
        ]
        in_blocks = {strip.tensor for strip, memory in zip(strips, self._memory, strict=True) if memory.dtype is FORMAT}
        self._scales = {name: torch.empty(index[name + SCALES].shape, dtype=torch.float32) for name in in_blocks}

    def boxes(self) -> Iterator[MemoryBox]:
        """Yield what to read."""
        for strip, memory in zip(self._strips, self._memory, strict=True):
            yield MemoryBox(strip.tensor, strip.tensor_start, strip.tensor_stop, array_of(memory))
        for name, scales in self._scales.items():
            yield MemoryBox(name + SCALES, (0,) * scales.ndim, tuple(scales.shape), array_of(scales))

    def finish(self) -> None:
        """Copy what was read beside its place."""
        for strip, target, memory in zip(self._strips, self._targets, self._memory, strict=True):
            if strip.tensor in self._scales:
                scales = self._scales[strip.tensor]
                target.copy_(block_scales.dequantise(memory, scales, strip.tensor_start, self._block))
            elif memory is not target:
                target.copy_(memory)


class SegmentContent:
    """The tensors of a segment. The pieces that this rank needs have the right checksums."""

    def __init__(
        self, path: Path, pieces: tuple[Piece, ...], layout: SegmentLayout, local: Sequence[LocalParameter]
    ) -> None:
        check_part(layout, pieces, _boxes(layout, local))
        mapped = map_for_reading(path)
        if len(mapped) < max(piece.stop_bytes for piece in pieces):
            raise BrokenSegment(f"{path} has {len(mapped)} bytes, fewer than its pieces need; was the volume emptied?")
        self._local = local
        self._block = (layout.block_scales or WHOLE_BLOCKS).block
        needed = {strip.tensor for item in local for strip in item.strips}
        needed |= {name + SCALES for name in needed}
        verify(mapped, [piece for piece in pieces if piece.tensor in needed])
        segment = torch.frombuffer(mapped, dtype=torch.uint8)
        self._tensors = {
            placed.tensor.name: segment[placed.offset_bytes : placed.offset_bytes + placed.num_bytes]
            .view(getattr(torch, placed.tensor.dtype))
            .view(placed.tensor.shape)
            for parameter in layout.parameters
            for placed in parameter.tensors
            if placed.tensor.name in needed
        }

    def fill(self, parameters: Tensors) -> None:
        """Copy every strip, in plain numbers."""
        fill(parameters, self._local, self._box)

    def _box(self, strip: Strip) -> torch.Tensor:
        box, scales = self._tensors[strip.tensor][strip.in_tensor], self._tensors.get(strip.tensor + SCALES)
        return box if scales is None else block_scales.dequantise(box, scales, strip.tensor_start, self._block)


def _boxes(layout: SegmentLayout, local: Sequence[LocalParameter]) -> Iterator[Box]:
    """Yield the boxes that a rank reads of a segment: of matrices in FP8 those of their scales too."""
    quantised = {info.name for info in layout.tensors if info.dtype == names.FORMAT}
    for region in regions_of(local):
        yield region.corners
        if layout.block_scales is not None and region.tensor in quantised:
            yield scale_region(region, layout.block_scales).corners


def _memory_for(target: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return what a strip is read into: its place, if that is on the host and of the folder's format."""
    if target.device.type == "cpu" and target.dtype is dtype:
        return target
    return torch.empty(target.shape, dtype=dtype)


def _batches(local: Iterable[LocalParameter], index: FolderIndex) -> Iterator[list[LocalParameter]]:
    """Yield parameters in groups that are read at once."""
    batch: list[LocalParameter] = []
    num_bytes = 0
    for item in local:
        batch.append(item)
        num_bytes += sum(strip.size * index[strip.tensor].item_bytes for strip in item.strips)
        if num_bytes >= READ_BYTES:
            yield batch
            batch, num_bytes = [], 0
    if batch:
        yield batch
