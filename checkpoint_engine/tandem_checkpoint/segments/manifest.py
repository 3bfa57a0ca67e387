"""What a server is told about the generation it shall bind, and the check that it got just that."""

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import product
from math import prod

import numpy as np
from numpy.lib.stride_tricks import as_strided
from pydantic import Field
from typing_extensions import Buffer
from xxhash import xxh3_64, xxh3_64_intdigest

from tandem_api.resource import Resource
from tandem_api.weights import Piece, Shard
from tandem_checkpoint.segments.layout import BoxRuns, Placed, SegmentLayout

GATHERED_BYTES = 1 << 20
"""Runs that lie apart are put together up to this size before they are summed: a call a run would take longer."""
Checksum = xxh3_64
"""Takes bytes in order (`update`) and tells their checksum (`intdigest`)."""


Box = tuple[str, tuple[int, ...], tuple[int, ...]]
"""A tensor, and the first index of the box and one past the last on each axis."""


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
    _refuse(_odd_tensors(layout, pieces))
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


def check_part(layout: SegmentLayout, pieces: Sequence[Piece], wanted: Iterable[Box]) -> None:
    """Raise BrokenSegment where a piece lies in a wrong place, or pieces do not make up a wanted box exactly once."""
    placed = {item.tensor.name: item for parameter in layout.parameters for item in parameter.tensors}
    by_tensor: dict[str, list[Piece]] = {}
    for piece in pieces:
        by_tensor.setdefault(piece.tensor, []).append(piece)
    odd = {piece.tensor for piece in pieces if not _is_in_place(placed.get(piece.tensor), piece)}
    for tensor, start, stop in wanted:
        sizes = (_size_of_both(piece, start, stop) for piece in by_tensor.get(tensor, ()))
        if sum(sizes) != prod(last - first for first, last in zip(start, stop, strict=True)):
            odd.add(tensor)
    _refuse(sorted(odd))


def verify(buffer: Buffer, pieces: Iterable[Piece]) -> None:
    """Compare every checksum; raise BrokenSegment naming the tensors that differ."""
    with memoryview(buffer) as view:
        broken = [piece.tensor for piece in pieces if checksum_of(view, piece) != piece.xxh3]
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise BrokenSegment(f"checksum of {', '.join(broken[:3])}{more} differs from what the trainer registered")


def checksum(data: Buffer) -> int:
    """Return the checksum of some bytes: XXH3 of 64 bits. `Checksum` has the same of bytes that come in parts."""
    return xxh3_64_intdigest(data)


def checksum_of(segment: Buffer, piece: Piece, offset_bytes: int = 0) -> int:
    """Return the checksum of a piece's bytes. `offset_bytes`: the place in the segment where the buffer begins.

    Bytes that the buffer does not have count as missing, so the checksum is wrong then.
    """
    with memoryview(segment) as view:
        first = piece.offset_bytes - offset_bytes
        if piece.num_runs == 1:
            return checksum(view[first : first + piece.num_bytes])
        if first < 0 or piece.stop_bytes - offset_bytes > view.nbytes or piece.stride_bytes < piece.run_bytes:
            return -1
        rows = as_strided(
            np.frombuffer(view, np.uint8)[first:],
            (piece.num_runs, piece.run_bytes),
            (piece.stride_bytes, 1),
            writeable=False,
        )
        found, step = Checksum(), max(1, GATHERED_BYTES // max(1, piece.run_bytes))
        for row in range(0, piece.num_runs, step):
            found.update(np.ascontiguousarray(rows[row : row + step]).data)
        return found.intdigest()


def _refuse(odd: Sequence[str]) -> None:
    if odd:
        raise BrokenSegment(f"the registered pieces do not make up {', '.join(odd[:3])} exactly once")


def _size_of_both(piece: Piece, start: tuple[int, ...], stop: tuple[int, ...]) -> int:
    """Return how many elements a piece and a box of the same tensor have in common."""
    sides = zip(piece.start, piece.stop, start, stop, strict=True)
    return prod(max(0, min(its_stop, last) - max(its_start, first)) for its_start, its_stop, first, last in sides)


def _odd_tensors(layout: SegmentLayout, pieces: Sequence[Piece]) -> list[str]:
    """Return the tensors whose bytes do not belong to exactly one piece each, by name.

    Boxes make up a tensor, each element once, just when their corners cancel out but for the tensor's own: a corner
    counts as 1 or -1, by whether an even or odd number of its sides are ends.
    """
    placed = {item.tensor.name: item for parameter in layout.parameters for item in parameter.tensors}
    corners: dict[str, Counter[tuple[int, ...]]] = {name: Counter() for name in placed}
    odd = {piece.tensor for piece in pieces if not _is_in_place(placed.get(piece.tensor), piece)}
    for piece in pieces:
        if piece.tensor not in odd:
            _count_corners(corners[piece.tensor], piece.start, piece.stop, 1)
    for name, item in placed.items():
        shape = item.tensor.shape
        _count_corners(corners[name], (0,) * len(shape), shape, -1)
    return sorted(odd | {name for name, counted in corners.items() if any(counted.values())})


def _count_corners(counted: Counter[tuple[int, ...]], start: tuple[int, ...], stop: tuple[int, ...], sign: int) -> None:
    for ends in product((False, True), repeat=len(start)):
        corner = tuple(stop[axis] if is_end else start[axis] for axis, is_end in enumerate(ends))
        counted[corner] += -sign if sum(ends) % 2 else sign


def _is_in_place(placed: Placed | None, piece: Piece) -> bool:
    """Tell whether a piece is a box of its tensor, and its bytes are those of the box."""
    if placed is None or not len(piece.start) == len(piece.stop) == len(placed.tensor.shape):
        return False
    sides = zip(piece.start, piece.stop, placed.tensor.shape, strict=True)
    if not all(0 <= start < stop <= length for start, stop, length in sides):
        return False
    runs = placed.runs_of(piece.start, piece.stop)
    found = BoxRuns(piece.offset_bytes, piece.num_bytes, piece.num_runs, piece.stride_bytes)
    return found == runs
