"""Reads boxes of a folder's tensors, and of each file only the bytes that are wanted.

```python
index = read_index(folder)                # headers only
with FolderReader(index) as reader:       # every rank for itself, in any layout
    reader.read([MemoryBox(tensor, start, stop, memory), ...])   # see MemoryBox for what memory may be
```
The dtype on disk is `index[tensor].dtype`: where the parameter's differs, read into memory of that dtype and convert.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tandem_checkpoint.architectures.config import PolicyFolderError
from tandem_checkpoint.disk.index import AGAIN, FolderIndex, StoredTensor, open_regular
from tandem_checkpoint.disk.memory_box import MemoryBox, refuse_misfit
from tandem_checkpoint.disk.runs import Runs, runs_of

PAGE_BYTES = 4096
"""A file is read from its storage in pages: a gap shorter than one is read along, which spares a call a row."""
PART_BYTES = 16 << 20
"""What one thread reads at a time."""
NUM_THREADS = 8


class ReadInto(Protocol):
    """os.preadv, or what a test puts in its place to count."""

    def __call__(self, descriptor: int, buffers: list[memoryview], offset: int, /) -> int: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """Some runs of a file, and the bytes that they are read into, end to end."""

    file: Path
    runs: Runs
    memory: NDArray[np.uint8]


class FolderReader:
    """Reads from a folder; files stay open until it is closed. One thread uses it at a time."""

    def __init__(
        self, index: FolderIndex, *, num_threads: int = NUM_THREADS, read_into: ReadInto | None = None
    ) -> None:
        self._index = index
        self._threads = ThreadPoolExecutor(num_threads, "read-policy")
        self._read_into: ReadInto = read_into or os.preadv
        self._descriptors: dict[Path, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        with ExitStack() as closing:
            for descriptor in self._descriptors.values():
                closing.callback(os.close, descriptor)
            self._descriptors.clear()
            self._threads.shutdown()

    def read(self, boxes: Iterable[MemoryBox]) -> None:
        """Fill the memory of every box. Raises: PolicyFolderError for a tensor or bytes that are not there."""
        parts: list[_Part] = []
        scattered: list[tuple[NDArray[Any], NDArray[Any]]] = []
        for box in boxes:
            tensor, memory = self._index[box.tensor], box.memory
            refuse_misfit(box, tensor.dtype, tensor.shape, tensor.item_bytes)
            if not memory.flags.c_contiguous:
                memory = np.empty(memory.shape, memory.dtype)
                scattered.append((box.memory, memory))
            parts += _parts_of(tensor, box, memory.reshape(-1).view(np.uint8))
        self._read_parts(parts)
        for target, memory in scattered:
            np.copyto(target, memory)

    def _read_parts(self, parts: list[_Part]) -> None:
        parts.sort(key=lambda part: (str(part.file), part.runs.offset_bytes))
        for part in parts:
            if part.file not in self._descriptors:
                self._descriptors[part.file] = open_regular(part.file)
        for _ in self._threads.map(self._fill, parts):
            pass

    def _fill(self, part: _Part) -> None:
        runs, descriptor = part.runs, self._descriptors[part.file]
        if runs.num_runs == 1:
            self._read(part.file, descriptor, runs.offset_bytes, part.memory)
        elif _is_read_along(runs):
            self._read_along(part, descriptor)
        else:
            for number in range(runs.num_runs):
                at = number * runs.run_bytes
                offset = runs.offset_bytes + number * runs.stride_bytes
                self._read(part.file, descriptor, offset, part.memory[at : at + runs.run_bytes])

    def _read_along(self, part: _Part, descriptor: int) -> None:
        """Read runs together with the short gaps between them, and copy the runs."""
        runs = part.runs
        span = np.empty(runs.num_runs * runs.stride_bytes, np.uint8)
        self._read(part.file, descriptor, runs.offset_bytes, span[: len(span) - runs.stride_bytes + runs.run_bytes])
        rows = span.reshape(runs.num_runs, runs.stride_bytes)
        np.copyto(part.memory.reshape(runs.num_runs, runs.run_bytes), rows[:, : runs.run_bytes])

    def _read(self, path: Path, descriptor: int, offset: int, memory: NDArray[np.uint8]) -> None:
        view, at = memory.data, 0
        while at < len(view):
            try:
                num_read = self._read_into(descriptor, [view[at:]], offset + at)
            except OSError as error:
                raise PolicyFolderError(f"{path} cannot be read ({error.strerror}); mend the folder") from None
            if not num_read:
                raise PolicyFolderError(f"{path} has become shorter while it was read; {AGAIN}")
            at += num_read


def _parts_of(tensor: StoredTensor, box: MemoryBox, memory: NDArray[np.uint8]) -> Iterator[_Part]:
    for runs in runs_of(tensor.shape, tensor.item_bytes, tensor.offset_bytes, box.start, box.stop):
        most_bytes = PART_BYTES * runs.run_bytes // runs.stride_bytes if _is_read_along(runs) else PART_BYTES
        for part in runs.cut(most_bytes):
            yield _Part(tensor.file, part, memory[part.memory_bytes : part.memory_bytes + part.num_bytes])


def _is_read_along(runs: Runs) -> bool:
    """Return whether the gaps between runs are read too."""
    return runs.num_runs > 1 and runs.stride_bytes - runs.run_bytes < PAGE_BYTES
