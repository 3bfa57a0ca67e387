"""What is read from whom: every byte once, nothing besides, and never two pods' arithmetic in one segment."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tandem_api.weights import Piece
from tandem_checkpoint.transfer.plan import Offer, Route, Source, merge_pieces, plan_routes

SOURCES = tuple(Source(f"job-hybrid-{number}", f"http://10.0.0.{number}:8701") for number in range(8))


@st.composite
def piece_rows(draw: st.DrawFn) -> tuple[Piece, ...]:
    """Pieces by offset, without overlap, some end to end and some of no bytes."""
    offset, pieces = 0, []
    for number, (gap, size) in enumerate(draw(st.lists(st.tuples(st.sampled_from([0, 0, 7]), st.integers(0, 40))))):
        offset += gap
        pieces.append(piece(f"tensor.{number}", offset, size))
        offset += size
    return tuple(pieces)


def piece(name: str, offset: int, size: int, xxh3: int = 5) -> Piece:
    return Piece(tensor=name, start=(0,), stop=(size,), offset_bytes=offset, num_bytes=size, xxh3=xxh3)


PIECES = (piece("a", 0, 8), piece("b", 8, 8), piece("c", 32, 8))
OTHER = (*PIECES[:2], piece("c", 32, 8, xxh3=6))


@given(piece_rows(), st.integers(1, 100))
def test_each_piece_with_bytes_is_in_exactly_one_extent(pieces: tuple[Piece, ...], most: int) -> None:
    extents = merge_pieces(pieces, most)

    assert [item for extent in extents for item in extent.pieces] == [item for item in pieces if item.num_bytes]


@given(piece_rows(), st.integers(1, 100))
def test_an_extent_holds_the_bytes_of_its_pieces_and_no_others(pieces: tuple[Piece, ...], most: int) -> None:
    extents = merge_pieces(pieces, most)

    assert all(extent.num_bytes == sum(item.num_bytes for item in extent.pieces) for extent in extents)
    assert all(extent.start == extent.pieces[0].offset_bytes for extent in extents)
    assert all(left.stop <= right.start for left, right in pairwise(extents))


@given(piece_rows(), st.integers(1, 100))
def test_only_a_single_piece_is_longer_than_an_extent_should_be(pieces: tuple[Piece, ...], most: int) -> None:
    extents = merge_pieces(pieces, most)

    assert all(extent.num_bytes <= most or len(extent.pieces) == 1 for extent in extents)


@given(piece_rows())
def test_pieces_end_to_end_are_read_together(pieces: tuple[Piece, ...]) -> None:
    extents = merge_pieces(pieces, 1 << 20)

    assert all(left.stop < right.start for left, right in pairwise(extents))


@given(st.sets(st.sampled_from(SOURCES), min_size=1), st.text(min_size=1, max_size=8))
def test_a_route_names_every_source_once(sources: set[Source], reader: str) -> None:
    (route,) = plan_routes([Offer(source, PIECES) for source in sources], reader)

    assert sorted(route.sources) == sorted(sources)


def test_readers_that_read_at_the_same_time_are_spread_over_the_sources() -> None:
    readers = [f"job-rollout-{number}" for number in range(8)]
    offers = [Offer(source, PIECES[:1]) for source in SOURCES]

    first = [plan_routes(offers, reader, peers=readers)[0].extents[0].sources[0] for reader in readers]

    assert sorted(first) == sorted(SOURCES)


def test_readers_with_a_part_each_begin_with_another_source() -> None:
    pieces = tuple(piece(f"tensor.{number}", 8 * number, 8) for number in range(len(SOURCES)))
    offers = [Offer(source, (part,)) for source, part in zip(SOURCES, pieces, strict=True)]

    first = [plan_routes(offers, source.pod, 1)[0].extents[0].sources[0] for source in SOURCES]

    assert first == [*SOURCES[1:], SOURCES[0]]


@given(st.permutations(SOURCES))
def test_the_order_of_offers_makes_no_difference(sources: list[Source]) -> None:
    offers = [Offer(source, PIECES) for source in sources]

    assert plan_routes(offers, "job-rollout-0") == plan_routes(sorted(offers, key=str), "job-rollout-0")


def test_the_order_in_which_ranks_registered_makes_no_difference() -> None:
    offers = [Offer(SOURCES[0], PIECES), Offer(SOURCES[1], PIECES[::-1])]

    assert len(plan_routes(offers, "job-rollout-0")) == 1


def test_pieces_without_bytes_make_no_other_route() -> None:
    empty = (piece("x", 0, 0), piece("y", 0, 0))
    offers = [Offer(SOURCES[0], (*empty[:1], *PIECES)), Offer(SOURCES[1], (*empty[::-1], *PIECES))]

    assert len(plan_routes(offers, "job-rollout-0")) == 1


def test_sources_with_other_checksums_make_another_route() -> None:
    offers = [Offer(SOURCES[0], PIECES), Offer(SOURCES[1], OTHER), Offer(SOURCES[2], PIECES)]

    routes = plan_routes(offers, "job-rollout-0")

    assert {route.pieces for route in routes} == {PIECES, OTHER}
    assert {sources_of(route, "a") for route in routes} == {frozenset(SOURCES[:3])}
    assert {sources_of(route, "c") for route in routes} == {
        frozenset((SOURCES[0], SOURCES[2])),
        frozenset(SOURCES[1:2]),
    }


def sources_of(route: Route, tensor: str) -> frozenset[Source]:
    """Return who is asked for a tensor, whoever comes first."""
    [sources] = [extent.sources for extent in route.extents if any(piece.tensor == tensor for piece in extent.pieces)]
    return frozenset(sources)


def test_without_offers_there_is_no_route() -> None:
    assert plan_routes([], "job-rollout-0") == ()
