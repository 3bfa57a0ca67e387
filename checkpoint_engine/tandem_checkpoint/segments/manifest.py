"""What a server is told about the generation it shall bind, and the check that it got just that."""

from collections import Counter
from collections.abc import Iterable, Sequence

from isal import isal_zlib
from pydantic import Field
from typing_extensions import Buffer

from tandem_api.resource import Resource
from tandem_api.weights import Piece, Shard
from tandem_checkpoint.segments.layout import SegmentLayout


class BrokenSegment(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The bytes are not those that were registered, or some are missing; nothing may be served from them."""


class BoundParameter(Resource):
    """One parameter of the server in the segment."""

    name: str
    """vLLM's parameter name."""
    shape: tuple[int, ...]
    """Full shape, padding rows included."""
    offset_bytes: int = Field(ge=0)
    """Place of its first byte."""


class Manifest(Resource):
    """One generation in one segment."""

    generation: int = Field(ge=0)
    """Version of the weights."""
    segment: str
    """Path of the segment file."""
    dtype: str
    """torch's name of the number format."""
    parameters: tuple[BoundParameter, ...]
    """All parameters of the server."""
    pieces: tuple[Piece, ...]
    """All pieces, with their checksums."""


def manifest_of(layout: SegmentLayout, shards: Sequence[Shard], path: str) -> Manifest:
    """Join the shards of a pod; raise BrokenSegment where a tensor is missing or lies in a wrong place."""
    return manifest_of_pieces(
        layout, shards[0].generation, tuple(piece for shard in shards for piece in shard.pieces), path
    )


def manifest_of_pieces(layout: SegmentLayout, generation: int, pieces: tuple[Piece, ...], path: str) -> Manifest:
    """Return the manifest of a segment with these pieces; errors as for manifest_of."""
    odd = _odd_tensors(layout, pieces)
    if odd:
        raise BrokenSegment(f"the registered pieces do not make up {', '.join(odd[:3])} exactly once")
    return Manifest(
        generation=generation,
        segment=path,
        dtype=layout.dtype,
        parameters=tuple(
            BoundParameter(name=parameter.name, shape=parameter.shape, offset_bytes=parameter.offset_bytes)
            for parameter in layout.parameters
        ),
        pieces=pieces,
    )


def covers(layout: SegmentLayout, pieces: Sequence[Piece]) -> bool:
    """Tell whether every byte of every tensor belongs to exactly one piece."""
    return not _odd_tensors(layout, pieces)


def verify(buffer: Buffer, pieces: Iterable[Piece]) -> None:
    """Compare every checksum; raise BrokenSegment naming the tensors that differ."""
    with memoryview(buffer) as view:
        broken = [
            piece.tensor
            for piece in pieces
            if checksum(view[piece.offset_bytes : piece.offset_bytes + piece.num_bytes]) != piece.crc32
        ]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise BrokenSegment(f"checksum of {', '.join(broken[:3])}{more} differs from what the trainer registered")


def checksum(data: Buffer) -> int:
    """Return the CRC-32 of some bytes."""
    return isal_zlib.crc32(data)


def _odd_tensors(layout: SegmentLayout, pieces: Sequence[Piece]) -> list[str]:
    """Return the tensors whose bytes do not belong to exactly one piece each, by name."""
    found = Counter((piece.offset_bytes, piece.num_bytes, piece.tensor) for piece in pieces)
    wanted = Counter(
        (placed.offset_bytes, placed.num_bytes, placed.tensor.name)
        for parameter in layout.parameters
        for placed in parameter.tensors
    )
    return sorted({name for *_, name in (found - wanted) + (wanted - found)})
