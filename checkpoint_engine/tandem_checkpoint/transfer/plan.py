"""What to read from whom: pure, from what pods offer to the ranges of one fetch."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_api.weights import Piece

EXTENT_BYTES = 64 << 20
"""Pieces are read together up to this size: a request is then worth its while, and a failure costs no more."""


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """A pod that gives bytes of its segments."""

    pod: str
    url: str
    """Base URL of the engine that holds them."""

    def __str__(self) -> str:
        return self.pod


@dataclass(frozen=True, slots=True)
class Offer:
    """A source that has all pieces of a generation."""

    source: Source
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes `start <= i < stop` of the segment: some pieces, whole ones, which have all of its bytes."""

    start: int
    stop: int
    pieces: tuple[Piece, ...]

    @property
    def num_bytes(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True)
class Route:
    """One way to get a whole generation: its sources hold the very same bytes, so each extent may come from any."""

    sources: tuple[Source, ...]
    """The one to ask first comes first."""
    pieces: tuple[Piece, ...]
    extents: tuple[Extent, ...]


def plan_routes(offers: Sequence[Offer], reader: str, extent_bytes: int = EXTENT_BYTES) -> tuple[Route, ...]:
    """Return the ways for the pod `reader` to get a generation, the preferred one first.

    Offers with the same checksums make one route. Those that differ, by the last bit of another pod's arithmetic, make
    others: a segment is never put together from two of them.
    """
    ranked = sorted(offers, key=lambda offer: _rank(reader, offer.source))
    routes: dict[tuple[Piece, ...], list[Source]] = {}
    for offer in ranked:
        pieces = tuple(sorted(offer.pieces, key=lambda piece: (piece.offset_bytes, piece.num_bytes)))
        routes.setdefault(pieces, []).append(offer.source)
    return tuple(
        Route(tuple(sources), pieces, merge_pieces(pieces, extent_bytes)) for pieces, sources in routes.items()
    )


def digest_of(pieces: Sequence[Piece]) -> str:
    """Return what tells generations apart: a SHA-256 over the places and checksums of all pieces, in any order."""
    digest = hashlib.sha256()
    for text in sorted(piece.model_dump_json() for piece in pieces):
        digest.update(text.encode())
    return digest.hexdigest()


def merge_pieces(pieces: Sequence[Piece], extent_bytes: int) -> tuple[Extent, ...]:
    """Return extents that hold each piece that has bytes exactly once, and no byte besides.

    Args: pieces: by offset, without a byte in common. The runs of some may lie between those of others, and together
    they leave no gap. Returns: by offset; longer than `extent_bytes` only for one piece, or some that lie so, alone.
    """
    groups: list[_Group] = []
    for piece in pieces:
        if piece.num_bytes == 0:
            continue
        if groups and piece.offset_bytes < groups[-1].stop:
            groups[-1].add(piece)
        else:
            groups.append(_Group(piece.offset_bytes, piece.stop_bytes, [piece]))
    merged: list[_Group] = []
    for group in groups:
        if merged and group.start == merged[-1].stop and group.stop - merged[-1].start <= extent_bytes:
            merged[-1].stop = group.stop
            merged[-1].pieces += group.pieces
        else:
            merged.append(group)
    return tuple(Extent(group.start, group.stop, tuple(group.pieces)) for group in merged)


@dataclass(slots=True)
class _Group:
    """Pieces that are read together."""

    start: int
    stop: int
    pieces: list[Piece]

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.stop = max(self.stop, piece.stop_bytes)


def _rank(reader: str, source: Source) -> bytes:
    """Return a source's place in a reader's order: readers spread over sources, and keep theirs when others go."""
    return hashlib.sha256(f"{reader}/{source.pod}".encode()).digest()
