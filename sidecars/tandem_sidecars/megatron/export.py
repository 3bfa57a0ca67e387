"""Export: a rank writes its share of the weights straight into the segment, in the layout that the server binds.

No rank sends weights to another one: each box is written by a rank that holds it.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tandem_api.weights import Piece
from tandem_checkpoint.architectures.config import PolicyConfig
from tandem_checkpoint.architectures.table import Names
from tandem_checkpoint.layouts.place import TrainerPlace
from tandem_checkpoint.layouts.shares import Region, shares_of
from tandem_checkpoint.segments.layout import Placed, SegmentLayout
from tandem_checkpoint.segments.manifest import checksum
from tandem_checkpoint.segments.store import map_for_writing
from tandem_sidecars.megatron.arrays import array_of
from tandem_sidecars.megatron.staging import BLOCK_BYTES, Staging

CACHED_BYTES = 4 << 20
"""On a CPU so much is summed and then copied while it is still in the processor's cache."""
SPAN_BYTES = 64 << 20
"""Boxes that skip columns are cut by rows where they span more: readers fetch all that lies between their runs."""
MOST_THREADS = 8
"""Threads that copy: more do not help, as memory is the limit."""


@dataclass(frozen=True, slots=True)
class Job:
    """One piece to write."""

    placed: Placed
    region: Region
    start: tuple[int, ...]
    stop: tuple[int, ...]


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
        self._jobs = tuple(job for region in regions for job in _jobs(placed[region.tensor], region))
        self._num_threads = min(MOST_THREADS, max(1, len(os.sched_getaffinity(0)) // len(places)))
        self._mapped: dict[Path, torch.Tensor] = {}
        self._staging: Staging | None = None

    def write(self, path: Path, parameters: Mapping[str, torch.Tensor]) -> tuple[Piece, ...]:
        """Write this rank's share.

        Args: parameters: Megatron's parameters by name, on the device or parked.
        Returns: the pieces written, with their checksums.
        """
        segment = self._map(path)
        on_device = [parameters[job.region.parameter].is_cuda for job in self._jobs]
        if any(on_device):
            self._staging = self._staging or Staging()
            return tuple(_write(segment, job, parameters, self._staging) for job in self._jobs)
        with ThreadPoolExecutor(self._num_threads, "export") as threads:
            return tuple(threads.map(lambda job: _write(segment, job, parameters, None), self._jobs))

    def _map(self, path: Path) -> torch.Tensor:
        if path not in self._mapped:
            self._mapped[path] = torch.frombuffer(map_for_writing(path), dtype=torch.uint8)
        return self._mapped[path]


def _jobs(placed: Placed, region: Region) -> Iterator[Job]:
    """Yield the pieces of a region: one, unless it skips columns and spans much."""
    runs = placed.runs_of(region.start, region.stop)
    first, last = region.start[0], region.stop[0]
    step = last - first if runs.num_runs == 1 else max(1, SPAN_BYTES // runs.stride_bytes)
    for row in range(first, last, step):
        yield Job(placed, region, (row, *region.start[1:]), (min(row + step, last), *region.stop[1:]))


def _write(segment: torch.Tensor, job: Job, parameters: Mapping[str, torch.Tensor], staging: Staging | None) -> Piece:
    """Write one piece block by block; its checksum is that of what was to be written."""
    tensor = job.placed.tensor
    whole = segment[job.placed.offset_bytes : job.placed.offset_bytes + job.placed.num_bytes]
    target = whole.view(getattr(torch, tensor.dtype)).view(tensor.shape)
    columns = tuple(slice(start, stop) for start, stop in zip(job.start[1:], job.stop[1:], strict=True))
    parameter = parameters[job.region.parameter].detach()
    blocks = _blocks(job, parameter, target.dtype)
    crc, row = 0, job.start[0]
    for block in staging.brought(blocks) if staging is not None and parameter.is_cuda else blocks:
        crc = checksum(array_of(block).data, crc)
        _copy(block, target[(slice(row, row + block.shape[0]), *columns)])
        row += block.shape[0]
    runs = job.placed.runs_of(job.start, job.stop)
    return Piece(
        tensor=tensor.name,
        start=job.start,
        stop=job.stop,
        offset_bytes=runs.offset_bytes,
        num_bytes=runs.num_bytes,
        num_runs=runs.num_runs,
        stride_bytes=runs.stride_bytes,
        crc32=crc,
    )


def _copy(block: torch.Tensor, into: torch.Tensor) -> None:
    """Copy a row-major block. Where the target lies together, the C library does it, past the processor's cache."""
    if into.is_contiguous():
        np.copyto(array_of(into), array_of(block))
    else:
        into.copy_(block)


def _blocks(job: Job, parameter: torch.Tensor, dtype: torch.dtype) -> Iterator[torch.Tensor]:
    """Yield the rows of a piece in order, each block row-major and in the segment's number format."""
    most_bytes = BLOCK_BYTES if parameter.is_cuda else CACHED_BYTES
    for strip in job.region.strips:
        first, last = max(strip.tensor_start[0], job.start[0]), min(strip.tensor_stop[0], job.stop[0])
        if first >= last:
            continue
        source = parameter[strip.in_parameter]
        step = max(1, most_bytes // (source[0].numel() * dtype.itemsize))
        for row in range(first, last, step):
            at = row - strip.tensor_start[0]
            yield source[at : at + min(step, last - row)].to(dtype).contiguous()
