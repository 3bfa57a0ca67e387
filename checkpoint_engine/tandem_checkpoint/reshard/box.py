"""Boxes cut along each other's edges: within a cell, every box holds either all bytes or none.

Legend: N boxes, D axes, C cells.
"""

from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from tandem_checkpoint.reshard.placement import Ints

PAGE_BYTES = 4096
"""Cells that are cut only for their size are cut at multiples of this, where rows allow it."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The cells of some boxes, all coordinates in bytes along the last axis."""

    starts: Ints
    """[C, D]"""
    stops: Ints
    """[C, D]"""
    is_inside: NDArray[np.bool_]
    """[C, N] Whether a cell lies in a box; in no box, it is outside of all."""
    box_starts: Ints
    """[N, D]"""
    box_stops: Ints
    """[N, D]"""


def cut_cells(shape: tuple[int, ...], item_bytes: int, starts_ND: Ints, stops_ND: Ints, most_bytes: int) -> Cells:
    """Return the cells of boxes in a tensor of this shape. Axes that no box cuts are joined with the axis before.

    No cell has more than `most_bytes` bytes as long as it can be cut along the first axis that is left.
    """
    starts_ND, stops_ND = _joined(shape, item_bytes, starts_ND, stops_ND)
    edges = [np.unique(np.concatenate(pair)) for pair in zip(starts_ND.T, stops_ND.T, strict=True)]
    row_bytes = prod(int(line[-1] - line[0]) for line in edges[1:])
    edges[0] = _finer(edges[0], max(1, most_bytes // row_bytes), PAGE_BYTES if len(edges) == 1 else 1)
    grids = (np.stack([side.ravel() for side in np.meshgrid(*which, indexing="ij")], axis=1) for which in _ends(edges))
    cell_starts, cell_stops = grids
    inside = [
        (starts_ND[:, axis] <= line[:-1, None]) & (stops_ND[:, axis] >= line[1:, None])
        for axis, line in enumerate(edges)
    ]
    inside_CN = reduce(lambda some, more: (some[:, None] & more[None]).reshape(-1, more.shape[1]), inside)
    return Cells(cell_starts, cell_stops, inside_CN, starts_ND, stops_ND)


def _joined(shape: tuple[int, ...], item_bytes: int, starts_ND: Ints, stops_ND: Ints) -> tuple[Ints, Ints]:
    """Return the boxes' corners over fewer axes, the last one counted in bytes."""
    starts: list[Ints] = []
    stops: list[Ints] = []
    for axis, length in enumerate(shape):
        start, stop = starts_ND[:, axis], stops_ND[:, axis]
        if starts and not start.any() and (stop == length).all():
            starts[-1], stops[-1] = starts[-1] * length, stops[-1] * length
        else:
            starts.append(start)
            stops.append(stop)
    if not starts:  # a single number
        starts, stops = [np.zeros(len(starts_ND), np.int64)], [np.ones(len(starts_ND), np.int64)]
    starts[-1], stops[-1] = starts[-1] * item_bytes, stops[-1] * item_bytes
    return np.stack(starts, axis=1), np.stack(stops, axis=1)


def _finer(edges: Ints, most: int, multiple: int) -> Ints:
    """Return edges no farther apart than `most`; those that are added are multiples of `multiple` apart."""
    lengths = np.diff(edges)
    if not len(lengths) or lengths.max() <= most:
        return edges
    step = max(multiple, most // multiple * multiple)
    pieces = [np.arange(start, stop, step) for start, stop in pairwise(edges.tolist())]
    return np.concatenate([*pieces, edges[-1:]])


def _ends(edges: list[Ints]) -> tuple[list[Ints], list[Ints]]:
    return [line[:-1] for line in edges], [line[1:] for line in edges]
