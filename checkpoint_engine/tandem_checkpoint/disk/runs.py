"""A box of a row-major tensor as runs of bytes: equal ones at equal distances, as long as neighbours can be joined."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from math import prod


@dataclass(frozen=True, slots=True)
class Runs:
    """`num_runs` runs of `run_bytes` bytes; the first lies at `offset_bytes`, each next one `stride_bytes` further.

    In memory the runs stand end to end, the first at `memory_bytes`.
    """

    offset_bytes: int
    num_runs: int
    run_bytes: int
    stride_bytes: int
    memory_bytes: int

    @property
    def num_bytes(self) -> int:
        return self.num_runs * self.run_bytes

    def cut(self, most_bytes: int) -> Iterator["Runs"]:
        """Yield these runs in parts of at most `most_bytes` bytes: some runs, or a part of one."""
        if self.run_bytes > most_bytes:
            yield from self._cut_runs(most_bytes)
            return
        step = max(1, most_bytes // max(1, self.run_bytes))
        for first in range(0, self.num_runs, step):
            count = min(step, self.num_runs - first)
            yield Runs(
                self.offset_bytes + first * self.stride_bytes,
                count,
                self.run_bytes,
                self.stride_bytes,
                self.memory_bytes + first * self.run_bytes,
            )

    def _cut_runs(self, most_bytes: int) -> Iterator["Runs"]:
        for run, at in product(range(self.num_runs), range(0, self.run_bytes, most_bytes)):
            length = min(most_bytes, self.run_bytes - at)
            offset = self.offset_bytes + run * self.stride_bytes + at
            yield Runs(offset, 1, length, length, self.memory_bytes + run * self.run_bytes + at)


def runs_of(
    shape: tuple[int, ...], item_bytes: int, offset_bytes: int, start: tuple[int, ...], stop: tuple[int, ...]
) -> Iterator[Runs]:
    """Yield the runs of a box in the order of the tensor. `offset_bytes`: where the tensor's first byte lies."""
    extents = [last - first for first, last in zip(start, stop, strict=True)]
    if not prod(extents):
        return
    strides = [item_bytes * prod(shape[axis + 1 :]) for axis in range(len(shape))]
    first_byte = offset_bytes + sum(index * stride for index, stride in zip(start, strides, strict=True))
    axis = len(shape)
    run_bytes = item_bytes
    while axis and run_bytes == strides[axis - 1]:  # what follows this axis is whole, so its rows are one run
        axis -= 1
        run_bytes *= extents[axis]
    if not axis:
        yield Runs(first_byte, 1, run_bytes, run_bytes, 0)
        return
    outer, num_runs, memory = axis - 1, extents[axis - 1], 0
    for indices in product(*(range(extents[i]) for i in range(outer))):
        at = first_byte + sum(index * strides[i] for i, index in enumerate(indices))
        yield Runs(at, num_runs, run_bytes, strides[outer], memory)
        memory += num_runs * run_bytes
