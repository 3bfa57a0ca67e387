"""Where tensors lie, in canonical coordinates: Hugging Face on-disk name, and box in the full tensor.

Legend of axis letters: T tensors of a group, B boxes of it (one each piece), D axes of a tensor.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class ReshardError(Exception):
    """There is no plan from one layout to another; the message says in one line what is missing where."""


@dataclass(frozen=True, slots=True)
class Held:
    """One box of one tensor in the memory of one rank, contiguous in row-major order."""

    tensor: str
    """Hugging Face on-disk name."""
    shape: tuple[int, ...]
    """Of the full tensor."""
    item_bytes: int
    rank: int
    start: tuple[int, ...]
    """First index of the box on each axis."""
    stop: tuple[int, ...]
    """One past the last index of the box on each axis."""
    offset_bytes: int
    """Place of its first byte in the rank's memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Tensors of one shape that lie alike: the same boxes on the same ranks. What is planned for one holds for all."""

    tensors: tuple[str, ...]
    """[T] Hugging Face on-disk names."""
    shape: tuple[int, ...]
    """[D] of each full tensor."""
    item_bytes: int
    ranks: Ints
    """[B] Who holds each box."""
    starts: Ints
    """[B, D]"""
    stops: Ints
    """[B, D]"""
    offsets: Ints
    """[T, B] Place of each tensor's boxes in the memory of their ranks, in bytes."""


@dataclass(frozen=True, slots=True, eq=False)
class Placement:
    """What all ranks of one side hold."""

    pods: tuple[str, ...]
    """The pod of each rank. Ranks of both sides in pods of one name share that pod's memory."""
    groups: tuple[Group, ...]
    """Each tensor is in one group at most."""


def placement_of(pods: Sequence[str], held: Iterable[Held]) -> Placement:
    """Return the placement that single boxes make up; their order does not matter.

    Raises: ReshardError: a tensor has two shapes or item sizes, a box is not within its tensor, or a rank is unknown.
    """
    by_tensor: dict[str, list[Held]] = {}
    for one in held:
        by_tensor.setdefault(one.tensor, []).append(one)
    alike: dict[tuple[object, ...], list[list[Held]]] = {}
    for tensor in sorted(by_tensor):
        boxes = sorted(by_tensor[tensor], key=lambda one: (one.rank, one.start, one.stop, one.offset_bytes))
        for one in boxes:
            _check(one, boxes[0], len(pods))
        where = tuple((one.rank, one.start, one.stop) for one in boxes)
        alike.setdefault((boxes[0].shape, boxes[0].item_bytes, where), []).append(boxes)
    return Placement(tuple(pods), tuple(_group(rows) for rows in alike.values()))


def box_words(start: Sequence[int], stop: Sequence[int]) -> str:
    """Return a box for people: `[0:8, 4:6]`."""
    return f"[{', '.join(f'{first}:{last}' for first, last in zip(start, stop, strict=True))}]"


def _group(rows: list[list[Held]]) -> Group:
    first, num_axes = rows[0], len(rows[0][0].shape)
    return Group(
        tensors=tuple(row[0].tensor for row in rows),
        shape=first[0].shape,
        item_bytes=first[0].item_bytes,
        ranks=np.array([one.rank for one in first], np.int64),
        starts=np.array([one.start for one in first], np.int64).reshape(len(first), num_axes),
        stops=np.array([one.stop for one in first], np.int64).reshape(len(first), num_axes),
        offsets=np.array([[one.offset_bytes for one in row] for row in rows], np.int64),
    )


def _check(one: Held, first: Held, num_ranks: int) -> None:
    """Raise where a box cannot be what it says."""
    where = f"{one.tensor} {box_words(one.start, one.stop)} on rank {one.rank}"
    if (one.shape, one.item_bytes) != (first.shape, first.item_bytes):
        raise ReshardError(
            f"{where}: shape {one.shape} differs from {first.shape} on rank {first.rank}, or its items do"
        )
    corners = zip(one.start, one.stop, one.shape, strict=True)
    if not all(0 <= start < stop <= length for start, stop, length in corners):
        raise ReshardError(f"{where}: is empty or not within the tensor's shape {one.shape}")
    if not 0 <= one.rank < num_ranks:
        raise ReshardError(f"{where}: there are {num_ranks} ranks")
