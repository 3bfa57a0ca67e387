"""What a rank really holds, and what is in the folder that it was loaded from, in the format that is handed over."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import torch

from tandem_api.weights import BoxFingerprint, TensorInfo
from tandem_checkpoint.architectures.block_scales import BlockScales
from tandem_checkpoint.layouts.scales import scale_region
from tandem_checkpoint.layouts.shares import Region, regions_of
from tandem_checkpoint.layouts.strip import LocalParameter, Strip
from tandem_checkpoint.process.commands import Fingerprint, Fingerprinted
from tandem_checkpoint.segments.holdings import plain_tensors
from tandem_checkpoint.segments.layout import SegmentLayout
from tandem_sidecars.block_scales import FORMAT, converted_rows
from tandem_sidecars.fingerprint import MODULUS, fingerprint_of, fingerprints_of, told
from tandem_sidecars.megatron.source import FolderContent
from tandem_sidecars.megatron.weights import Tensors

READ_ELEMENTS = 64 << 20
"""So much of a folder is in memory at once, or up to twice as much."""
BLOCK_BYTES = 64 << 20
"""So much of a matrix is quantised at once."""


class Examiner:
    """Takes the fingerprints of one rank."""

    def __init__(
        self,
        layout: SegmentLayout,
        scales: BlockScales | None,
        local: Sequence[LocalParameter],
        local_rank: int,
        num_ranks: int,
    ) -> None:
        """Args: scales: how the policy is quantised as it is handed over, if it is. local: what the rank holds."""
        self._layout = layout
        self._scales = scales
        self._formats = {info.name: getattr(torch, info.dtype) for info in layout.tensors}
        self._plain = [_only(item, self._is_plain) for item in local]
        self._quantised = list(regions_of([_only(item, lambda tensor: not self._is_plain(tensor)) for item in local]))
        self._share = plain_tensors(layout)[local_rank::num_ranks]
        """Tensors of a folder that this rank reads, so that those of its pod read all."""

    def examine(self, command: Fingerprint, parameters: Tensors) -> Fingerprinted:
        """Answer the command. Args: parameters: the rank's, by name, on the device or parked."""
        plain = fingerprints_of(((item, parameters[item.name]) for item in self._plain), self._formats)
        quantised = (self._of_region(region, parameters[region.parameter]) for region in self._regions())
        folder = tuple(self._of_folder(Path(command.folder))) if command.folder else ()
        return Fingerprinted(boxes=(*plain, *quantised), folder_boxes=folder)

    def _is_plain(self, tensor: str) -> bool:
        """Tell whether a tensor is handed over as numbers, each by itself."""
        return self._formats[tensor] is not FORMAT

    def _regions(self) -> Iterator[Region]:
        """Yield what is quantised, and the scales of it."""
        if self._scales is not None:
            for region in self._quantised:
                yield from (region, scale_region(region, self._scales))

    def _of_region(self, region: Region, parameter: torch.Tensor) -> BoxFingerprint:
        """Return the fingerprint of what an export makes of a region."""
        assert self._scales is not None
        first, *columns = region.start
        value = 0
        for block in converted_rows(region, parameter.detach(), first, region.stop[0], self._scales, BLOCK_BYTES):
            value += fingerprint_of(block, (first, *columns), block.dtype)
            first += block.shape[0]
        return BoxFingerprint(tensor=region.tensor, start=region.start, stop=region.stop, value=value % MODULUS)

    def _of_folder(self, folder: Path) -> Iterator[BoxFingerprint]:
        """Yield the fingerprints of this rank's share of a folder. Errors: PolicyFolderError."""
        for batch in _batches(self._share):
            local = [LocalParameter(_name(strip), strip.extents, (strip,)) for strip in batch]
            blocks = [torch.empty(strip.extents, dtype=self._formats[strip.tensor]) for strip in batch]
            names = [item.name for item in local]
            FolderContent(folder, self._layout, local).fill(dict(zip(names, blocks, strict=True)))
            for strip, block in zip(batch, blocks, strict=True):
                yield told(strip, fingerprint_of(block, strip.tensor_start, block.dtype))


def _only(local: LocalParameter, wanted: Callable[[str], bool]) -> LocalParameter:
    """Return a parameter with only the strips of some tensors."""
    return replace(local, strips=tuple(strip for strip in local.strips if wanted(strip.tensor)))


def _batches(tensors: Sequence[TensorInfo]) -> Iterator[list[Strip]]:
    """Yield boxes of whole rows that make up some tensors, in groups that are read at once."""
    batch: list[Strip] = []
    num_elements = 0
    for info in tensors:
        row_elements = prod(info.shape[1:])
        step = max(1, READ_ELEMENTS // row_elements)
        for row in range(0, info.shape[0], step):
            stop = (min(row + step, info.shape[0]), *info.shape[1:])
            batch.append(Strip(info.name, (row, *(0,) * len(info.shape[1:])), stop, (0,) * len(info.shape)))
            num_elements += batch[-1].size
            if num_elements >= READ_ELEMENTS:
                yield batch
                batch, num_elements = [], 0
    if batch:
        yield batch


def _name(strip: Strip) -> str:
    """Return a name for a box by itself: those of a tensor have different first rows."""
    return f"{strip.tensor} {strip.tensor_start[0]}"
