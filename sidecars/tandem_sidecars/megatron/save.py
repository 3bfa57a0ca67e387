"""The policy as a Hugging Face folder: written aside, synced, renamed, so a half-written one is never seen.

Each rank writes its share of every tensor into the files, whose size and order all of them know.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from tandem_checkpoint.disk.folder_plan import FolderPlan, plan_folder
from tandem_checkpoint.disk.memory_box import MemoryBox
from tandem_checkpoint.disk.writing import FolderWriter, commit, prepare
from tandem_checkpoint.layouts.scales import scale_region
from tandem_checkpoint.layouts.shares import Region
from tandem_checkpoint.process.commands import SaveStep
from tandem_checkpoint.segments.layout import SegmentLayout
from tandem_sidecars.block_scales import FORMAT, quantise
from tandem_sidecars.megatron.arrays import array_of
from tandem_sidecars.megatron.weights import Tensors, box_of


class FolderSaver:
    """One rank's part in saving."""

    def __init__(self, layout: SegmentLayout, origin: Path, shares: Sequence[Sequence[Region]], rank: int) -> None:
        """Work out the files. `shares`: what each rank writes; `origin`: where other files come from."""
        self._plan: FolderPlan = plan_folder(layout.tensors)
        self._dtypes = {info.name: getattr(torch, info.dtype) for info in layout.tensors}
        self._scales = layout.block_scales
        self._origin = origin
        self._shares = shares
        self._rank = rank

    def save(self, folder: Path, step: SaveStep, parameters: Tensors) -> int:
        """Take a step, or all of them; return the size of the weight files. An older folder is replaced at the end.

        Raises: OSError; FolderIncomplete where a rank has not written its share.
        """
        if step in (SaveStep.ALL, SaveStep.PREPARE):
            prepare(folder, self._plan, self._origin)
        if step in (SaveStep.ALL, SaveStep.WRITE):
            with FolderWriter(folder, self._plan, _name(self._rank)) as writer:
                writer.write(self._boxes(parameters))
        if step in (SaveStep.ALL, SaveStep.COMMIT):
            commit(folder, self._plan, [_name(rank) for rank in range(len(self._shares))])
        return self._plan.num_bytes

    def _boxes(self, parameters: Tensors) -> Iterator[MemoryBox]:
        for region in self._shares[self._rank]:
            box = box_of(region, parameters)
            if self._scales is not None and self._dtypes[region.tensor] is FORMAT:
                box, scales = quantise(box, self._scales)
                yield _memory_box(scale_region(region, self._scales), scales)
            yield _memory_box(region, box.to("cpu", self._dtypes[region.tensor]))


def _memory_box(region: Region, box: torch.Tensor) -> MemoryBox:
    return MemoryBox(region.tensor, region.start, region.stop, array_of(box.cpu()))


def _name(rank: int) -> str:
    return f"rank-{rank}"
