"""Where a server's weights come from: the trainer of its own pod, or the trainers of other pods."""

import asyncio
import logging
import time
from typing import Protocol

from tandem_api.registry import Desired
from tandem_api.weights import Layout, Shard
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.segments.layout import SegmentLayout
from tandem_checkpoint.segments.manifest import Manifest, manifest_of, manifest_of_pieces
from tandem_checkpoint.segments.store import allocate, map_for_writing, segment_name
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.switch.stopwatch import Stopwatch
from tandem_checkpoint.transfer.fetch import Fetched, FetchFailed, fetch
from tandem_checkpoint.transfer.http import http_reader
from tandem_checkpoint.transfer.offers import find_offers
from tandem_checkpoint.transfer.plan import Offer, plan_routes

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
"""What a fetch leaves of a switch's time, so that its own words are reported and not just the missed deadline."""


class Supply(Protocol):
    """Brings a generation into a segment of this pod."""

    async def reserve(self) -> None:
        """Make room for what will come. Errors: SegmentError."""
        ...

    async def bring(self, desired: Desired, stopwatch: Stopwatch) -> Manifest:
        """Return what there is to bind, once the desired generation is published and all of it is in this pod.

        Errors: BrokenSegment, FetchFailed.
        """
        ...


class OwnPod:
    """The weights that this pod's trainer has written; there is nothing to move."""

    def __init__(self, around: Surroundings, layout: SegmentLayout) -> None:
        self._around = around
        self._layout = layout

    async def reserve(self) -> None:
        """Nothing: the trainer reserves the segments that it writes."""

    async def bring(self, desired: Desired, stopwatch: Stopwatch) -> Manifest:
        settings, generation = self._around.settings, desired.generation
        await self._around.mirror.wait(lambda mirror: self._is_complete(mirror, generation))
        own = self._around.mirror.under(f"{settings.keys.shards(generation)}{settings.pod}/")
        shards = [Shard.model_validate_json(raw) for raw in own.values()]
        return manifest_of(self._layout, shards, str(settings.shared / shards[0].segment))

    def _is_complete(self, mirror: Mirror, generation: int) -> bool | None:
        """Tell (True) that a generation is published and that this pod's own shards are registered."""
        settings = self._around.settings
        if not _is_published(self._around, mirror, generation):
            return None
        raw = mirror.values.get(settings.keys.layout(generation))
        if raw is None:
            return None
        wanted = [name for name in Layout.model_validate_json(raw).shards if name.startswith(f"{settings.pod}/")]
        shards = mirror.under(settings.keys.shards(generation))
        return True if all(f"{settings.keys.shards(generation)}{name}" in shards for name in wanted) else None


class OtherPods:
    """The weights that trainers of other pods have written, fetched into segments of this pod's own."""

    def __init__(self, around: Surroundings, layout: SegmentLayout) -> None:
        self._around = around
        self._layout = layout

    async def reserve(self) -> None:
        await asyncio.to_thread(allocate, self._around.settings.shared, self._layout.num_bytes)

    async def bring(self, desired: Desired, stopwatch: Stopwatch) -> Manifest:
        settings, generation = self._around.settings, desired.generation
        offers = await self._offers(generation, _seconds_left(desired))
        with stopwatch.stage("fetch"):
            fetched = await self._fetch(generation, offers, _seconds_left(desired))
        path = settings.shared / segment_name(generation)
        return manifest_of_pieces(self._layout, generation, fetched.pieces, str(path))

    async def _offers(self, generation: int, seconds: float) -> tuple[Offer, ...]:
        def find(mirror: Mirror) -> tuple[Offer, ...] | None:
            if not _is_published(self._around, mirror, generation):
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

    async def _fetch(self, generation: int, offers: tuple[Offer, ...], seconds: float) -> Fetched:
        settings = self._around.settings
        routes = plan_routes(offers, settings.pod)
        began = time.perf_counter()
        # The mapping goes with its last view: a thread may still be comparing checksums when a switch is given up.
        into = map_for_writing(settings.shared / segment_name(generation))
        async with http_reader(settings.token) as reader:
            fetched = await fetch(routes, generation, reader, into, seconds)
        logger.info(
            "generation %d: fetched %d bytes in %d ranges from %s in %.2f s",
            *(generation, fetched.num_bytes, fetched.num_extents),
            *(", ".join(map(str, fetched.sources)), time.perf_counter() - began),
        )
        return fetched


def _is_published(around: Surroundings, mirror: Mirror, generation: int) -> bool:
    return mirror.values.get(around.settings.keys.published) == str(generation)


def _seconds_left(desired: Desired) -> float:
    return max(REPORT_SECONDS / 2, desired.deadline - time.time() - REPORT_SECONDS)
