"""What each pod needs of each cell: from its own memory, or once over the network and then from each other.

Legend: T tensors of a match, C cells, N its boxes (those that are held, then those that are wanted), P pods,
R ranks of a pod that want the same cell, K ranks that have it, D axes.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tandem_checkpoint.reshard.box import Cells, cut_cells
from tandem_checkpoint.reshard.match import Match
from tandem_checkpoint.reshard.placement import Ints, ReshardError


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """How cells lie in the boxes of a match; the same for all matches with the same boxes."""

    is_inside: NDArray[np.bool_]
    """[C, N]"""
    places: Ints
    """[C, N] Distance of a cell's first byte from the box's; meaningless where the cell is not in the box."""
    strides: Ints
    """[N, D] Distance of neighbours along each axis, in bytes."""
    row_strides: Ints
    """[N] That of the last axis but one."""
    lengths: Ints
    """[C, D]"""
    wanted: tuple[tuple[int, int, bytes], ...]
    """Cells that somebody wants, each with its bytes and a key of the boxes that it is in."""
    nowhere: tuple[int, ...]
    """Wanted boxes with a cell that nobody has."""


@dataclass(frozen=True, slots=True, eq=False)
class Terrain:
    """The boxes of a match, where they lie, and their cells."""

    geometry: Geometry
    num_tensors: int
    ranks: Ints
    """[N]"""
    pods: Ints
    """[N]"""
    offsets: Ints
    """[T, N]"""


@dataclass(frozen=True, slots=True, eq=False)
class Need:
    """Who needs a cell from whom. Pieces are numbers of boxes."""

    local_pieces: Ints
    """Wanted in a pod that has the cell."""
    local_sources: Ints
    """Whom each of them is copied from."""
    sources: Ints
    """[K] Who may send it to the other pods."""
    readers: Ints
    """[P, R] Who wants it in each of them; -1 where a pod has fewer."""


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """One cell of all tensors of a match."""

    terrain: Terrain
    cell: int
    num_bytes: int
    """Of the cell in one tensor."""
    need: Need


@dataclass(slots=True)
class Atlas:
    """What has been worked out already: layers and experts repeat it very often."""

    most_bytes: int
    """Size of a cell."""
    geometries: dict[tuple[object, ...], Geometry] = field(default_factory=dict)
    needs: dict[tuple[bytes, bytes], Need] = field(default_factory=dict)


def demands_of(match: Match, atlas: Atlas) -> Iterator[Demand]:
    """Yield what is needed of each cell; ReshardError where nobody has a cell that somebody wants."""
    sides, num_held = (match.have, match.want), len(match.have.ranks)
    geometry = _geometry(match, atlas)
    for piece in geometry.nowhere:
        raise ReshardError(f"{match.words(piece)}: no rank has all of it")
    terrain = Terrain(
        geometry,
        len(match.tensors),
        np.concatenate([side.ranks for side in sides]),
        np.concatenate([side.pods for side in sides]),
        np.concatenate([side.offsets for side in sides], axis=1),
    )
    pods_key = terrain.pods.tobytes()
    for cell, num_bytes, key in geometry.wanted:
        need = atlas.needs.get((key, pods_key))
        if need is None:
            need = atlas.needs[key, pods_key] = _need(terrain.pods, geometry.is_inside[cell], num_held)
        yield Demand(terrain, cell, num_bytes, need)


def _geometry(match: Match, atlas: Atlas) -> Geometry:
    corners = (match.have.starts, match.have.stops, match.want.starts, match.want.stops)
    counts = (len(corners[0]), len(corners[2]))  # corners of single numbers have no bytes
    key = (match.shape, match.item_bytes, counts, *(corner.tobytes() for corner in corners))
    if key not in atlas.geometries:
        starts, stops = np.concatenate(corners[::2]), np.concatenate(corners[1::2])
        cells = cut_cells(match.shape, match.item_bytes, starts, stops, atlas.most_bytes)
        atlas.geometries[key] = _survey(cells, len(corners[0]))
    return atlas.geometries[key]


def _survey(cells: Cells, num_held: int) -> Geometry:
    extents = cells.box_stops - cells.box_starts
    strides = np.ones_like(extents)
    strides[:, :-1] = np.cumprod(extents[:, :0:-1], axis=1)[:, ::-1]
    # the distance of corners is a difference of two sums: no array over cells, boxes and axes
    places = cells.starts @ strides.T - (cells.box_starts * strides).sum(axis=1)
    lengths = cells.stops - cells.starts
    held, wanting = cells.is_inside[:, :num_held].any(axis=1), cells.is_inside[:, num_held:]
    wanted = np.flatnonzero(wanting.any(axis=1))
    sizes = lengths.prod(axis=1)
    head = num_held.to_bytes(8, "little")
    return Geometry(
        cells.is_inside,
        places,
        strides,
        strides[:, -2] if strides.shape[1] > 1 else extents[:, 0],
        lengths,
        tuple((cell, int(sizes[cell]), head + cells.is_inside[cell].tobytes()) for cell in wanted.tolist()),
        tuple(np.flatnonzero(wanting[~held].any(axis=0)).tolist()),
    )


def _need(pods_N: Ints, inside_N: NDArray[np.bool_], num_held: int) -> Need:
    """Return who needs a cell from whom; all pieces by pod, and by number within a pod."""
    pieces = np.flatnonzero(inside_N)
    split = int(np.searchsorted(pieces, num_held))
    held, wanted = pieces[:split], pieces[split:]
    sources = held[np.argsort(pods_N[held], kind="stable")]
    wanted = wanted[np.argsort(pods_N[wanted], kind="stable")]
    source_pods, pods = pods_N[sources], pods_N[wanted]
    first, last = np.searchsorted(source_pods, pods), np.searchsorted(source_pods, pods, side="right")
    seats = np.arange(len(wanted)) - np.searchsorted(pods, pods)
    near = last > first
    choice = first[near] + seats[near] % (last - first)[near]
    far_seats = seats[~near]
    numbers = np.cumsum(far_seats == 0) - 1
    shape = (int(numbers[-1]) + 1, int(far_seats.max()) + 1) if len(far_seats) else (0, 1)
    readers = np.full(shape, -1, np.int64)
    readers[numbers, far_seats] = wanted[~near]
    return Need(wanted[near], sources[choice], held, readers)
