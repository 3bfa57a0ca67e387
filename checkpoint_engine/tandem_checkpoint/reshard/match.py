"""Tensors that lie alike on both sides, brought together: what is planned for one of them holds for all.

Legend: T tensors, H boxes that are held, W boxes that are wanted, D axes.
"""

from dataclasses import dataclass, replace

import numpy as np

from tandem_checkpoint.reshard.placement import Group, Ints, Placement, ReshardError, box_words


@dataclass(frozen=True, slots=True, eq=False)
class Boxes:
    """The boxes of one side for the tensors of a match."""

    ranks: Ints
    pods: Ints
    """Number of each rank's pod, the same on both sides."""
    starts: Ints
    """[boxes, D]"""
    stops: Ints
    offsets: Ints
    """[T, boxes]"""


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """Tensors of one shape that lie alike on the side that has and on the side that wants."""

    tensors: tuple[str, ...]
    """[T] in the order in which they lie in the memory of the first rank that wants them."""
    shape: tuple[int, ...]
    item_bytes: int
    have: Boxes
    want: Boxes

    def words(self, piece: int) -> str:
        """Return a wanted box for people."""
        box = box_words(self.want.starts[piece].tolist(), self.want.stops[piece].tolist())
        return f"{self.tensors[0]} {box} for rank {self.want.ranks[piece]}"


def find_matches(have: Placement, want: Placement) -> tuple[Match, ...]:
    """Return what is wanted by tensors that lie alike, in an order that depends on the tensors only.

    Raises: ReshardError: a wanted tensor is held nowhere, or has another shape or item size there.
    """
    pods = {pod: number for number, pod in enumerate(sorted({*have.pods, *want.pods}))}
    have_pods, want_pods = (np.array([pods[pod] for pod in side.pods], np.int64) for side in (have, want))
    held = {tensor: (at, row) for at, group in enumerate(have.groups) for row, tensor in enumerate(group.tensors)}
    held_boxes = [_boxes(group, have_pods) for group in have.groups]
    found = []
    for group in want.groups:
        wanted_boxes = _boxes(group, want_pods)
        rows: dict[int, list[tuple[str, int, int]]] = {}
        for row, tensor in enumerate(group.tensors):
            if tensor not in held:
                raise ReshardError(_missing(group, tensor))
            at, held_row = held[tensor]
            rows.setdefault(at, []).append((tensor, held_row, row))
        found += [_match(have.groups[at], group, held_boxes[at], wanted_boxes, sorted(rows[at])) for at in rows]
    return tuple(sorted(found, key=lambda match: match.tensors[0]))


def _match(have: Group, want: Group, held: Boxes, wanted: Boxes, rows: list[tuple[str, int, int]]) -> Match:
    """Return a match of the tensors whose names, rows in `have` and rows in `want` are given, by name."""
    if (have.shape, have.item_bytes) != (want.shape, want.item_bytes):
        ours, theirs = (f"{side.shape} of {side.item_bytes}-byte items" for side in (have, want))
        raise ReshardError(f"{rows[0][0]}: rank {want.ranks[0]} wants {theirs}, rank {have.ranks[0]} has {ours}")
    held_rows, wanted_rows = np.array([row[1:] for row in rows], np.int64).T
    order = np.argsort(wanted.offsets[wanted_rows, 0], kind="stable")
    return Match(
        tuple(rows[at][0] for at in order.tolist()),
        have.shape,
        have.item_bytes,
        replace(held, offsets=held.offsets[held_rows[order]]),
        replace(wanted, offsets=wanted.offsets[wanted_rows[order]]),
    )


def _boxes(group: Group, pods: Ints) -> Boxes:
    """Return the boxes of a group by rank, then by corner, then by place."""
    first = min(range(len(group.tensors)), key=group.tensors.__getitem__)
    keys = (group.offsets[first], *group.stops.T[::-1], *group.starts.T[::-1], group.ranks)
    order = np.lexsort(keys)
    ranks = group.ranks[order]
    return Boxes(ranks, pods[ranks], group.starts[order], group.stops[order], group.offsets[:, order])


def _missing(group: Group, tensor: str) -> str:
    box = box_words(group.starts[0].tolist(), group.stops[0].tolist())
    return f"{tensor} {box} for rank {group.ranks[0]}: no rank has this tensor"
