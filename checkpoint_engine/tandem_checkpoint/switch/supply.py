"""Where a server's weights come from: the trainer of its own pod, and the trainers of other pods."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tandem_api.engine import FetchedWeights
from tandem_api.registry import Desired
from tandem_api.weights import Layout, Piece, Shard
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.segments.layout import SegmentLayout
from tandem_checkpoint.segments.manifest import Manifest, manifest_of, manifest_of_pieces, verify
from tandem_checkpoint.segments.store import allocate, map_for_reading, segment_name
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.crew import pod_ranks
from tandem_checkpoint.switch.haul import Haul, is_published, seconds_left
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.transfer.exports import Exports
from tandem_checkpoint.transfer.fetch import Fetched

AHEAD_SECONDS = 300.0
"""Time of a fetch that no switch waits for."""


class Supply(Protocol):
    """Brings a generation into a segment of this pod."""

    async def reserve(self) -> None:
        """Make room for what will come. Errors: SegmentError."""
        ...

    async def gather(self, desired: Desired, stopwatch: Stopwatch) -> Manifest:
        """Return what there is to bind, once all of the word's generation is in this pod.

        Errors: BrokenSegment, FetchFailed.
        """
        ...

    async def check(self, desired: Desired, manifest: Manifest, stopwatch: Stopwatch) -> None:
        """Return once the generation is published and every checksum has been compared. Errors: BrokenSegment."""
        ...


class OwnPod:
    """The weights that this pod's trainer has written.

    Where models span pods, that is a part of them; the rest is brought from other pods into the same segment.
    """

    def __init__(self, around: Surroundings, layout: SegmentLayout) -> None:
        self._around = around
        self._layout = layout
        self._haul = None if pod_ranks(around.settings).is_whole else Haul(around, layout)
        self._written: tuple[Piece, ...] = ()
        """What the trainer wrote of the generation that was gathered last."""

    async def reserve(self) -> None:
        """Nothing: the trainer reserves the segments that it writes."""

    async def gather(self, desired: Desired, stopwatch: Stopwatch) -> Manifest:
        settings = self._around.settings
        with stopwatch.wait("shards"):
            shards = await self._around.mirror.wait(lambda mirror: self._own_shards(mirror, desired))
        self._written = tuple(piece for shard in shards for piece in shard.pieces)
        path = str(settings.shared / shards[0].segment)
        if self._haul is None:
            return manifest_of(self._layout, shards, path)
        with stopwatch.wait("published"):
            offers = await self._haul.offers(desired)
        with stopwatch.stage("fetch"):
            pieces = await self._haul.bring(desired, offers)
        return manifest_of_pieces(self._layout, desired.generation, pieces, path)

    async def check(self, desired: Desired, manifest: Manifest, stopwatch: Stopwatch) -> None:
        """What came from other pods was compared on arrival."""
        with stopwatch.stage("verify"):
            await asyncio.to_thread(_verify, manifest, self._written)
        with stopwatch.wait("published"):
            await self._around.mirror.wait(lambda mirror: is_published(self._around, mirror, desired) or None)

    def _own_shards(self, mirror: Mirror, desired: Desired) -> Sequence[Shard] | None:
        """Return this pod's shards of just this generation, once all that the layout names are registered."""
        keys, pod = self._around.settings.keys, self._around.settings.pod
        raw = mirror.values.get(keys.layout(desired.generation))
        layout = Layout.model_validate_json(raw) if raw else None
        if layout is None or layout.lineage != desired.lineage:
            return None
        wanted = [name for name in layout.shards if name.startswith(f"{pod}/")]
        texts = [mirror.values.get(f"{keys.shards(desired.generation)}{name}") for name in wanted]
        shards = [Shard.model_validate_json(text) for text in texts if text]
        due = [shard for shard in shards if shard.lineage == desired.lineage and shard.epoch >= desired.epoch]
        return due if len(due) == len(wanted) else None


class OtherPods:
    """The weights that trainers of other pods have written, fetched into segments of this pod's own and given on."""

    def __init__(self, around: Surroundings, layout: SegmentLayout) -> None:
        self._around = around
        self._layout = layout
        self._haul = Haul(around, layout)
        self._ahead: asyncio.Task[Fetched] | None = None
        """A fetch that no switch waits for."""

    @property
    def exports(self) -> Exports:
        """Return what was fetched, each generation as one shard."""
        return self._haul.exports

    async def reserve(self) -> None:
        await asyncio.to_thread(allocate, self._around.settings.shared, self._layout.num_bytes)

    async def gather(self, desired: Desired, stopwatch: Stopwatch) -> Manifest:
        with stopwatch.wait("published"):
            offers = await self._haul.offers(desired)
        with stopwatch.stage("fetch"):
            await self._take_over(desired.generation, seconds_left(desired))
            pieces = await self._haul.bring(desired, offers)
        path = self._around.settings.shared / segment_name(desired.generation)
        return manifest_of_pieces(self._layout, desired.generation, pieces, str(path))

    async def check(self, desired: Desired, manifest: Manifest, stopwatch: Stopwatch) -> None:
        """Nothing more: it was published before it was fetched, and compared on arrival."""

    async def fetch_ahead(self, generation: int) -> FetchedWeights:
        """Bring a published generation here before any switch asks for it; one that does meanwhile takes this over.

        Errors: Conflict where it is not published, or another fetch runs; FetchFailed, SegmentError.
        """
        lineage, offers = self._haul.published_offers(generation)
        began = time.perf_counter()
        if await self._haul.find_here(generation, offers) is not None:
            return FetchedWeights(generation=generation, num_bytes=0, sources=(), seconds=time.perf_counter() - began)
        if self._ahead is not None:
            raise Conflict("another generation is being fetched now; ask again when it is here")
        work = self._haul.fetch(generation, lineage, offers, AHEAD_SECONDS)
        self._ahead = task = asyncio.create_task(work, name=_ahead_name(generation))
        try:
            await asyncio.wait({task})
        finally:
            task.cancel()
            self._ahead = None if self._ahead is task else self._ahead
        if task.cancelled():
            raise Conflict("a switch has begun, to another generation; ask again after it")
        return FetchedWeights(
            generation=generation,
            num_bytes=task.result().num_bytes,
            sources=tuple(map(str, task.result().sources)),
            seconds=time.perf_counter() - began,
        )

    async def _take_over(self, generation: int, seconds: float) -> None:
        """Wait for what is fetched ahead where it is this generation; end it where it is another one, or too slow."""
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return
        if ahead.get_name() == _ahead_name(generation):
            await asyncio.wait({ahead}, timeout=seconds)
        ahead.cancel()
        await asyncio.wait({ahead})


def _ahead_name(generation: int) -> str:
    return f"fetch generation {generation} ahead"


def _verify(manifest: Manifest, pieces: Sequence[Piece]) -> None:
    with map_for_reading(Path(manifest.segment)) as mapped:
        verify(mapped, pieces)
