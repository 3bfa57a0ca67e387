"""Whether boxes, together, make up whole tensors."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np


@dataclass(frozen=True, slots=True)
class Box:
    """`start[i] <= index < stop[i]` on every axis of a tensor."""

    tensor: str
    start: tuple[int, ...]
    stop: tuple[int, ...]

    def __str__(self) -> str:
        ranges = ", ".join(f"{start}:{stop}" for start, stop in zip(self.start, self.stop, strict=True))
        return f"{self.tensor}[{ranges}]" if self.start else self.tensor


def first_uncovered(shapes: Mapping[str, tuple[int, ...]], boxes: Iterable[Box]) -> Box | None:
    """Return a box of a tensor that none of the boxes has; None where they have all of all tensors."""
    by_tensor: dict[str, list[Box]] = defaultdict(list)
    for box in boxes:
        by_tensor[box.tensor].append(box)
    for name, shape in shapes.items():
        missing = _uncovered(Box(name, (0,) * len(shape), shape), by_tensor[name])
        if missing is not None:
            return missing
    return None


def _uncovered(whole: Box, boxes: Sequence[Box]) -> Box | None:
    """Return a part of `whole` that lies in no box. The boxes' edges cut it into cells, each in a box or out of it."""
    if not prod(whole.stop) or any(box == whole for box in boxes):
        return None
    if not boxes:
        return whole
    edges = [
        np.unique([0, length, *(box.start[axis] for box in boxes), *(box.stop[axis] for box in boxes)])
        for axis, length in enumerate(whole.stop)
    ]
    is_covered = np.zeros([len(line) - 1 for line in edges], bool)
    for box in boxes:
        if all(start < stop for start, stop in zip(box.start, box.stop, strict=True)):
            sides = zip(edges, box.start, box.stop, strict=True)
            is_covered[tuple(slice(*np.searchsorted(line, (start, stop))) for line, start, stop in sides)] = True
    if is_covered.all():
        return None
    cell = [int(index) for index in np.argwhere(~is_covered)[0]]
    ends = [(int(line[i]), int(line[i + 1])) for line, i in zip(edges, cell, strict=True)]
    return Box(whole.tensor, tuple(start for start, _ in ends), tuple(stop for _, stop in ends))
