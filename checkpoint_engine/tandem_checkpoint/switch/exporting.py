"""What this pod's trainer puts into its segments, and what it tells the registry of them."""

import asyncio
import logging

from tandem_api.registry import Desired
from tandem_api.weights import Layout, Shard
from tandem_checkpoint.process.commands import Export, Exported, SegmentSource
from tandem_checkpoint.process.ranks import RankGroup
from tandem_checkpoint.registry.errors import Fenced
from tandem_checkpoint.registry.store import Absent, Is, Put
from tandem_checkpoint.segments.layout import SegmentLayout
from tandem_checkpoint.segments.manifest import BrokenSegment, verify
from tandem_checkpoint.segments.record import ExportRecord, forget_record, read_record, read_records, write_record
from tandem_checkpoint.segments.store import SegmentError, map_for_reading, segment_name
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.transfer.exports import Exports

logger = logging.getLogger(__name__)

GENERATIONS_KEPT = 2
"""Generations whose keys stay in the registry: as many as there are segments."""


class Exporter:
    """The exports of one pod. A generation is known by its number and its lineage."""

    def __init__(self, around: Surroundings, layout: SegmentLayout, exports: Exports) -> None:
        self._around = around
        self._layout = layout
        self._exports = exports
        self._just_written: ExportRecord | None = None
        """What was written last and not yet asked for: it is not read once more for that."""

    async def find(self, generation: int, lineage: str) -> ExportRecord | None:
        """Return the record of a generation that is in its segment already, byte for byte as the record tells."""
        record = read_record(self._around.settings.shared, generation, lineage)
        just_written, self._just_written = self._just_written, None
        if record is None or record == just_written:
            return record
        return record if await self._is_sound(record) else None

    async def source_of(self, desired: Desired) -> SegmentSource | None:
        """Return where ranks can load the word's generation from; None where its segment holds something else."""
        record = await self.find(desired.generation, desired.lineage)
        if record is None:
            return None
        path = self._around.settings.shared / segment_name(desired.generation)
        return SegmentSource(path=str(path), shards=record.shards)

    async def write(self, generation: int, lineage: str, ranks: RankGroup) -> ExportRecord:
        """Have the ranks write what they hold into the segment that no server has bound."""
        settings, segment = self._around.settings, segment_name(generation)
        self._exports.forget(generation)
        forget_record(settings.shared, generation)
        answers = await ranks.ask(lambda _: Export(segment=str(settings.shared / segment)), Exported)
        shards = tuple(
            Shard(
                generation=generation,
                incarnation=self._around.incarnation,
                lineage=lineage,
                segment=segment,
                segment_bytes=self._layout.num_bytes,
                pieces=answer.pieces,
            )
            for answer in answers
        )
        record = await asyncio.to_thread(write_record, settings.shared, generation, lineage, shards)
        self._just_written = record
        return record

    async def register(self, record: ExportRecord, epoch: int) -> None:
        """Tell the registry and other pods: layout first, then this pod's shards, under this member's lease.

        Args: epoch: that of the master's word which asks for it, and which takes the place of another lineage's
        layout; 0 where nobody does.
        """
        settings, generation = self._around.settings, record.generation
        now = {"incarnation": self._around.incarnation, "epoch": epoch}
        mine = [shard.model_copy(update=now) for shard in record.shards]
        if not await self._register_layout(record, len(mine), replace=epoch > 0):
            return
        self._exports.add(generation, mine)
        puts = [
            self._around.registry.put(
                settings.keys.shard(generation, settings.pod, index), shard.model_dump_json(), lease=self._around.lease
            )
            for index, shard in enumerate(mine)
        ]
        await asyncio.gather(*puts)

    async def restore(self) -> None:
        """Register again what this pod's segments still hold."""
        for record in read_records(self._around.settings.shared):
            if await self._is_sound(record):
                await self.register(record, epoch=0)

    async def forget_old(self, desired: Desired) -> None:
        """Remove the keys of the generation whose segment this one was written into; a stale word removes nothing."""
        settings, old = self._around.settings, desired.generation - GENERATIONS_KEPT
        raw = self._around.mirror.values.get(settings.keys.desired)
        if old < 0 or raw is None or Desired.model_validate_json(raw).epoch != desired.epoch:
            return
        try:
            await self._around.registry.delete(f"{settings.keys.weights}{old}/", [Is(settings.keys.desired, raw)])
        except Fenced:
            logger.info("the keys of generation %d stay: the master has gone on", old)

    async def _is_sound(self, record: ExportRecord) -> bool:
        """Compare every checksum: the engine that wrote the segment may have been killed by anything."""
        try:
            await asyncio.to_thread(self._compare, record)
        except (BrokenSegment, SegmentError) as error:
            logger.warning("generation %d is not taken from the segment: %s", record.generation, error)
            return False
        return True

    def _compare(self, record: ExportRecord) -> None:
        with map_for_reading(self._around.settings.shared / segment_name(record.generation)) as mapped:
            verify(mapped, [piece for shard in record.shards for piece in shard.pieces])

    async def _register_layout(self, record: ExportRecord, num_ranks: int, *, replace: bool) -> bool:
        """Tell whether the layout of this generation and lineage is registered, by whomever."""
        settings, registry = self._around.settings, self._around.registry
        layout = Layout(
            generation=record.generation,
            lineage=record.lineage,
            tensors=self._layout.tensors,
            shards=tuple(f"{pod}/{index}" for pod in settings.config.hybrid_pods for index in range(num_ranks)),
        )
        key = settings.keys.layout(record.generation)
        try:
            await registry.transact([Absent(key)], [Put(key, layout.model_dump_json())])
        except Fenced:
            there = await registry.get(key)
            if there is not None and Layout.model_validate_json(there).lineage == record.lineage:
                return True
            if not replace or there is None:
                return False
            logger.warning("the layout of generation %d was of another lineage; it is replaced", record.generation)
            await registry.transact([Is(key, there)], [Put(key, layout.model_dump_json())])
        return True
