"""What to read from whom: pure, from what pods offer to the extents of one fetch."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tandem_api.weights import Piece
from tandem_checkpoint.transfer.choice import Need, choose_senders
from tandem_checkpoint.transfer.extents import Extent, Source, join_small, merge_pieces

__all__ = ["Extent", "Offer", "Route", "Source", "digest_of", "merge_pieces", "plan_routes"]

EXTENT_BYTES = 64 << 20
"""Pieces are read together up to this size: a request is then worth its while, and a failure costs no more."""

Box = tuple[str, tuple[int, ...], tuple[int, ...]]
"""Tensor, start and stop: what a piece is of."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A source, and what it has of a generation: all of it, or the part that its own ranks hold.

    Pieces of two pods are of the same box or have no byte in common.
    """

    source: Source
    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """One way to have a whole generation: what to read, each extent from any source that has its very bytes."""

    pieces: tuple[Piece, ...]
    """Those of the whole generation, also those that the reader has, by place."""
    extents: tuple[Extent, ...]
    """What the reader lacks, in the order in which to ask for it: sources in turn."""

    @property
    def sources(self) -> tuple[Source, ...]:
        return tuple(sorted({source for extent in self.extents for source in extent.sources}))


@dataclass(frozen=True, slots=True)
class _Kind:
    """Pods that have the very same pieces."""

    pieces: Mapping[Box, Piece]
    sources: tuple[Source, ...]

    @property
    def pods(self) -> frozenset[str]:
        return frozenset(source.pod for source in self.sources)


def plan_routes(
    offers: Sequence[Offer], reader: str, extent_bytes: int = EXTENT_BYTES, peers: Iterable[str] = ()
) -> tuple[Route, ...]:
    """Return the ways for the pod `reader` to have a generation, the preferred one first.

    A route follows one pod as far as that goes, and other pods where it has nothing; the reader's own pieces stay. Pods
    with the same checksum are alternatives for a piece. Pods that hold all of the model, and whose last bits differ,
    make different routes: a segment is never put together from two of them.

    Args: offers: the reader's own among them, where it has a part; peers: other pods that lack everything and read at
    the same time, as pods with a part do for the rest.
    """
    ranked = sorted(offers, key=lambda offer: (offer.source.pod != reader, _rank(reader, offer.source)))
    kinds = _kinds(ranked)
    own = next((kind for kind in kinds if reader in kind.pods), None)
    found: dict[tuple[Piece, ...], None] = {}
    for first in kinds:
        composed: dict[Box, Piece] = {}
        for kind in (*([own] if own else []), first, *kinds):
            for box, piece in kind.pieces.items():
                composed.setdefault(box, piece)
        found.setdefault(tuple(sorted(composed.values(), key=_place)))
    offering = {offer.source.pod for offer in offers}
    bare = sorted({reader, *peers} - offering)
    return tuple(Route(pieces, _extents(pieces, kinds, own, bare, reader, extent_bytes)) for pieces in found)


def digest_of(pieces: Sequence[Piece]) -> str:
    """Return what tells generations apart: a SHA-256 over the places and checksums of all pieces, in any order."""
    digest = hashlib.sha256()
    for text in sorted(piece.model_dump_json() for piece in pieces):
        digest.update(text.encode())
    return digest.hexdigest()


def _kinds(offers: Sequence[Offer]) -> tuple[_Kind, ...]:
    by_pieces: dict[tuple[Piece, ...], list[Source]] = {}
    for offer in offers:
        by_pieces.setdefault(tuple(sorted(offer.pieces, key=_place)), []).append(offer.source)
    return tuple(
        _Kind({_box(piece): piece for piece in pieces}, tuple(sources)) for pieces, sources in by_pieces.items()
    )


def _extents(
    pieces: Sequence[Piece],
    kinds: Sequence[_Kind],
    own: _Kind | None,
    bare: Sequence[str],
    reader: str,
    extent_bytes: int,
) -> tuple[Extent, ...]:
    """Return what `reader` reads of these pieces; `bare`: readers that have none of them."""
    holding = [[kind for kind in kinds if kind.pieces.get(_box(piece)) == piece] for piece in pieces]
    lacking = [[kind for kind in kinds if _box(piece) not in kind.pieces] for piece in pieces]
    if own is not None and not any(own in kinds for kinds in lacking):
        return ()
    needs = [
        Need(piece.num_bytes, _pods(holders), (*_pods(readers), *bare))
        for piece, holders, readers in zip(pieces, holding, lacking, strict=True)
    ]
    wanted = {at: need for at, need in enumerate(needs) if need.num_bytes}
    senders = choose_senders(list(wanted.values()), reader)
    places = list(wanted)
    groups: dict[tuple[Source, ...], list[Piece]] = {}
    for number, sender in senders.items():
        at = places[number]
        sources = sorted(
            (source for kind in holding[at] for source in kind.sources),
            key=lambda source: (source.pod != sender, _rank(reader, source)),
        )
        groups.setdefault(tuple(sources), []).append(pieces[at])
    in_turn = sorted(groups, key=lambda sources: (sources[0].pod < reader, sources))
    rows = ((sources, merge_pieces(sorted(groups[sources], key=_place), extent_bytes)) for sources in in_turn)
    return tuple(_in_turn([list(join_small(merged, extent_bytes, sources)) for sources, merged in rows]))


def _in_turn(rows: Sequence[Sequence[Extent]]) -> Iterator[Extent]:
    """Yield the extents of all rows, each row as often as it has some, so that all sources give all the time.

    The first row is that of the pod behind the reader: so readers do not all begin with the same one.
    """
    turns = [
        ((turn + 0.5) / len(row), number, extent) for number, row in enumerate(rows) for turn, extent in enumerate(row)
    ]
    for _, _, extent in sorted(turns, key=lambda turn: turn[:2]):
        yield extent


def _pods(kinds: Iterable[_Kind]) -> tuple[str, ...]:
    return tuple(sorted(pod for kind in kinds for pod in kind.pods))


def _box(piece: Piece) -> Box:
    return piece.tensor, piece.start, piece.stop


def _place(piece: Piece) -> tuple[int, int]:
    return piece.offset_bytes, piece.num_bytes


def _rank(reader: str, source: Source) -> bytes:
    """Return a source's place in a reader's order: readers spread over sources, and keep theirs when others go."""
    return hashlib.sha256(f"{reader}/{source.pod}".encode()).digest()
