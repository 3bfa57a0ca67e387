"""What is copied: equal runs of bytes at regular distances, many of them in arrays side by side."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from tandem_checkpoint.reshard.placement import Ints


class Kind(IntEnum):
    """How the bytes of a copy go."""

    NETWORK = 0
    """From a rank that has them in another pod."""
    LOCAL = 1
    """From a rank that has them in the same pod, through its shared memory."""
    SHARED = 2
    """From a rank of the same pod that wants them too, once its own copy over the network is done."""


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Copies, one each index: `num_runs` runs of `run_bytes` bytes each, whose starts lie a stride apart on each side.

    By target, kind, source and place in the target.
    """

    kinds: Ints
    sources: Ints
    """Rank that is read: of the side that has, but for kind SHARED of the side that wants."""
    targets: Ints
    """Rank that wants the bytes."""
    source_offsets: Ints
    target_offsets: Ints
    run_bytes: Ints
    num_runs: Ints
    source_strides: Ints
    """Zero where there is one run only."""
    target_strides: Ints

    def __len__(self) -> int:
        return len(self.kinds)

    @property
    def num_bytes(self) -> Ints:
        """Bytes of each copy."""
        return self.run_bytes * self.num_runs

    def take(self, which: Ints | NDArray[np.bool_] | slice) -> "Copies":
        """Return some of the copies."""
        return self.map(lambda column: column[which])

    def map(self, change: Callable[[Ints], Ints]) -> "Copies":
        """Return copies whose columns are changed all alike."""
        return Copies(*(change(getattr(self, field.name)) for field in fields(self)))

    def of_target(self, rank: int) -> "Copies":
        """Return the copies into the memory of one rank."""
        first, last = np.searchsorted(self.targets, [rank, rank + 1])
        return self.take(slice(int(first), int(last)))


def join(parts: Sequence[Copies]) -> Copies:
    """Return several copies as one."""
    empty = np.zeros(0, np.int64)
    return Copies(
        *(np.concatenate([empty, *(getattr(part, field.name) for part in parts)]) for field in fields(Copies))
    )
