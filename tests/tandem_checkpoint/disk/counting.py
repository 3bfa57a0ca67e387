"""Reads that are counted, or fail, and the pages that a box lies in."""

import errno
import os
from dataclasses import dataclass, field
from threading import Lock

from tandem_checkpoint.disk.coverage import Box
from tandem_checkpoint.disk.index import StoredTensor
from tandem_checkpoint.disk.reading import PAGE_BYTES


@dataclass(slots=True)
class CountedReads:
    """os.preadv, counted."""

    most_bytes: int = 1 << 40
    """More is not read in one call."""
    fails: bool = False
    num_bytes: int = 0
    num_calls: int = 0
    _lock: Lock = field(default_factory=Lock)

    def __call__(self, descriptor: int, buffers: list[memoryview], offset: int, /) -> int:
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        num_read = os.preadv(descriptor, [buffer[: self.most_bytes] for buffer in buffers], offset)
        with self._lock:
            self.num_bytes += num_read
            self.num_calls += 1
        return num_read


def pages_of(tensor: StoredTensor, box: Box) -> set[int]:
    """Return the numbers of the file's pages that hold something of a box with two axes."""
    row_bytes = tensor.item_bytes * tensor.shape[1]
    found = set()
    for row in range(box.start[0], box.stop[0]):
        at = tensor.offset_bytes + row * row_bytes
        first, last = at + box.start[1] * tensor.item_bytes, at + box.stop[1] * tensor.item_bytes - 1
        found |= set(range(first // PAGE_BYTES, last // PAGE_BYTES + 1))
    return found
