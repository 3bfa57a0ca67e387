"""What a pod's segment lacks of a published generation, brought from the segments of other pods."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence

from tandem_api.registry import Desired
from tandem_api.weights import Layout, Piece, Shard
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.segments.layout import SegmentLayout
from tandem_checkpoint.segments.store import map_for_writing, segment_name
from tandem_checkpoint.switch.copies import Copies
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.transfer.exports import Exports, NotHeld
from tandem_checkpoint.transfer.fetch import Fetched, FetchFailed, fetch
from tandem_checkpoint.transfer.http import http_reader
from tandem_checkpoint.transfer.offers import find_copies, find_offers, find_peers
from tandem_checkpoint.transfer.one_sided import MooncakeReader
from tandem_checkpoint.transfer.plan import Offer, Route, plan_routes

logger = logging.getLogger(__name__)

REPORT_SECONDS = 1.0
"""What a fetch leaves of a switch's time, so that its own words are reported and not just the missed deadline."""


class Haul:
    """The fetches of one pod: of all of a generation, or of what its own trainer has not written."""

    def __init__(self, around: Surroundings, layout: SegmentLayout) -> None:
        self._around = around
        self._layout = layout
        self._copies = None if around.settings.is_hybrid else Copies(around)
        """What others are told of it: a hybrid pod's own part is told by its trainer, and that must do."""
        self.exports = Exports(around.settings.shared)
        """What is here now, each generation as one shard."""

    async def offers(self, desired: Desired) -> tuple[Offer, ...]:
        """Return who has what of the word's generation, once it is published. Errors: FetchFailed."""
        keys, generation, seconds = self._around.settings.keys, desired.generation, seconds_left(desired)

        def find(mirror: Mirror) -> tuple[Offer, ...] | None:
            if not is_published(self._around, mirror, desired):
                return None
            return find_offers(mirror.values, keys, generation, self._layout, desired.lineage) or None

        try:
            async with asyncio.timeout(seconds):
                return await self._around.mirror.wait(find)
        except TimeoutError:
            raise FetchFailed(
                f"generation {generation}: within {seconds:.1f} s it was not published with all its pieces in hybrid "
                "pods; look at the logs of the trainers"
            ) from None

    def published_offers(self, generation: int) -> tuple[str, tuple[Offer, ...]]:
        """Return the lineage of a published generation, and who has what of it. Errors: Conflict, FetchFailed."""
        values, keys = self._around.mirror.values, self._around.settings.keys
        published, raw = values.get(keys.published), values.get(keys.layout(generation))
        if published is None or int(published) < generation:
            raise Conflict(f"generation {generation} is not published; the newest one that is: {published or 'none'}")
        lineage = Layout.model_validate_json(raw).lineage if raw else ""
        offers = find_offers(values, keys, generation, self._layout, lineage) if raw else ()
        if not offers:
            raise FetchFailed(
                f"generation {generation}: hybrid pods have not all its pieces any more; ask for {published}"
            )
        return lineage, offers

    async def find_here(self, generation: int, offers: Sequence[Offer]) -> tuple[Piece, ...] | None:
        """Return the pieces of a generation that was brought before, is still offered, and is still as it came."""
        try:
            held = self.exports.get(generation)
        except NotHeld:
            return None
        routes = await asyncio.to_thread(plan_routes, offers, self._around.settings.pod)
        if not any(set(route.pieces) == set(held.pieces) for route in routes):
            return None
        if not (await self.exports.verify(generation)).is_intact:
            return None
        await self._tell(generation, held.pieces)
        return held.pieces

    async def bring(self, desired: Desired, offers: Sequence[Offer]) -> tuple[Piece, ...]:
        """Return the pieces of all of the word's generation, once they are in this pod. Errors as for `fetch`."""
        here = await self.find_here(desired.generation, offers)
        if here is not None:
            return here
        return (await self.fetch(desired.generation, desired.lineage, offers, seconds_left(desired))).pieces

    async def fetch(self, generation: int, lineage: str, offers: Sequence[Offer], seconds: float) -> Fetched:
        """Bring what is lacking of a generation; return all of it. Errors: FetchFailed, SegmentError."""
        settings = self._around.settings
        values = dict(self._around.mirror.values)  # that one changes while the thread looks at it
        routes = await asyncio.to_thread(self._routes, generation, offers, values)
        began = time.perf_counter()
        await self._vacate(generation)
        # The mapping goes with its last view: a thread may still be comparing checksums when a switch is given up.
        into = map_for_writing(settings.shared / segment_name(generation))
        async with http_reader(settings.token, settings.trust) as plain:
            mooncake = self._around.mooncake
            reader = MooncakeReader(mooncake, plain) if mooncake else plain
            fetched = await fetch(routes, generation, reader, into, seconds)
        took_seconds = time.perf_counter() - began
        self._around.metrics.fetched(fetched.num_read_bytes, took_seconds)
        self.exports.add(generation, [self._shard(generation, lineage, fetched.pieces)])
        await self._tell(generation, fetched.pieces)
        logger.info(
            "generation %d: fetched %d bytes in %d ranges from %s in %.2f s",
            *(generation, fetched.num_read_bytes, fetched.num_extents),
            *(", ".join(map(str, fetched.sources)), took_seconds),
        )
        return fetched

    def _routes(self, generation: int, offers: Sequence[Offer], values: Mapping[str, str]) -> tuple[Route, ...]:
        """Return the ways to what is lacking, planned as those pods do that read at the same time."""
        settings = self._around.settings
        copies = find_copies(values, settings.keys, generation, offers, settings.pod)
        peers = find_peers(values, settings.keys, settings.config.hybrid_pods)
        return plan_routes((*offers, *copies), settings.pod, peers=peers)

    async def _tell(self, generation: int, pieces: Sequence[Piece]) -> None:
        if self._copies is not None:
            await self._copies.offer(generation, pieces)

    async def _vacate(self, generation: int) -> None:
        """Stop giving on what is in the segment that a generation will be written into."""
        for held in self.exports.list():
            if self._copies is not None and held.path.name == segment_name(generation):
                await self._copies.withdraw(held.weights.generation)
        self.exports.forget(generation)

    def _shard(self, generation: int, lineage: str, pieces: tuple[Piece, ...]) -> Shard:
        """Return what is here as one shard of this pod's own."""
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


def seconds_left(desired: Desired) -> float:
    """Return how long a fetch may take, so that there is time to tell of it."""
    return max(REPORT_SECONDS / 2, desired.deadline - time.time() - REPORT_SECONDS)
