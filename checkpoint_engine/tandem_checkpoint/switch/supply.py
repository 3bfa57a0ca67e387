"""Where a server's weights come from: the trainer of its own pod, or the trainers of other pods."""

import asyncio
import logging
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
from tandem_checkpoint.segments.store import allocate, map_for_reading, map_for_writing, segment_name
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.copies import Copies
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.transfer.exports import Exports, NotHeld
from tandem_checkpoint.transfer.fetch import Fetched, FetchFailed, fetch
from tandem_checkpoint.transfer.http import http_reader
from tandem_checkpoint.transfer.offers import find_copies, find_offers
from tandem_checkpoint.transfer.one_sided import MooncakeReader
from tandem_checkpoint.transfer.plan import Offer, plan_routes

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
"""What a fetch leaves of a switch's time, so that its own words are reported and not just the missed deadline."""
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
    """The weights that this pod's trainer has written; there is nothing to move."""

    def __init__(self, around: Surroundings, layout: SegmentLayout) -> None:
        self._around = around
        self._layout = layout

    async def reserve(self) -> None:
        """Nothing: the trainer reserves the segments that it writes."""

    async def gather(self, desired: Desired, stopwatch: Stopwatch) -> Manifest:
        settings = self._around.settings
        with stopwatch.wait("shards"):
            shards = await self._around.mirror.wait(lambda mirror: self._own_shards(mirror, desired))
        return manifest_of(self._layout, shards, str(settings.shared / shards[0].segment))

    async def check(self, desired: Desired, manifest: Manifest, stopwatch: Stopwatch) -> None:
        with stopwatch.stage("verify"):
            await asyncio.to_thread(_verify, manifest)
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
        self._copies = Copies(around)
        self._ahead: asyncio.Task[Fetched] | None = None
        """A fetch that no switch waits for."""
        self.exports = Exports(around.settings.shared)
        """What was fetched, each generation as one shard."""

    async def reserve(self) -> None:
        await asyncio.to_thread(allocate, self._around.settings.shared, self._layout.num_bytes)

    async def gather(self, desired: Desired, stopwatch: Stopwatch) -> Manifest:
        settings, generation = self._around.settings, desired.generation
        with stopwatch.wait("published"):
            offers = await self._offers(desired, _seconds_left(desired))
        with stopwatch.stage("fetch"):
            await self._take_over(generation, _seconds_left(desired))
            pieces = await self._find_here(generation, offers)
            if pieces is None:
                pieces = (await self._fetch(generation, desired.lineage, offers, _seconds_left(desired))).pieces
            else:
                await self._copies.offer(generation, pieces)
        path = settings.shared / segment_name(generation)
        return manifest_of_pieces(self._layout, generation, pieces, str(path))

    async def check(self, desired: Desired, manifest: Manifest, stopwatch: Stopwatch) -> None:
        """Nothing more: it was published before it was fetched, and compared on arrival."""

    async def fetch_ahead(self, generation: int) -> FetchedWeights:
        """Bring a published generation here before any switch asks for it; one that does meanwhile takes this over.

        Errors: Conflict where it is not published, or another fetch runs; FetchFailed, SegmentError.
        """
        lineage, offers = self._published_offers(generation)
        began = time.perf_counter()
        if await self._find_here(generation, offers) is not None:
            return FetchedWeights(generation=generation, num_bytes=0, sources=(), seconds=time.perf_counter() - began)
        if self._ahead is not None:
            raise Conflict("another generation is being fetched now; ask again when it is here")
        name = _ahead_name(generation)
        self._ahead = task = asyncio.create_task(self._fetch(generation, lineage, offers, AHEAD_SECONDS), name=name)
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

    async def _find_here(self, generation: int, offers: Sequence[Offer]) -> tuple[Piece, ...] | None:
        """Return the pieces of a generation that was fetched before, is still offered, and is still as it came."""
        try:
            held = self.exports.get(generation)
        except NotHeld:
            return None
        if not any(set(offer.pieces) == set(held.pieces) for offer in offers):
            return None
        return held.pieces if (await self.exports.verify(generation)).is_intact else None

    def _published_offers(self, generation: int) -> tuple[str, tuple[Offer, ...]]:
        """Return the lineage of a published generation, and who has all of it. Errors: Conflict, FetchFailed."""
        values, keys = self._around.mirror.values, self._around.settings.keys
        published, layout = values.get(keys.published), values.get(keys.layout(generation))
        if published is None or int(published) < generation:
            raise Conflict(f"generation {generation} is not published; the newest one that is: {published or 'none'}")
        offers = find_offers(values, keys, generation, self._layout)
        if layout is None or not offers:
            raise FetchFailed(
                f"generation {generation}: no hybrid pod has all its pieces any more; ask for {published}"
            )
        return Layout.model_validate_json(layout).lineage, offers

    async def _offers(self, desired: Desired, seconds: float) -> tuple[Offer, ...]:
        generation = desired.generation

        def find(mirror: Mirror) -> tuple[Offer, ...] | None:
            if not is_published(self._around, mirror, desired):
                return None
            return find_offers(mirror.values, self._around.settings.keys, generation, self._layout) or None

        try:
            async with asyncio.timeout(seconds):
                return await self._around.mirror.wait(find)
        except TimeoutError:
            raise FetchFailed(
                f"generation {generation}: within {seconds:.1f} s it was not published with all its pieces in one "
                "hybrid pod; look at the logs of the trainers"
            ) from None

    async def _fetch(self, generation: int, lineage: str, offers: tuple[Offer, ...], seconds: float) -> Fetched:
        settings = self._around.settings
        copies = find_copies(self._around.mirror.values, settings.keys, generation, offers, settings.pod)
        routes = plan_routes((*offers, *copies), settings.pod)
        began = time.perf_counter()
        await self._vacate(generation)
        # The mapping goes with its last view: a thread may still be comparing checksums when a switch is given up.
        into = map_for_writing(settings.shared / segment_name(generation))
        async with http_reader(settings.token, settings.trust) as plain:
            mooncake = self._around.mooncake
            reader = MooncakeReader(mooncake, plain) if mooncake else plain
            fetched = await fetch(routes, generation, reader, into, seconds)
        took_seconds = time.perf_counter() - began
        self._around.metrics.fetched(fetched.num_bytes, took_seconds)
        self.exports.add(generation, [self._shard(generation, lineage, fetched.pieces)])
        await self._copies.offer(generation, fetched.pieces)
        logger.info(
            "generation %d: fetched %d bytes in %d ranges from %s in %.2f s",
            *(generation, fetched.num_bytes, fetched.num_extents),
            *(", ".join(map(str, fetched.sources)), took_seconds),
        )
        return fetched

    async def _vacate(self, generation: int) -> None:
        """Stop giving on what is in the segment that a generation will be written into."""
        for held in self.exports.list():
            if held.path.name == segment_name(generation):
                await self._copies.withdraw(held.weights.generation)
        self.exports.forget(generation)

    def _shard(self, generation: int, lineage: str, pieces: tuple[Piece, ...]) -> Shard:
        """Return what was fetched as one shard of this pod's own."""
        return Shard(
            generation=generation,
            incarnation=self._around.incarnation,
            lineage=lineage,
            segment=segment_name(generation),
            segment_bytes=self._layout.num_bytes,
            pieces=pieces,
        )


def is_published(around: Surroundings, mirror: Mirror, desired: Desired) -> bool:
    """Tell whether the master has published the word's generation, in the word's lineage."""
    keys = around.settings.keys
    raw = mirror.values.get(keys.layout(desired.generation))
    is_lineage = raw is not None and Layout.model_validate_json(raw).lineage == desired.lineage
    return is_lineage and mirror.values.get(keys.published) == str(desired.generation)


def _ahead_name(generation: int) -> str:
    return f"fetch generation {generation} ahead"


def _verify(manifest: Manifest) -> None:
    with map_for_reading(Path(manifest.segment)) as mapped:
        verify(mapped, manifest.pieces)


def _seconds_left(desired: Desired) -> float:
    return max(REPORT_SECONDS / 2, desired.deadline - time.time() - REPORT_SECONDS)
