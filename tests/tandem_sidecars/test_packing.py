"""Which samples share a row: everyone once, none over the limit, few rows, of like length."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tandem_sidecars.megatron.packing import pack

LENGTHS = st.lists(st.integers(1, 60), max_size=40)


def loads(lengths: list[int], rows: list[list[int]]) -> list[int]:
    """Positions of each row."""
    return [sum(lengths[index] for index in row) for row in rows]


def test_rows_by_hand() -> None:
    assert pack([2, 7, 3, 4], capacity=8) == [[1], [3], [2, 0]]


def test_as_few_rows_as_the_positions_need() -> None:
    lengths = [9, 8, 7, 6, 5, 4, 3, 2, 1, 3]

    assert loads(lengths, pack(lengths, capacity=24)) == [24, 24]


def test_a_long_tail_is_spread_evenly() -> None:
    lengths = [100] + [10] * 20

    assert loads(lengths, pack(lengths, capacity=160)) == [150, 150]


def test_a_sample_that_is_longer_than_a_row_has_one_of_its_own() -> None:
    assert sorted(pack([9, 3, 9], capacity=5)) == [[0], [1], [2]]


def test_nothing_takes_an_empty_row_or_as_many_as_there_shall_be() -> None:
    assert pack([], capacity=8) == [[]]
    assert pack([], capacity=8, at_least=2) == [[], []]


def test_where_there_shall_be_more_rows_the_samples_are_spread_over_them() -> None:
    assert sorted(pack([4, 4, 4], capacity=100, at_least=4)) == [[], [0], [1], [2]]


@settings(max_examples=100)
@given(LENGTHS, st.integers(1, 80), st.integers(1, 6))
def test_everyone_is_in_one_row_and_no_row_of_several_passes_the_limit(
    lengths: list[int], capacity: int, at_least: int
) -> None:
    rows = pack(lengths, capacity, at_least)

    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert len(rows) >= at_least
    assert all(len(row) <= 1 or load <= capacity for row, load in zip(rows, loads(lengths, rows), strict=True))


@settings(max_examples=100)
@given(LENGTHS, st.integers(60, 200))
def test_rows_are_few(lengths: list[int], capacity: int) -> None:
    fewest = -(-sum(lengths) // capacity)

    # With first-fit every row but one is more than half full, and no more rows than that are taken
    assert len(pack(lengths, capacity)) <= max(1, 2 * fewest)
