"""Export: a rank writes its share of the weights straight into the segment, in the layout that the server binds.

No rank sends weights to another one: each box is written by a rank that holds it.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby
from math import prod
from operator import itemgetter, mul
from pathlib import Path

import numpy as np
import torch

from tandem_api.weights import Piece
from tandem_checkpoint.architectures.block_scales import FORMAT, BlockScales
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.table import Names
from tandem_checkpoint.layouts.place import TrainerPlace
from tandem_checkpoint.layouts.scales import scale_region
from tandem_checkpoint.layouts.shares import Region, shares_of
from tandem_checkpoint.segments.layout import Placed, SegmentLayout
from tandem_checkpoint.segments.manifest import Checksum
from tandem_checkpoint.segments.store import map_for_writing
from tandem_sidecars.block_scales import converted_rows
from tandem_sidecars.megatron import copying
from tandem_sidecars.megatron.arrays import array_of
from tandem_sidecars.megatron.staging import BLOCK_BYTES, Staging

CACHED_BYTES = 2 << 20
"""So much at least is copied and then summed, while it is still in the processor's cache. Below 16 times its threshold
(`process/environment.py`) glibc copies two pages at a time instead of four, which is slower."""
SPAN_BYTES = 64 << 20
"""Boxes that skip columns are cut by rows where they span more: readers fetch all that lies between their runs."""
PIECE_BYTES = 16 << 20
"""Boxes are cut by rows where they are larger, so that all threads have several pieces at hand until the end."""
MOST_PIECES = 1024
"""Boxes are cut into pieces of at least this part of the segment: etcd takes a rank's list of pieces up to 1.5 MiB."""
MOST_THREADS = 8
"""Threads that copy: more do not help, as memory is the limit."""
Numbers = np.ndarray[tuple[int, ...], np.dtype[np.integer]]


@dataclass(frozen=True, slots=True)
class Job:
    """One piece to write."""

    placed: Placed
    region: Region
    start: tuple[int, ...]
    stop: tuple[int, ...]
    piece: Piece
    """What is told of it, but for the checksum."""
    sources: tuple[tuple[tuple[int | slice, ...], slice], ...]
    """What it is made of, by row: a box of the parameter, and which of its rows."""
    scales: BlockScales | None = None
    """How the matrix is quantised that the piece is of, or of whose scales it is."""


class SegmentWriter:
    """Writes generations into the pod's segments; a mapping is kept, so its pages are faulted in only once."""

    def __init__(
        self,
        layout: SegmentLayout,
        policy: PolicyConfig,
        places: Sequence[TrainerPlace] = (TrainerPlace(),),
        local_rank: int = 0,
        names: Names = Names.LOCAL,
    ) -> None:
        """Work out this rank's share. `places`: those of all ranks of the pod, by local rank."""
        placed = {item.tensor.name: item for parameter in layout.parameters for item in parameter.tensors}
        regions = shares_of(policy, places, names)[local_rank]
        most_bytes = max(PIECE_BYTES, layout.num_bytes // MOST_PIECES)
        jobs = (job for region in regions for job in _jobs(placed, region, layout.block_scales, most_bytes))
        self._jobs = sorted(jobs, key=lambda job: job.piece.num_bytes, reverse=True)  # so that threads end together
        self._num_threads = min(MOST_THREADS, max(1, len(os.sched_getaffinity(0)) // len(places)))
        self._library = copying.find_library()
        self._mapped: dict[Path, _Mapped] = {}
        self._staging: Staging | None = None

    def write(self, path: Path, parameters: Mapping[str, torch.Tensor]) -> tuple[Piece, ...]:
        """Write this rank's share.

        Args: parameters: Megatron's parameters by name, on the device or parked.
        Returns: the pieces written, with their checksums, in the order of the segment.
        """
        return tuple(sorted(self._written(path, parameters), key=lambda piece: piece.offset_bytes))

    def _written(self, path: Path, parameters: Mapping[str, torch.Tensor]) -> list[Piece]:
        """Write this rank's share; return its pieces as they were done."""
        mapped = self._map(path)
        staged, plain, rest = list[_Work](), list[_Work](), list[_Work]()
        for job, target in zip(self._jobs, mapped.targets, strict=True):
            work = _Work(job, target, parameters[job.region.parameter].detach())
            is_plain = self._library is not None and _is_plain(work)
            (staged if work.parameter.is_cuda else plain if is_plain else rest).append(work)
        if staged:
            self._staging = self._staging or Staging()
        written = [*_write_staged(staged, self._staging)] if self._staging else []
        batch = self._library and copying.Batch(self._library, [tuple(_boxes(work, mapped.address)) for work in plain])
        others = iter(rest)

        # All threads take from one batch and one iterator, whose every step is one to the interpreter
        def write_some() -> list[Piece]:
            if batch:
                batch.copy()
            return [_write(work, _blocks(work)) for work in others]

        with ThreadPoolExecutor(self._num_threads, "export") as threads:
            beside = [threads.submit(write_some) for _ in range(self._num_threads - 1)]
            written += chain(write_some(), *(thread.result() for thread in beside))
        checksums = batch.checksums() if batch else ()
        return written + [_summed(work.job, xxh3) for work, xxh3 in zip(plain, checksums, strict=True)]

    def _map(self, path: Path) -> "_Mapped":
        if path not in self._mapped:
            segment = torch.frombuffer(map_for_writing(path), dtype=torch.uint8)
            targets = [array_of(_target(segment, job)) for job in self._jobs]
            self._mapped[path] = _Mapped(segment.data_ptr(), targets)
        return self._mapped[path]


@dataclass(frozen=True, slots=True)
class _Mapped:
    """A segment in memory."""

    address: int
    targets: list[Numbers]
    """The place of each job's piece."""


@dataclass(frozen=True, slots=True)
class _Work:
    """A piece to write now."""

    job: Job
    target: Numbers
    parameter: torch.Tensor


def _jobs(placed: Mapping[str, Placed], region: Region, scales: BlockScales | None, most_bytes: int) -> Iterator[Job]:
    """Yield the pieces of a region, and those of its scales where it is quantised."""
    where = placed[region.tensor]
    if scales is None or where.tensor.dtype != FORMAT:
        yield from _cut(where, region, most_bytes)
        return
    yield from _cut(where, region, most_bytes, scales, scales.block[0])
    beside = scale_region(region, scales)
    yield from _cut(placed[beside.tensor], beside, most_bytes, scales)


def _cut(
    placed: Placed, region: Region, most_bytes: int, scales: BlockScales | None = None, multiple: int = 1
) -> Iterator[Job]:
    """Yield a region as one piece, or cut by rows where it is large or spans much; each has a multiple of some rows."""
    runs = placed.runs_of(region.start, region.stop)
    first, last = region.start[0], region.stop[0]
    num_rows = most_bytes * (last - first) // runs.num_bytes
    if runs.num_runs > 1:
        num_rows = min(num_rows, SPAN_BYTES // runs.stride_bytes)
    step = max(1, num_rows // multiple) * multiple
    for row in range(first, last, step):
        start, stop = (row, *region.start[1:]), (min(row + step, last), *region.stop[1:])
        sources = tuple(_sources(region, row, stop[0]))
        yield Job(placed, region, start, stop, placed.piece_of(start, stop), sources, scales)


def _sources(region: Region, first: int, last: int) -> Iterator[tuple[tuple[int | slice, ...], slice]]:
    """Yield where the parameter has some rows of a region."""
    for strip in region.strips:
        top, bottom = max(strip.tensor_start[0], first), min(strip.tensor_stop[0], last)
        if top < bottom:
            yield strip.in_parameter, slice(top - strip.tensor_start[0], bottom - strip.tensor_start[0])


def _target(segment: torch.Tensor, job: Job) -> torch.Tensor:
    """Return a piece's place in the segment, in its shape."""
    tensor = job.placed.tensor
    whole = segment[job.placed.offset_bytes : job.placed.offset_bytes + job.placed.num_bytes]
    box = tuple(slice(start, stop) for start, stop in zip(job.start, job.stop, strict=True))
    return whole.view(getattr(torch, tensor.dtype)).view(tensor.shape)[box]


def _write(work: _Work, blocks: Iterable[torch.Tensor]) -> Piece:
    """Write one piece from its blocks on the host; its checksum is that of what was to be written."""
    summed, row = Checksum(), 0
    for block in blocks:
        _copy(array_of(block), work.target[row : row + block.shape[0]], summed)
        row += block.shape[0]
    return _summed(work.job, summed.intdigest())


def _write_staged(works: Sequence[_Work], staging: Staging) -> Iterator[Piece]:
    """Write pieces from a device; the first block of one is on its way while the last of that before it is written."""
    blocks = ((number, block) for number, work in enumerate(works) for block in _blocks(work))
    for number, brought in groupby(staging.brought(blocks), key=itemgetter(0)):
        yield _write(works[number], (block for _, block in brought))


def _summed(job: Job, xxh3: int) -> Piece:
    return job.piece.model_copy(update={"xxh3": xxh3})


def _is_plain(work: _Work) -> bool:
    """Tell whether a piece's bytes are those of the parameter, in memory that is there."""
    job, parameter = work.job, work.parameter
    return (
        parameter.is_cpu
        and job.scales is None
        and job.piece.num_bytes >= copying.LEAST_BYTES
        and parameter.dtype == getattr(torch, job.placed.tensor.dtype)
        and parameter.is_contiguous()
        and parameter.untyped_storage().nbytes() >= parameter.storage_offset() * parameter.itemsize + parameter.nbytes
    )


def _boxes(work: _Work, segment: int) -> Iterator[copying.Box]:
    """Yield where a piece's bytes lie in a parameter, and where they belong in the segment that begins at an address.

    Worked out from numbers alone: views of tensors would take longer than the copy of a small piece.
    """
    job, parameter = work.job, work.parameter
    strides = [stride * parameter.itemsize for stride in parameter.stride()]
    base, target = parameter.data_ptr(), segment + job.piece.offset_bytes
    columns = (stop - start for start, stop in zip(job.start[1:], job.stop[1:], strict=True))
    row_bytes, apart = (prod(lengths) * parameter.itemsize for lengths in (columns, job.placed.tensor.shape[1:]))
    for box, rows in job.sources:
        firsts = (side.start if isinstance(side, slice) else side for side in box)
        stride = strides[len(box) - len(job.start)]
        source = base + sum(map(mul, firsts, strides)) + rows.start * stride
        num_rows = rows.stop - rows.start
        if row_bytes == stride == apart:
            yield source, target, 1, num_rows * row_bytes, 0, 0
        else:
            yield source, target, num_rows, row_bytes, stride, apart
        target += num_rows * apart


def _copy(source: Numbers, target: Numbers, summed: Checksum) -> None:
    """Copy a row-major block, part by part; each is summed while the processor's cache still has what was read.

    What lies together is one row to the C library, which writes past the cache.
    """
    if target.flags.c_contiguous:
        source, target = source.reshape(-1), target.reshape(-1)
    step = -(-len(source) // max(1, source.nbytes // CACHED_BYTES))
    for first in range(0, len(source), step):
        part = source[first : first + step]
        np.copyto(target[first : first + step], part)
        summed.update(part.data)


def _blocks(work: _Work) -> Iterator[torch.Tensor]:
    """Yield the rows of a piece in order, each block row-major and in the segment's number format."""
    job, parameter, dtype = work.job, work.parameter, getattr(torch, work.job.placed.tensor.dtype)
    most_bytes = BLOCK_BYTES if parameter.is_cuda else CACHED_BYTES
    if job.scales is not None:
        yield from converted_rows(job.region, parameter, job.start[0], job.stop[0], job.scales, most_bytes)
        return
    for box, rows in job.sources:
        source = parameter[box][rows]
        if source.dtype == dtype and source.is_contiguous() and not source.is_cuda:
            yield source
            continue
        step = max(1, most_bytes // (source[0].numel() * dtype.itemsize))
        for row in range(0, len(source), step):
            yield source[row : row + step].to(dtype).contiguous()
