"""Bytes of a segment: equal runs at regular distances, as columns of a matrix lie; one run where they lie together."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from mmap import mmap

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from tandem_api.weights import Piece

Memory = bytes | bytearray | memoryview | mmap | NDArray[np.uint8]
MOST_RUNS = 1024
"""Rows of runs that are asked for at once."""


@dataclass(frozen=True, slots=True)
class Runs:
    """`num_runs` runs of `run_bytes` bytes, whose starts lie `stride_bytes` apart."""

    offset_bytes: int
    run_bytes: int
    num_runs: int = 1
    stride_bytes: int = 0

    @property
    def num_bytes(self) -> int:
        return self.run_bytes * self.num_runs

    @property
    def stop_bytes(self) -> int:
        """Place behind the last byte."""
        return self.offset_bytes + (self.num_runs - 1) * self.stride_bytes + self.run_bytes

    def in_(self, segment: Memory) -> NDArray[np.uint8]:
        """Return a view of these bytes in a segment, [num_runs, run_bytes]."""
        flat = np.frombuffer(segment, np.uint8)[self.offset_bytes : self.stop_bytes]
        return as_strided(flat, (self.num_runs, self.run_bytes), (self.stride_bytes, 1))


def runs_of(piece: Piece) -> Runs:
    """Return where the bytes of a piece lie."""
    return Runs(piece.offset_bytes, piece.run_bytes, piece.num_runs, piece.stride_bytes)


def size_of(runs: Iterable[Runs]) -> int:
    """Return the bytes of all runs together."""
    return sum(row.num_bytes for row in runs)


def cut(runs: Iterable[Runs], most_bytes: int) -> Iterator[Runs]:
    """Yield the same bytes in the same order, one run a row, none longer than `most_bytes`."""
    for row in runs:
        for number in range(row.num_runs):
            first = row.offset_bytes + number * row.stride_bytes
            for at in range(0, row.run_bytes, most_bytes):
                yield Runs(first + at, min(most_bytes, row.run_bytes - at))


def gathered(segment: Memory, runs: Iterable[Runs], chunk_bytes: int) -> Iterator[bytes]:
    """Yield the bytes of all runs, one behind the other, in chunks of about this size."""
    parts, num_bytes = [], 0
    for row in runs:
        view = row.in_(segment)
        step = max(1, chunk_bytes // row.run_bytes)
        for first in range(0, row.num_runs, step):
            for at in range(0, row.run_bytes, chunk_bytes):
                parts.append(view[first : first + step, at : at + chunk_bytes].tobytes())
                num_bytes += len(parts[-1])
                if num_bytes >= chunk_bytes:
                    yield b"".join(parts)
                    parts, num_bytes = [], 0
    if parts:
        yield b"".join(parts)


def scatter(data: memoryview, runs: Sequence[Runs], into: Memory) -> None:
    """Write bytes that lie one behind the other to where they belong in a segment."""
    at = 0
    for row in runs:
        row.in_(into)[:] = np.frombuffer(data[at : at + row.num_bytes], np.uint8).reshape(row.num_runs, row.run_bytes)
        at += row.num_bytes
