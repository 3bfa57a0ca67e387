"""What is read from whom: every byte once, nothing besides, and never two pods' arithmetic in one segment."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tandem_api.weights import Piece
from tandem_checkpoint.transfer.plan import Offer, Source, merge_pieces, plan_routes

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


def piece(name: str, offset: int, size: int, crc32: int = 5) -> Piece:
    return Piece(tensor=name, start=(0,), stop=(size,), offset_bytes=offset, num_bytes=size, crc32=crc32)


PIECES = (piece("a", 0, 8), piece("b", 8, 8), piece("c", 32, 8))
OTHER = (*PIECES[:2], piece("c", 32, 8, crc32=6))


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


@given(st.permutations(SOURCES), st.sampled_from(SOURCES))
def test_a_reader_keeps_its_order_of_sources_when_one_goes(sources: list[Source], gone: Source) -> None:
    (every,) = plan_routes([Offer(source, PIECES) for source in sources], "job-rollout-0")
    (fewer,) = plan_routes([Offer(source, PIECES) for source in sources if source != gone], "job-rollout-0")

    assert fewer.sources == tuple(source for source in every.sources if source != gone)


def test_readers_spread_over_the_sources() -> None:
    offers = [Offer(source, PIECES) for source in SOURCES]

    first = {plan_routes(offers, f"job-rollout-{number}")[0].sources[0] for number in range(64)}

    assert first == set(SOURCES)


def test_the_order_in_which_ranks_registered_makes_no_difference() -> None:
    offers = [Offer(SOURCES[0], PIECES), Offer(SOURCES[1], PIECES[::-1])]

    assert len(plan_routes(offers, "job-rollout-0")) == 1


def test_sources_with_other_checksums_make_another_route() -> None:
    offers = [Offer(SOURCES[0], PIECES), Offer(SOURCES[1], OTHER), Offer(SOURCES[2], PIECES)]

    routes = plan_routes(offers, "job-rollout-0")

    assert {frozenset(route.sources) for route in routes} == {
        frozenset((SOURCES[0], SOURCES[2])),
        frozenset(SOURCES[1:2]),
    }
    assert {route.pieces for route in routes} == {PIECES, OTHER}


def test_without_offers_there_is_no_route() -> None:
    assert plan_routes([], "job-rollout-0") == ()
