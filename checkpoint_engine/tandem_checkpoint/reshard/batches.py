"""One rank's copies in the batches that it asks for, one after the other or a few at once."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tandem_checkpoint.reshard.copies import Copies, Kind
from tandem_checkpoint.reshard.placement import Ints
from tandem_checkpoint.reshard.runs import expand, routes_of

MOST_COPIES = 1024
"""Mooncake's transfer engine refuses batches of more than about 2,048, and good ones for a while after."""
BATCH_BYTES = 64 << 20
"""A batch that has about so many bytes is full: a failure costs no more. No run is cut, so one alone may be longer."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Copies of one run each from one rank, by place in the target."""

    kind: Kind
    source: int
    source_offsets: Ints
    target_offsets: Ints
    num_bytes: Ints

    def __len__(self) -> int:
        return len(self.num_bytes)


def batches_of(
    copies: Copies, rank: int, most_copies: int = MOST_COPIES, batch_bytes: int = BATCH_BYTES
) -> list[Batch]:
    """Return the batches of the rank that wants, in the order in which it should ask for them.

    First the network's, its sources in turn and each as often as it has batches, so that all of them send all the time
    and ranks do not ask the same one at once; then those from memory, last of all those that need another rank's copy.
    """
    runs = expand(copies.of_target(rank))
    if not len(runs):
        return []
    batches = [
        Batch(Kind(int(part.kinds[0])), int(part.sources[0]), part.source_offsets, part.target_offsets, part.num_bytes)
        for part in _cut(runs, most_copies, batch_bytes)
    ]
    num_ranks = max(rank, *(batch.source for batch in batches)) + 1
    by_route: dict[tuple[Kind, int], list[Batch]] = {}
    for batch in batches:
        by_route.setdefault((batch.kind, batch.source), []).append(batch)
    turns = [
        (kind, (turn + 0.5) / len(row), (source - rank) % num_ranks, batch)
        for (kind, source), row in by_route.items()
        for turn, batch in enumerate(row)
    ]
    return [batch for *_, batch in sorted(turns, key=lambda turn: turn[:3])]


def _cut(runs: Copies, most_copies: int, batch_bytes: int) -> Iterator[Copies]:
    """Yield the runs of each batch: one route, so many copies, and about so many bytes."""
    routes, sizes = routes_of(runs), runs.num_bytes
    new_route = np.concatenate([[True], routes[1:] != routes[:-1]])
    filled = np.cumsum(sizes) - sizes
    filled -= np.maximum.accumulate(np.where(new_route, filled, 0))
    portions = filled // batch_bytes
    new_portion = new_route | np.concatenate([[True], portions[1:] != portions[:-1]])
    numbers = np.arange(len(runs))
    places = numbers - np.maximum.accumulate(np.where(new_portion, numbers, 0))
    firsts = np.flatnonzero(places % most_copies == 0)
    for first, last in zip(firsts, np.append(firsts[1:], len(runs)), strict=True):
        yield runs.take(slice(int(first), int(last)))
