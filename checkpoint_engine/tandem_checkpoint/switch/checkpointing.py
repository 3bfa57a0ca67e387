"""A checkpoint in the making: one pod's part in each of its steps.

Only the first step is waited for by the job. It fixes what is to be written: the policy lies in the pod's segment,
which nobody changes before the generation after the next is exported, and of the optimizer's state the ranks make a
copy. The rest takes as long as the disk does, while the job samples and trains. Everything lies aside until the last
step puts it in its place, all at once.
"""

import asyncio
import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import assert_never

import numpy as np

from tandem_api.engine import CheckpointRequest, CheckpointStep, SaveResponse
from tandem_api.weights import Piece
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.disk.folder_plan import FolderPlan, plan_folder
from tandem_checkpoint.disk.formats import ITEM_BYTES
from tandem_checkpoint.disk.memory_box import MemoryBox
from tandem_checkpoint.disk.optimizer_folder import FOLDER, all_written, make_optimizer_folder
from tandem_checkpoint.disk.replacing import aside_of
from tandem_checkpoint.disk.writing import FolderIncomplete, FolderWriter, commit, lay_out, make_aside
from tandem_checkpoint.layouts.pod import PodRanks
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.commands import Saved, SaveOptimizer, SaveStep
from tandem_checkpoint.process.ranks import CommandRefused, RankGroup
from tandem_checkpoint.segments.layout import Placed, SegmentLayout
from tandem_checkpoint.segments.manifest import BrokenSegment, verify
from tandem_checkpoint.segments.record import ExportRecord
from tandem_checkpoint.segments.store import SegmentError, map_for_reading, segment_name
from tandem_checkpoint.settings import Settings

logger = logging.getLogger(__name__)

WRITE_SECONDS = 3600.0
"""Deadline of writing."""
HOLD_SECONDS = 600.0
"""So long an export waits for its segment while a checkpoint is read from it; then the checkpoint is given up."""


class NotSaved(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """A checkpoint cannot be written, or is not whole; the older ones stay."""


class _GivenUp(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The segment is needed for another generation."""


@dataclass(frozen=True, slots=True)
class _Making:
    """The checkpoint that is being made."""

    request: CheckpointRequest
    record: ExportRecord
    ranks: RankGroup
    is_begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the segment is being read."""
    is_read: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once nothing is read from it any more."""
    give_up: threading.Event = field(default_factory=threading.Event)

    @property
    def folder(self) -> Path:
        return Path(self.request.path)


class CheckpointWriter:
    """Makes one checkpoint after another."""

    def __init__(self, settings: Settings, pod: PodRanks, layout: SegmentLayout) -> None:
        self._settings = settings
        self._pod = pod
        self._layout = layout
        self._making: _Making | None = None

    async def begin(self, request: CheckpointRequest, record: ExportRecord, ranks: RankGroup) -> SaveResponse:
        """Fix what is to be written. An older checkpoint that was not committed is given up.

        Errors: NotSaved, ChildGone, TimeoutError.
        """
        await self._give_up()
        with _told(request):
            if self._is_first:
                await asyncio.to_thread(_make, Path(request.path), with_optimizer=self.keeps_optimizer)
            if self.keeps_optimizer:
                order = SaveOptimizer(checkpoint=request.path, step=SaveStep.WRITE)
                await ranks.ask(lambda _: order, Saved)
        self._making = _Making(request, record, ranks)
        return SaveResponse(path=request.path, num_bytes=0)

    async def go_on(self, request: CheckpointRequest) -> SaveResponse:
        """Take another step than the first. Errors: Conflict where that was not taken here; NotSaved, ChildGone,
        TimeoutError.
        """
        making = self._making
        if making is None or making.request.path != request.path or making.request.generation != request.generation:
            raise Conflict(f"{request.path}: this trainer has not begun this checkpoint; begin it again")
        with _told(request):
            return SaveResponse(path=request.path, num_bytes=await self._step(request.step, making))

    async def released(self, generation: int) -> None:
        """Wait until no checkpoint is read from the segment of a generation that is about to be exported."""
        making = self._making
        if making is None or segment_name(generation) != segment_name(making.record.generation):
            return
        try:
            async with asyncio.timeout(HOLD_SECONDS):
                await making.is_read.wait()
        except TimeoutError:
            logger.error("%s is given up: generation %d needs its segment", making.request.path, generation)
            await self._give_up()

    async def _step(self, step: CheckpointStep, making: _Making) -> int:
        """Take a step; return the bytes that were written."""
        match step:
            case CheckpointStep.PREPARE:
                await asyncio.to_thread(lay_out, making.folder, self._plan, self._origin)
                return 0
            case CheckpointStep.WRITE:
                return await self._write(making)
            case CheckpointStep.COMMIT:
                return await self._commit(making)
            case CheckpointStep.BEGIN:
                raise AssertionError("begin() takes this step")
            case _:
                assert_never(step)

    async def _write(self, making: _Making) -> int:
        """Write this pod's part; return when it is on disk, the ranks' parts included."""
        num_bytes = 0
        making.is_begun.set()
        try:
            if self._is_first or not self._pod.is_whole:
                num_bytes = await asyncio.to_thread(self._write_policy, making)
        finally:
            making.is_read.set()
        if self.keeps_optimizer:
            ranks = [self._pod.number(local) for local in range(self._pod.num_ranks)]
            async with asyncio.timeout(WRITE_SECONDS):
                await all_written(aside_of(making.folder) / FOLDER, ranks, lambda: self._check(making))
        return num_bytes

    def _write_policy(self, making: _Making) -> int:
        """Write what this pod's segment holds of the policy, once every checksum has been compared."""
        pieces = [piece for shard in making.record.shards for piece in shard.pieces]
        mapped = map_for_reading(self._settings.shared / segment_name(making.record.generation))
        verify(mapped, pieces)
        segment = np.frombuffer(mapped, dtype=np.uint8)  # the mapping ends with the last view of it
        with FolderWriter(making.folder, self._plan, _name(self._pod)) as writer:
            writer.write(_boxes(segment, self._placed, pieces, making.give_up))
        return sum(piece.num_bytes for piece in pieces)

    async def _commit(self, making: _Making) -> int:
        num_bytes = 0
        if self.keeps_optimizer:
            order = SaveOptimizer(checkpoint=making.request.path, step=SaveStep.COMMIT)
            num_bytes = (await making.ranks.ask_first(order, Saved)).num_bytes
        writers = [_name(pod) for pod in self._pod.pods()[: 1 if self._pod.is_whole else None]]
        num_bytes += await asyncio.to_thread(commit, making.folder, self._plan, writers)
        self._making = None
        return num_bytes

    async def _give_up(self) -> None:
        """Have whoever still writes an older checkpoint end. The segment may be written then."""
        making, self._making = self._making, None
        if making is None:
            return
        making.give_up.set()
        if making.is_begun.is_set():
            async with asyncio.timeout(HOLD_SECONDS):
                await making.is_read.wait()
        making.is_read.set()

    def _check(self, making: _Making) -> None:
        """Raise where a checkpoint will never be finished."""
        if making.ranks.any_ended:
            raise ChildGone("a trainer rank has ended while its part of a checkpoint was written")
        if self._making is not making:
            raise Conflict(f"{making.request.path} was given up for a newer checkpoint")

    @cached_property
    def _plan(self) -> FolderPlan:
        return plan_folder(self._layout.tensors)

    @cached_property
    def _placed(self) -> dict[str, Placed]:
        return {placed.tensor.name: placed for item in self._layout.parameters for placed in item.tensors}

    @property
    def _origin(self) -> Path:
        return Path(self._settings.config.spec.policy.model.path)

    @property
    def keeps_optimizer(self) -> bool:
        """Whether a checkpoint has the optimizer's state too; then its first step needs ranks on their devices."""
        return not self._settings.config.spec.recipe.objective.reset_optimizer

    @property
    def _is_first(self) -> bool:
        """Whether this pod has the job's first rank."""
        return self._pod.ordinal == 0


@contextmanager
def _told(request: CheckpointRequest) -> Iterator[None]:
    """Say of what is wrong that the checkpoint is not saved."""
    try:
        yield
    except OSError as error:
        raise NotSaved(f"{request.path}: cannot be written ({error.strerror}); free space or permit it") from error
    except _GivenUp:
        raise NotSaved(f"{request.path}: given up, as a newer generation or checkpoint needed its place") from None
    except (FolderIncomplete, BrokenSegment, SegmentError, CommandRefused) as error:
        raise NotSaved(str(error)) from error


def _make(folder: Path, *, with_optimizer: bool) -> None:
    aside = make_aside(folder)
    if with_optimizer:
        make_optimizer_folder(aside)


def _name(pod: PodRanks) -> str:
    return f"pod-{pod.ordinal}"


def _boxes(
    segment: "np.ndarray[tuple[int], np.dtype[np.uint8]]",
    placed: dict[str, Placed],
    pieces: Sequence[Piece],
    give_up: threading.Event,
) -> Iterator[MemoryBox]:
    """Yield the pieces of a segment as boxes of tensors. Raises: _GivenUp once that is wanted."""
    for piece in pieces:
        if give_up.is_set():
            raise _GivenUp
        place = placed[piece.tensor]
        kind = np.dtype(f"u{ITEM_BYTES[place.tensor.dtype]}")
        tensor = segment[place.offset_bytes : place.offset_bytes + place.num_bytes].view(kind)
        box = tuple(slice(start, stop) for start, stop in zip(piece.start, piece.stop, strict=True))
        yield MemoryBox(piece.tensor, piece.start, piece.stop, tensor.reshape(place.tensor.shape)[box])
