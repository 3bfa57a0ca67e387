"""Pieces that are read at once: what lies end to end is one run of bytes, and small runs share a request."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tandem_api.weights import Piece
from tandem_checkpoint.transfer.runs import MOST_RUNS, Runs, runs_of, size_of

SMALL_BYTES = 1 << 20
"""Runs that are shorter are not worth a request of their own."""


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """A pod that gives bytes of its segments."""

    pod: str
    url: str
    """Base URL of the engine that holds them."""

    def __str__(self) -> str:
        return self.pod


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes of the segment that are read at once: all of those of some whole pieces, and no others."""

    runs: tuple[Runs, ...]
    """In the order in which they come."""
    pieces: tuple[Piece, ...]
    sources: tuple[Source, ...] = ()
    """Who has these very bytes: the one to ask first comes first."""

    @property
    def is_together(self) -> bool:
        """Whether it is one run of bytes."""
        return len(self.runs) == 1 and self.runs[0].num_runs == 1

    @property
    def start(self) -> int:
        return self.runs[0].offset_bytes

    @property
    def stop(self) -> int:
        return max(row.stop_bytes for row in self.runs)

    @property
    def num_bytes(self) -> int:
        return size_of(self.runs)


def merge_pieces(pieces: Sequence[Piece], extent_bytes: int) -> tuple[Extent, ...]:
    """Return extents, each of one row of runs, that hold each piece that has bytes exactly once, and no byte besides.

    Args: pieces: by offset, without a byte in common. The runs of some may lie between those of others; where they
    leave no gap they are read together, else each by itself, run by run. Returns: by offset; longer than
    `extent_bytes` only for one piece, or some that lie so, alone.
    """
    merged: list[_Group] = []
    for group in _groups(pieces):
        if merged and merged[-1].goes_on(group) and group.stop - merged[-1].start <= extent_bytes:
            merged[-1].go_on(group)
        else:
            merged.append(group)
    return tuple(Extent(group.runs, tuple(group.pieces)) for group in merged)


def join_small(extents: Iterable[Extent], extent_bytes: int, sources: tuple[Source, ...]) -> Iterator[Extent]:
    """Yield the same bytes in fewer extents, to be asked of these sources: small ones are asked for together."""
    small: list[Extent] = []
    num_bytes = 0
    for extent in extents:
        if extent.num_bytes >= SMALL_BYTES:
            yield replace(extent, sources=sources)
            continue
        if small and (num_bytes + extent.num_bytes > extent_bytes or len(small) == MOST_RUNS):
            yield _joined(small, sources)
            small, num_bytes = [], 0
        small.append(extent)
        num_bytes += extent.num_bytes
    if small:
        yield _joined(small, sources)


def _joined(extents: Sequence[Extent], sources: tuple[Source, ...]) -> Extent:
    return Extent(
        tuple(row for extent in extents for row in extent.runs),
        tuple(piece for extent in extents for piece in extent.pieces),
        sources,
    )


class _Group:
    """Pieces that are read together."""

    def __init__(self, piece: Piece) -> None:
        self.start = piece.offset_bytes
        self.stop = piece.stop_bytes
        self.pieces = [piece]
        self._num_bytes = piece.num_bytes

    def add(self, piece: Piece) -> None:
        self.pieces.append(piece)
        self.stop = max(self.stop, piece.stop_bytes)
        self._num_bytes += piece.num_bytes

    def goes_on(self, group: "_Group") -> bool:
        """Whether another group begins where this one ends, and both are one run of bytes."""
        return self.stop == group.start and self.is_full and group.is_full

    def go_on(self, group: "_Group") -> None:
        """Take in the pieces of a group that begins where this one ends."""
        self.pieces += group.pieces
        self.stop = group.stop
        self._num_bytes += group._num_bytes

    @property
    def is_full(self) -> bool:
        """Whether the pieces leave no gap."""
        return self._num_bytes == self.stop - self.start

    @property
    def runs(self) -> tuple[Runs, ...]:
        if self.is_full:
            return (Runs(self.start, self.stop - self.start),)
        return tuple(map(runs_of, self.pieces))


def _groups(pieces: Sequence[Piece]) -> Iterator[_Group]:
    """Yield pieces that lie in each other's gaps together, unless they leave some."""
    groups: list[_Group] = []
    for piece in pieces:
        if piece.num_bytes == 0:
            continue
        if groups and piece.offset_bytes < groups[-1].stop:
            groups[-1].add(piece)
        else:
            groups.append(_Group(piece))
    for group in groups:
        if group.is_full:
            yield group
        else:
            yield from map(_Group, group.pieces)
