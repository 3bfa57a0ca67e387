"""Where a rank's weights come from: a Hugging Face folder, or a generation in the pod's segment."""

from collections.abc import Mapping
from pathlib import Path

import torch

from tandem_api.weights import Piece
from tandem_checkpoint.architectures.config import PolicyFolderError
from tandem_checkpoint.process.commands import FolderSource, SegmentSource, WeightSource
from tandem_checkpoint.segments.layout import SegmentLayout
from tandem_checkpoint.segments.manifest import BrokenSegment, manifest_of_pieces, verify
from tandem_checkpoint.segments.store import SegmentError, map_for_reading
from tandem_sidecars.megatron.weights import read_folder

SOURCE_ERRORS = (PolicyFolderError, BrokenSegment, SegmentError)
"""What can be wrong with a source."""


def read_source(source: WeightSource, layout: SegmentLayout) -> Mapping[str, torch.Tensor]:
    """Return all tensors of a source by Hugging Face name; those of a segment are views on it.

    Raises: PolicyFolderError for a folder that lacks some; SegmentError for a segment that is not there; BrokenSegment
    where its pieces do not make up the policy, or where a checksum differs.
    """
    match source:
        case FolderSource(path=path):
            return _read_folder(Path(path), layout)
        case SegmentSource(path=path):
            return _read_segment(Path(path), tuple(piece for shard in source.shards for piece in shard.pieces), layout)


def _read_folder(path: Path, layout: SegmentLayout) -> dict[str, torch.Tensor]:
    tensors = read_folder(path)
    for info in layout.tensors:
        if info.name not in tensors:
            raise PolicyFolderError(f"{path} lacks the tensor {info.name}; save the policy again with save_pretrained")
        if tuple(tensors[info.name].shape) != info.shape:
            raise PolicyFolderError(
                f"{path}: {info.name} is {tuple(tensors[info.name].shape)}, the policy's config.json says "
                f"{info.shape}; use a checkpoint of this policy"
            )
    return tensors


def _read_segment(path: Path, pieces: tuple[Piece, ...], layout: SegmentLayout) -> dict[str, torch.Tensor]:
    """Return every tensor of a segment, once all checksums are right: a model never becomes half new."""
    manifest_of_pieces(layout, 0, pieces, str(path))
    mapped = map_for_reading(path)
    if len(mapped) < max(piece.offset_bytes + piece.num_bytes for piece in pieces):
        raise BrokenSegment(f"{path} has {len(mapped)} bytes, fewer than its pieces need; was the volume emptied?")
    verify(mapped, pieces)
    segment = torch.frombuffer(mapped, dtype=torch.uint8)
    return {
        placed.tensor.name: segment[placed.offset_bytes : placed.offset_bytes + placed.num_bytes]
        .view(getattr(torch, placed.tensor.dtype))
        .view(placed.tensor.shape)
        for parameter in layout.parameters
        for placed in parameter.tensors
    }
