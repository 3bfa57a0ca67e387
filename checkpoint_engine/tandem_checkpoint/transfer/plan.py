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


@dataclass(frozen=True, slots=True)
class _Alike:
    """Pieces that the same pods have, and the same pods want."""

    pieces: Mapping[int, Piece]
    """By their number in the route."""
    holders: tuple[Source, ...]
    readers: tuple[str, ...]

    @property
    def need(self) -> Need:
        sizes = {number: piece.num_bytes for number, piece in self.pieces.items()}
        return Need(sizes, tuple(source.pod for source in self.holders), self.readers)


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
    offering = {offer.source.pod for offer in offers}
    bare = tuple(sorted({reader, *peers} - offering))
    return tuple(
        Route(pieces, _extents(_alike(pieces, kinds, bare), reader, extent_bytes)) for pieces in _composed(kinds, own)
    )


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


def _composed(kinds: Sequence[_Kind], own: _Kind | None) -> Iterator[tuple[Piece, ...]]:
    """Yield what each route is made of, each once: `own` first, then one kind, then the others where it has nothing.

    Only boxes of which kinds have different pieces, and `own` none, make a difference.
    """
    usual: dict[Box, Piece] = dict(own.pieces) if own else {}
    kept = frozenset(usual)
    contested: dict[Box, None] = {}
    for kind in kinds:
        for box, piece in kind.pieces.items():
            known = usual.setdefault(box, piece)
            if box not in kept and not _is_same(known, piece):
                contested[box] = None
    for chosen in dict.fromkeys(tuple(kind.pieces.get(box, usual[box]) for box in contested) for kind in kinds):
        yield tuple(sorted({**usual, **dict(zip(contested, chosen, strict=True))}.values(), key=_place))


def _alike(pieces: Sequence[Piece], kinds: Sequence[_Kind], bare: tuple[str, ...]) -> list[_Alike]:
    """Bring pieces with bytes together by who has them and who has another one of the same box, or none."""
    having: dict[Box, list[int]] = {}
    for number, kind in enumerate(kinds):
        for box in kind.pieces:
            having.setdefault(box, []).append(number)
    rows: dict[tuple[tuple[int, ...], tuple[int, ...]], list[tuple[int, Piece]]] = {}
    for at, piece in enumerate(pieces):
        if piece.num_bytes:
            box = _box(piece)
            near = having[box]
            holding = tuple(number for number in near if _is_same(kinds[number].pieces[box], piece))
            rows.setdefault((holding, tuple(near)), []).append((at, piece))
    return [
        _Alike(
            dict(row),
            tuple(sorted(source for number in holding for source in kinds[number].sources)),
            (*sorted(pod for number, kind in enumerate(kinds) if number not in near for pod in kind.pods), *bare),
        )
        for (holding, near), row in rows.items()
    ]


def _extents(rows: Sequence[_Alike], reader: str, extent_bytes: int) -> tuple[Extent, ...]:
    """Return what `reader` reads of these pieces."""
    if not any(reader in row.readers for row in rows):
        return ()
    needs = [row.need for row in rows]
    groups: dict[tuple[Source, ...], list[Piece]] = {}
    for row, senders in zip(rows, choose_senders(needs, reader), strict=True):
        by_rank = sorted(row.holders, key=lambda source: _rank(reader, source))
        for at, sender in senders.items():
            sources = tuple(sorted(by_rank, key=lambda source: source.pod != sender))
            groups.setdefault(sources, []).append(row.pieces[at])
    in_turn = sorted(groups, key=lambda sources: (sources[0].pod < reader, sources))
    merged = ((sources, merge_pieces(sorted(groups[sources], key=_place), extent_bytes)) for sources in in_turn)
    return tuple(_in_turn([list(join_small(extents, extent_bytes, sources)) for sources, extents in merged]))


def _in_turn(rows: Sequence[Sequence[Extent]]) -> Iterator[Extent]:
    """Yield the extents of all rows, each row as often as it has some, so that all sources give all the time.

    The first row is that of the pod behind the reader: so readers do not all begin with the same one.
    """
    turns = [
        ((turn + 0.5) / len(row), number, extent) for number, row in enumerate(rows) for turn, extent in enumerate(row)
    ]
    for _, _, extent in sorted(turns, key=lambda turn: turn[:2]):
        yield extent


def _is_same(one: Piece, other: Piece) -> bool:
    """Compare two pieces; most are one and the same object, which pydantic would compare field by field."""
    return one is other or one == other


def _box(piece: Piece) -> Box:
    return piece.tensor, piece.start, piece.stop


def _place(piece: Piece) -> tuple[int, int]:
    return piece.offset_bytes, piece.num_bytes


def _rank(reader: str, source: Source) -> bytes:
    """Return a source's place in a reader's order: readers spread over sources, and keep theirs when others go."""
    return hashlib.sha256(f"{reader}/{source.pod}".encode()).digest()
