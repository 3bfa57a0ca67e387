"""Which samples share a row: rows as few as found and of like length. Pure."""

from collections.abc import Sequence
from heapq import heapify, heapreplace

Rows = list[list[int]]
"""Numbers of samples by row."""


def pack(lengths: Sequence[int], capacity: int, at_least: int = 1) -> Rows:
    """Return the rows that samples of some lengths take; every sample is in one.

    Rows hold at most `capacity` positions; a longer sample has a row of its own. The longest samples are dealt first,
    each to the shortest row (Graham 1969), to as few rows as the positions need; where that does not fit, to more, up
    to those that first-fit takes (each sample to the first row with room, the longest first: at most 11/9 of the
    fewest, and 1 more).

    Args: at_least: rows that there shall be, also where some then have no sample; 1 or more.
    """
    fitted = _first_fit(lengths, capacity)
    for num_rows in range(max(at_least, -(-sum(lengths) // capacity)), max(at_least, len(fitted)) + 1):
        rows = _deal(lengths, num_rows)
        if all(len(row) <= 1 or sum(lengths[index] for index in row) <= capacity for row in rows):
            return rows
    return fitted + [[] for _ in range(at_least - len(fitted))]


def _longest_first(lengths: Sequence[int]) -> list[int]:
    return sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))


def _deal(lengths: Sequence[int], num_rows: int) -> Rows:
    """Return `num_rows` rows: the longest sample first, each to the row that is the shortest so far."""
    rows: Rows = [[] for _ in range(num_rows)]
    loads = [(0, number) for number in range(num_rows)]
    heapify(loads)
    for index in _longest_first(lengths):
        load, number = loads[0]
        rows[number].append(index)
        heapreplace(loads, (load + lengths[index], number))
    return rows


def _first_fit(lengths: Sequence[int], capacity: int) -> Rows:
    """Return rows, each sample in the first one with room, the longest first."""
    rows: Rows = []
    room: list[int] = []
    for index in _longest_first(lengths):
        number = next((number for number, free in enumerate(room) if free >= lengths[index]), len(rows))
        if number == len(rows):
            rows.append([])
            room.append(capacity)
        rows[number].append(index)
        room[number] -= lengths[index]
    return rows
