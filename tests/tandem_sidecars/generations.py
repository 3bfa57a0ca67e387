"""Generations written into a segment by hand, without a trainer."""

from collections.abc import Mapping
from dataclasses import dataclass
from mmap import mmap
from pathlib import Path

import torch

from tandem_api.weights import Piece, Shard
from tandem_checkpoint.architectures.config import read_policy_config
from tandem_checkpoint.segments.layout import Placed, SegmentLayout, segment_layout
from tandem_checkpoint.segments.manifest import checksum, manifest_of
from tandem_checkpoint.segments.store import allocate, map_for_writing, segment_name
from tests.tandem_checkpoint.pieces import whole_piece


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation in a segment, ready to be bound."""

    layout: SegmentLayout
    segment: Path
    manifest: Path

    def place_of(self, tensor: str) -> Placed:
        return next(
            placed for item in self.layout.parameters for placed in item.tensors if placed.tensor.name == tensor
        )

    def flip_byte(self, tensor: str) -> None:
        """Change one byte in the middle of a tensor, behind the back of the checksums."""
        placed = self.place_of(tensor)
        with map_for_writing(self.segment) as mapped:
            mapped[placed.offset_bytes + placed.num_bytes // 2] ^= 1


def write_generation(policy: Path, tensors: Mapping[str, torch.Tensor], folder: Path, number: int = 0) -> Generation:
    """Write weights as a generation of `policy`'s sizes into `folder`."""
    layout = segment_layout(read_policy_config(policy), "float32")
    folder.mkdir(parents=True, exist_ok=True)
    allocate(folder, layout.num_bytes)
    segment = folder / segment_name(number)
    with map_for_writing(segment) as mapped:
        mapped[:] = bytes(layout.num_bytes)
        pieces = tuple(
            _write(mapped, placed, tensors[placed.tensor.name]) for item in layout.parameters for placed in item.tensors
        )
    shard = Shard(
        generation=number,
        incarnation="a",
        segment=segment.name,
        segment_bytes=layout.num_bytes,
        pieces=pieces,
    )
    manifest = folder / f"manifest-{number}.json"
    manifest.write_text(manifest_of(layout, [shard], str(segment)).model_dump_json())
    return Generation(layout, segment, manifest)


def _write(mapped: mmap, placed: Placed, tensor: torch.Tensor) -> Piece:
    data = tensor.contiguous().view(torch.uint8).numpy().tobytes()
    mapped[placed.offset_bytes : placed.offset_bytes + placed.num_bytes] = data
    return whole_piece(placed, checksum(data))
