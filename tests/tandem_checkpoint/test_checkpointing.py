"""A checkpoint in the making: written from the segment beside everything else, and never half there."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typing_extensions import Buffer

from tandem_api.engine import CheckpointRequest, CheckpointStep, SaveResponse
from tandem_api.job.recipe import ObjectiveSpec
from tandem_api.weights import Piece, Shard
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.disk.index import read_index
from tandem_checkpoint.disk.memory_box import MemoryBox
from tandem_checkpoint.disk.optimizer_folder import FOLDER, leave_failure, leave_receipt
from tandem_checkpoint.disk.reading import FolderReader
from tandem_checkpoint.disk.replacing import aside_of
from tandem_checkpoint.disk.writing import FolderWriter
from tandem_checkpoint.layouts.place import TrainerSplit
from tandem_checkpoint.layouts.pod import PodRanks
from tandem_checkpoint.process.commands import FolderSource, RankPlace
from tandem_checkpoint.process.leftovers import Sweeper
from tandem_checkpoint.process.ranks import RankGroup
from tandem_checkpoint.segments.layout import SegmentLayout, segment_layout
from tandem_checkpoint.segments.manifest import checksum_of
from tandem_checkpoint.segments.record import ExportRecord
from tandem_checkpoint.segments.store import allocate, map_for_writing, segment_name
from tandem_checkpoint.switch import checkpointing
from tandem_checkpoint.switch.checkpointing import CheckpointWriter, NotSaved
from tests.tandem_checkpoint.jobs import job_config, settings_of
from tests.tandem_checkpoint.policies import SMALL, write_config

GENERATION = 4
SHORT = 0.05
ALONE = RankPlace(rank=0, world_size=1, local_rank=0, rendezvous_address="127.0.0.1", rendezvous_port=0)
STEPS = (CheckpointStep.PREPARE, CheckpointStep.WRITE, CheckpointStep.COMMIT)


@dataclass(slots=True)
class Scene:
    """A trainer's pod whose segment holds a generation, without ranks."""

    folder: Path
    writer: CheckpointWriter
    record: ExportRecord
    ranks: RankGroup

    async def take(self, step: CheckpointStep, name: str = "new") -> SaveResponse:
        request = CheckpointRequest(path=str(self.folder / name), generation=GENERATION, step=step)
        if step is CheckpointStep.BEGIN:
            return await self.writer.begin(request, self.record, self.ranks)
        return await self.writer.go_on(request)

    async def take_all(self, name: str = "new") -> None:
        await self.take(CheckpointStep.BEGIN, name)
        await self.take(CheckpointStep.PREPARE, name)
        await self.take(CheckpointStep.WRITE, name)
        await self.take(CheckpointStep.COMMIT, name)

    def damage(self) -> None:
        """Change a byte of the segment."""
        with map_for_writing(self.folder / segment_name(GENERATION)) as mapped:
            mapped[self.record.shards[0].pieces[-1].offset_bytes] ^= 1


def fill(folder: Path, layout: SegmentLayout) -> ExportRecord:
    """Write random weights into the segment; return what is to be known of them."""
    allocate(folder, layout.num_bytes)
    with map_for_writing(folder / segment_name(GENERATION)) as mapped:
        mapped[:] = np.random.default_rng(1).integers(0, 255, layout.num_bytes, np.uint8).tobytes()
        pieces = tuple(pieces_of(layout, mapped))
    shard = Shard(
        generation=GENERATION,
        incarnation="a",
        segment=segment_name(GENERATION),
        segment_bytes=layout.num_bytes,
        pieces=pieces,
    )
    return ExportRecord(generation=GENERATION, lineage="first", shards=(shard,))


def pieces_of(layout: SegmentLayout, segment: Buffer) -> Iterator[Piece]:
    """Yield every tensor as one piece, but the last one as two: its left and its right columns."""
    placed = [item for parameter in layout.parameters for item in parameter.tensors]
    whole = [(item, (0,) * len(item.tensor.shape), item.tensor.shape) for item in placed[:-1]]
    rows, columns = placed[-1].tensor.shape
    halves = [(placed[-1], (0, 0), (rows, 16)), (placed[-1], (0, 16), (rows, columns))]
    for item, start, stop in whole + halves:
        piece = item.piece_of(start, stop)
        yield piece.model_copy(update={"xxh3": checksum_of(segment, piece)})


def content(folder: Path) -> dict[str, bytes]:
    """Return every tensor of a policy's folder."""
    index = read_index(folder)
    arrays = {name: np.empty(tensor.shape, np.float32) for name, tensor in index.tensors.items()}
    with FolderReader(index) as reader:
        reader.read(MemoryBox(name, (0,) * array.ndim, array.shape, array) for name, array in arrays.items())
    return {name: array.tobytes() for name, array in arrays.items()}


def scene_of(folder: Path, ranks: RankGroup, *, resets: bool) -> Scene:
    layout = segment_layout(SMALL, "float32")
    config = job_config(write_config(folder / "policy"), objective=ObjectiveSpec(reset_optimizer=resets))
    writer = CheckpointWriter(settings_of(config, folder), PodRanks(TrainerSplit(), 1), layout)
    return Scene(folder, writer, fill(folder, layout), ranks)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return scene_of(tmp_path, RankGroup([], Sweeper()), resets=True)


@pytest.fixture
async def keeping(tmp_path: Path) -> AsyncIterator[Scene]:
    """A scene whose job keeps the optimizer's state, with a rank that writes what a test says it does."""
    argv = [sys.executable, "-m", "tests.tandem_checkpoint.programs.rank", "obey"]
    ranks = await RankGroup.start(argv, dict(os.environ), num_ranks=1, inherit=())
    try:
        await ranks.build([ALONE], FolderSource(path="/policy"))
        yield scene_of(tmp_path, ranks, resets=False)
    finally:
        await ranks.kill()


async def test_a_checkpoint_has_the_very_bytes_of_the_segment(scene: Scene) -> None:
    segment = (scene.folder / segment_name(GENERATION)).read_bytes()
    placed = [item for parameter in segment_layout(SMALL, "float32").parameters for item in parameter.tensors]

    await scene.take_all()

    expected = {item.tensor.name: segment[item.offset_bytes : item.offset_bytes + item.num_bytes] for item in placed}
    assert content(scene.folder / "new") == expected
    assert (scene.folder / "new" / "config.json").is_file()


async def test_before_the_last_step_there_is_nothing_in_its_place(scene: Scene) -> None:
    await scene.take(CheckpointStep.BEGIN)
    await scene.take(CheckpointStep.PREPARE)
    await scene.take(CheckpointStep.WRITE)

    assert not (scene.folder / "new").exists()
    assert aside_of(scene.folder / "new").is_dir()


async def test_a_checkpoint_that_was_not_written_whole_is_not_put_in_its_place(scene: Scene) -> None:
    await scene.take(CheckpointStep.BEGIN)
    await scene.take(CheckpointStep.PREPARE)

    with pytest.raises(NotSaved, match="pod-0 has not written its part"):
        await scene.take(CheckpointStep.COMMIT)

    assert not (scene.folder / "new").exists()


async def test_damaged_bytes_are_not_saved(scene: Scene) -> None:
    await scene.take(CheckpointStep.BEGIN)
    await scene.take(CheckpointStep.PREPARE)
    scene.damage()

    with pytest.raises(NotSaved, match="checksum"):
        await scene.take(CheckpointStep.WRITE)


@pytest.mark.parametrize("step", STEPS)
async def test_what_was_not_begun_here_is_not_gone_on_with(scene: Scene, step: CheckpointStep) -> None:
    await scene.take(CheckpointStep.BEGIN, "other")

    with pytest.raises(Conflict, match="has not begun this checkpoint"):
        await scene.take(step)


async def test_a_generation_that_needs_the_segment_waits_until_it_is_read(scene: Scene) -> None:
    await scene.take(CheckpointStep.BEGIN)
    await scene.take(CheckpointStep.PREPARE)
    waiting = asyncio.create_task(scene.writer.released(GENERATION + 2))
    await scene.writer.released(GENERATION + 1)
    done_before, _ = await asyncio.wait({waiting}, timeout=SHORT)

    await scene.take(CheckpointStep.WRITE)
    await waiting

    assert not done_before
    await scene.take(CheckpointStep.COMMIT)


async def test_a_checkpoint_that_nobody_goes_on_with_holds_the_segment_for_a_while_only(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpointing, "HOLD_SECONDS", SHORT)
    await scene.take(CheckpointStep.BEGIN)

    await scene.writer.released(GENERATION + 2)

    with pytest.raises(Conflict):
        await scene.take(CheckpointStep.WRITE)


async def test_a_later_checkpoint_takes_the_place_of_one_that_is_still_written(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scene.take(CheckpointStep.BEGIN, "older")
    await scene.take(CheckpointStep.PREPARE, "older")
    write = FolderWriter.write
    reached = asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(self: FolderWriter, boxes: Iterator[MemoryBox]) -> None:
        write(self, [next(boxes)])
        loop.call_soon_threadsafe(reached.set)
        asyncio.run(asyncio.sleep(5 * SHORT))
        write(self, boxes)

    monkeypatch.setattr(FolderWriter, "write", slow)
    writing = asyncio.create_task(scene.take(CheckpointStep.WRITE, "older"))
    await reached.wait()
    monkeypatch.setattr(FolderWriter, "write", write)

    await scene.take_all()

    with pytest.raises(NotSaved, match="given up"):
        await writing
    assert (scene.folder / "new").is_dir()
    assert not (scene.folder / "older").exists()


async def test_the_policy_counts_as_written_once_the_ranks_have_written_the_optimizers_state_too(
    keeping: Scene,
) -> None:
    await keeping.take(CheckpointStep.BEGIN)
    await keeping.take(CheckpointStep.PREPARE)
    writing = asyncio.create_task(keeping.take(CheckpointStep.WRITE))
    done_before, _ = await asyncio.wait({writing}, timeout=4 * SHORT)

    leave_receipt(aside_of(keeping.folder / "new") / FOLDER, 0, [])

    assert (await writing).num_bytes > 0
    assert not done_before


async def test_a_rank_that_cannot_write_is_heard_of(keeping: Scene) -> None:
    await keeping.take(CheckpointStep.BEGIN)
    await keeping.take(CheckpointStep.PREPARE)
    leave_failure(aside_of(keeping.folder / "new") / FOLDER, 0, "No space left on device")

    with pytest.raises(NotSaved, match="rank 0 could not write its part: No space left on device"):
        await keeping.take(CheckpointStep.WRITE)
