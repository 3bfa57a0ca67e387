"""The reshard plan: a pure function from what ranks have and what ranks want to the copies that bring it there.

Legend: T tensors of a match, P pods, R ranks of a pod that want the same cell, K ranks that have it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from tandem_checkpoint.reshard.balance import Choice, balance
from tandem_checkpoint.reshard.copies import Copies, Kind, join
from tandem_checkpoint.reshard.demand import Atlas, Demand, demands_of
from tandem_checkpoint.reshard.match import find_matches
from tandem_checkpoint.reshard.placement import Ints, Placement
from tandem_checkpoint.reshard.runs import merge_runs

SHARES = 64
"""Tensors are cut into cells so small that a rank gets the bytes of this many: what is left uneven is then small."""
LEAST_CELL_BYTES, MOST_CELL_BYTES = 1 << 20, 64 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """A demand, with who sends which tensor to which pod and who reads it there."""

    demand: Demand
    senders: Ints
    """[P, T] Pieces."""
    readers: Ints
    """[P, T]"""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Every choice made. The copies follow from it, pod by pod: an engine needs those of its own pod only."""

    assignments: tuple[Assignment, ...]
    pods: tuple[str, ...]
    """In the order of their numbers."""

    def copies(self, pods: Sequence[str] | None = None) -> Copies:
        """Return the copies into the memory of the ranks of these pods, or of all."""
        chosen = None if pods is None else np.isin(np.array(self.pods), np.array(pods))
        return merge_runs(join([part for assignment in self.assignments for part in _copies(assignment, chosen)]))


def plan(have: Placement, want: Placement, cell_bytes: int | None = None) -> Plan:
    """Return who sends what to whom, so that every wanted byte arrives.

    A byte crosses the network once for each pod that needs it and does not have it; within a pod it goes through shared
    memory. Bytes sent and bytes received are each as even over ranks as replicas allow. The same placements make the
    same plan, whatever the order of their groups and boxes.

    Args:   cell_bytes: cut tensors to this size for the balance; by default a small share of what a rank gets.
    Raises: ReshardError: a wanted box is held nowhere, in whole or in part; or the sides differ in a tensor's shape.
    """
    matches = find_matches(have, want)
    atlas = Atlas(cell_bytes or _cell_bytes(want))
    demands = [demand for match in matches for demand in demands_of(match, atlas)]
    senders = _choose_senders(demands, len(have.pods))
    readers = _choose_readers(demands, len(want.pods))
    assignments = (Assignment(*choice) for choice in zip(demands, senders, readers, strict=True))
    return Plan(tuple(assignments), tuple(sorted({*have.pods, *want.pods})))


def _cell_bytes(want: Placement) -> int:
    total = sum(
        int((group.stops - group.starts).prod(axis=1).sum()) * group.item_bytes * len(group.tensors)
        for group in want.groups
    )
    return min(max(total // max(1, len(want.pods)) // SHARES, LEAST_CELL_BYTES), MOST_CELL_BYTES)


def _choose_senders(demands: Sequence[Demand], num_ranks: int) -> list[Ints]:
    """Return the piece that sends each tensor to each pod, [P, T] for each demand."""
    shapes = [(len(demand.need.readers), demand.terrain.num_tensors) for demand in demands]
    choices = [
        Choice(demand.terrain.ranks[demand.need.sources][None], prod(shape), demand.num_bytes)
        for demand, shape in zip(demands, shapes, strict=True)
    ]
    return [
        np.repeat(demand.need.sources, taken[0]).reshape(shape)
        for demand, shape, taken in zip(demands, shapes, balance(choices, num_ranks), strict=True)
    ]


def _choose_readers(demands: Sequence[Demand], num_ranks: int) -> list[Ints]:
    """Return the piece that reads each tensor in each pod, [P, T] for each demand; each reads some in a row."""
    choices = [
        Choice(
            np.where(demand.need.readers < 0, -1, demand.terrain.ranks[demand.need.readers]),
            demand.terrain.num_tensors,
            demand.num_bytes,
        )
        for demand in demands
    ]
    return [
        np.repeat(demand.need.readers.ravel(), taken.ravel()).reshape(-1, demand.terrain.num_tensors)
        for demand, taken in zip(demands, balance(choices, num_ranks), strict=True)
    ]


def _copies(assignment: Assignment, chosen: NDArray[np.bool_] | None) -> Iterator[Copies]:
    """Yield the copies of one cell of all tensors of a match; `chosen`: the pods that are asked for."""
    demand, pods_N, need = assignment.demand, assignment.demand.terrain.pods, assignment.demand.need
    local, local_sources, readers_PR = need.local_pieces, need.local_sources, need.readers
    senders, readers = assignment.senders, assignment.readers
    if chosen is not None:
        here, there = chosen[pods_N[local]], chosen[pods_N[readers_PR[:, 0]]]
        local, local_sources = local[here], local_sources[here]
        readers_PR, senders, readers = readers_PR[there], senders[there], readers[there]
    if readers.size:
        yield _lay_out(demand, Kind.NETWORK, senders, readers)
    if len(local):
        num_tensors = demand.terrain.num_tensors
        givers, takers = (np.repeat(column[:, None], num_tensors, axis=1) for column in (local_sources, local))
        yield _lay_out(demand, Kind.LOCAL, givers, takers)
    if readers.size and readers_PR.shape[1] > 1:
        pod, seat = np.nonzero(readers_PR >= 0)
        reader, sharer = readers[pod], np.repeat(readers_PR[pod, seat][:, None], readers.shape[1], axis=1)
        yield _lay_out(demand, Kind.SHARED, reader, sharer, reader != sharer)


def _lay_out(
    demand: Demand, kind: Kind, sources: Ints, targets: Ints, which: NDArray[np.bool_] | None = None
) -> Copies:
    """Return copies of a demand's cell between pieces, [anything, T] each, as bytes in the memories of their ranks."""
    terrain, geometry = demand.terrain, demand.terrain.geometry
    tensors = np.tile(np.arange(terrain.num_tensors), len(sources)) if which is None else np.nonzero(which)[1]
    sources, targets = (pieces.ravel() if which is None else pieces[which] for pieces in (sources, targets))
    places = geometry.places[demand.cell]
    lengths: list[int] = geometry.lengths[demand.cell].tolist()
    num_rows, width = lengths[-2] if len(lengths) > 1 else 1, lengths[-1]
    shape = len(sources)
    copies = Copies(
        np.full(shape, int(kind)),
        terrain.ranks[sources],
        terrain.ranks[targets],
        terrain.offsets[tensors, sources] + places[sources],
        terrain.offsets[tensors, targets] + places[targets],
        np.full(shape, num_rows * width),
        np.ones(shape, np.int64),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.int64),
    )
    if num_rows > 1:
        _cut_rows(copies, width, num_rows, geometry.row_strides[sources], geometry.row_strides[targets])
    return copies if geometry.lengths.shape[1] <= 2 else _slices(demand, copies, sources, targets)


def _cut_rows(copies: Copies, width: int, num_rows: int, source_strides: Ints, target_strides: Ints) -> None:
    """Make rows of their own, in place, of what does not lie together in both memories."""
    apart = (source_strides != width) | (target_strides != width)
    copies.run_bytes[apart] = width
    copies.num_runs[apart] = num_rows
    copies.source_strides[apart] = source_strides[apart]
    copies.target_strides[apart] = target_strides[apart]


def _slices(demand: Demand, first: Copies, sources: Ints, targets: Ints) -> Copies:
    """Return the copies of every two-dimensional slice of a cell with more axes, from those of the first.

    Legend: L slices, D axes.
    """
    geometry = demand.terrain.geometry
    lengths: list[int] = geometry.lengths[demand.cell, :-2].tolist()
    corners_LD = np.indices(lengths).reshape(len(lengths), -1).T
    steps_LN = corners_LD @ geometry.strides[:, :-2].T
    every = first.map(lambda column: np.tile(column, len(corners_LD)))
    every.source_offsets[:] += steps_LN[:, sources].ravel()
    every.target_offsets[:] += steps_LN[:, targets].ravel()
    return every
