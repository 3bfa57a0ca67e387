"""What a trainer's pod puts into its segments, finds there again, and tells the registry."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from tandem_api.job import Phase
from tandem_api.registry import Desired
from tandem_api.weights import Layout, Shard
from tandem_checkpoint.process.commands import Export, Exported
from tandem_checkpoint.process.ranks import RankGroup
from tandem_checkpoint.registry.mirror import mirrored
from tandem_checkpoint.segments.record import read_record, read_records
from tandem_checkpoint.segments.store import segment_name
from tandem_checkpoint.switch.exporting import Exporter
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.transfer.exports import Exports
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.jobs import POD, job_config, settings_of
from tests.tandem_checkpoint.transfer.pods import GENERATION, LAYOUT, export, spoil

KEYS = settings_of(job_config(Path("/policy")), Path("/shared")).keys
LINEAGE = "first"


class ScriptedRanks:
    """Ranks of one pod that write random weights."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.num_exports = 0

    async def ask(self, command: Callable[[int], Export], wanted: type[Exported]) -> list[Exported]:
        self.num_exports += 1
        number = int(Path(command(0).segment).stem.rpartition("-")[2])
        return [wanted(pieces=export(self._folder, self.num_exports, number).pieces)]


@dataclass(slots=True)
class Scene:
    """One pod's exporter over a registry."""

    registry: FakeRegistry
    around: Surroundings
    folder: Path
    ranks: ScriptedRanks
    exporter: Exporter

    async def write(self, generation: int = GENERATION, lineage: str = LINEAGE) -> None:
        await self.exporter.write(generation, lineage, cast("RankGroup", self.ranks))

    def restarted(self) -> Exporter:
        """Return the exporter of a trainer's engine that has started anew in the same pod."""
        self.around.incarnation = "the next one"
        return Exporter(self.around, LAYOUT, Exports(self.folder))

    async def shard(self, generation: int = GENERATION) -> Shard | None:
        raw = await self.registry.get(KEYS.shard(generation, POD, 0))
        return None if raw is None else Shard.model_validate_json(raw)


def word(epoch: int = 7, generation: int = GENERATION, lineage: str = LINEAGE) -> Desired:
    return Desired(
        epoch=epoch, phase=Phase.INFER, generation=generation, iteration=1, deadline=time.time(), lineage=lineage
    )


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Scene]:
    registry = FakeRegistry()
    async with mirrored(registry, KEYS.prefix) as mirror, registry.lease(10) as lease:
        around = Surroundings(settings_of(job_config(Path("/policy")), folder), registry, mirror, lease.id, "first one")
        yield Scene(registry, around, folder, ScriptedRanks(folder), Exporter(around, LAYOUT, Exports(folder)))


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    async with staged(tmp_path) as scene:
        yield scene


async def test_an_export_is_registered_for_the_word_that_asked_for_it(scene: Scene) -> None:
    await scene.write()
    record = await scene.exporter.find(GENERATION, LINEAGE)
    assert record is not None

    await scene.exporter.register(record, epoch=7)

    shard = await scene.shard()
    assert shard is not None
    assert (shard.epoch, shard.lineage, shard.incarnation) == (7, LINEAGE, "first one")
    layout = Layout.model_validate_json(await scene.registry.get(KEYS.layout(GENERATION)) or "")
    assert (layout.lineage, layout.shards) == (LINEAGE, (f"{POD}/0",))


async def test_an_engine_that_starts_anew_finds_what_the_segment_holds(scene: Scene) -> None:
    await scene.write()

    source = await scene.restarted().source_of(word())

    assert source is not None
    assert source.path == str(scene.folder / segment_name(GENERATION))
    assert scene.ranks.num_exports == 1


async def test_what_is_found_again_is_registered_under_the_new_incarnation_for_no_word(scene: Scene) -> None:
    await scene.write()

    await scene.restarted().restore()

    shard = await scene.shard()
    assert shard is not None
    assert (shard.incarnation, shard.epoch) == ("the next one", 0)


@pytest.mark.parametrize(("generation", "lineage"), [(GENERATION + 2, LINEAGE), (GENERATION, "second")])
async def test_a_segment_is_not_taken_for_another_generation_or_lineage(
    scene: Scene, generation: int, lineage: str
) -> None:
    await scene.write()

    assert await scene.exporter.find(generation, lineage) is None


async def test_damaged_bytes_are_not_taken_for_the_generation(scene: Scene) -> None:
    await scene.write()
    spoil(scene.folder)

    assert await scene.restarted().find(GENERATION, LINEAGE) is None


async def test_bytes_are_compared_when_they_are_asked_for_a_second_time(scene: Scene) -> None:
    await scene.write()
    first = await scene.exporter.find(GENERATION, LINEAGE)
    spoil(scene.folder)

    assert first is not None
    assert await scene.exporter.find(GENERATION, LINEAGE) is None


async def test_a_segment_that_is_being_written_holds_nothing(scene: Scene) -> None:
    await scene.write()
    before = read_records(scene.folder)

    class Torn(ScriptedRanks):
        async def ask(self, command: Any, wanted: Any) -> Any:
            assert read_record(scene.folder, GENERATION, LINEAGE) is None
            raise TimeoutError("cut")

    with pytest.raises(TimeoutError):
        await scene.exporter.write(GENERATION + 2, LINEAGE, cast("RankGroup", Torn(scene.folder)))

    assert [record.generation for record in before] == [GENERATION]
    assert read_records(scene.folder) == ()


async def test_the_layout_of_another_lineage_gives_way_to_the_words(scene: Scene) -> None:
    await scene.write(lineage="before")
    await scene.exporter.restore()
    await scene.write(lineage=LINEAGE)
    record = await scene.exporter.find(GENERATION, LINEAGE)
    assert record is not None

    await scene.exporter.register(record, epoch=9)

    layout = Layout.model_validate_json(await scene.registry.get(KEYS.layout(GENERATION)) or "")
    assert layout.lineage == LINEAGE


async def test_what_nobody_asked_for_does_not_displace_another_lineages_layout(scene: Scene) -> None:
    other = Layout(generation=GENERATION, lineage="other", tensors=LAYOUT.tensors, shards=())
    await scene.registry.put(KEYS.layout(GENERATION), other.model_dump_json())
    await scene.write()

    await scene.exporter.restore()

    assert await scene.registry.get(KEYS.layout(GENERATION)) == other.model_dump_json()
    assert await scene.shard() is None


async def test_keys_of_the_generation_before_the_last_are_removed(scene: Scene) -> None:
    desired = word(generation=GENERATION + 2)
    await scene.registry.put(KEYS.desired, desired.model_dump_json())
    await scene.registry.put(KEYS.layout(GENERATION), "old")
    await scene.around.mirror.wait(lambda mirror: KEYS.layout(GENERATION) in mirror.values or None)

    await scene.exporter.forget_old(desired)

    assert await scene.registry.get(KEYS.layout(GENERATION)) is None


async def test_an_exporter_that_acts_on_an_old_word_removes_nothing(scene: Scene) -> None:
    desired = word(generation=GENERATION + 2)
    newer = desired.model_copy(update={"epoch": 8, "generation": GENERATION})
    await scene.registry.put(KEYS.desired, newer.model_dump_json())
    await scene.registry.put(KEYS.layout(GENERATION), "kept")
    await scene.around.mirror.wait(lambda mirror: KEYS.layout(GENERATION) in mirror.values or None)

    await scene.exporter.forget_old(desired)

    assert await scene.registry.get(KEYS.layout(GENERATION)) == "kept"
