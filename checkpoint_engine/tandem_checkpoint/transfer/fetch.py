"""One generation on its way from other pods into a segment of this one, every checksum compared on arrival."""

import asyncio
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from typing_extensions import Buffer

from tandem_api.weights import Piece
from tandem_checkpoint.segments.manifest import BrokenSegment, verify
from tandem_checkpoint.transfer.plan import Extent, Route, Source
from tandem_checkpoint.transfer.reader import SegmentReader, SourceBusy, SourceFailed

logger = logging.getLogger(__name__)

NUM_STREAMS = 8
"""Extents on their way at once, from all sources together."""
STREAMS_PER_SOURCE = 2
"""Extents on their way at once from one source: it has other work, and other readers."""
LOOK_AHEAD = 2 * NUM_STREAMS
"""Extents that a stream considers when it looks for one whose source has a stream to spare."""
NUM_ROUNDS = 2
"""How often an extent is asked of every source before it is given up."""
PAUSE_SECONDS = 0.5
"""Pause between two rounds, and before a source that had no stream to spare is asked again."""
EXTENT_SECONDS = 10.0
"""Deadline of one extent, to which comes the time for its bytes."""
LEAST_BYTES_PER_SECOND = 8 << 20
"""A source that is slower than this is given up."""
NAMED = 3
"""Tensors that an error names."""


class FetchFailed(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """A generation could not be fetched from any source; the message names pieces, sources and causes."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What one fetch brought."""

    pieces: tuple[Piece, ...]
    num_bytes: int
    num_extents: int
    sources: tuple[Source, ...]
    """Those that gave bytes, by name."""


async def fetch(
    routes: Sequence[Route], generation: int, reader: SegmentReader, into: Buffer, deadline_seconds: float
) -> Fetched:
    """Fill `into`, laid out as the sources' segments, with a generation; FetchFailed where no route leads there."""
    failures: dict[Source, str] = {}
    missing: Sequence[Extent] = ()
    try:
        async with asyncio.timeout(deadline_seconds):
            for route in routes:
                transfer = Transfer(route, generation, reader, memoryview(into), failures)
                missing = transfer.missing
                if await transfer.run():
                    return transfer.summary()
    except TimeoutError:
        late = f"within {deadline_seconds:.1f} s"
        raise FetchFailed(_words(generation, missing, failures, late)) from None
    raise FetchFailed(_words(generation, missing, failures, "from any pod"))


@dataclass(slots=True)
class Waiting:
    """An extent that nobody is bringing now."""

    extent: Extent
    tries: Counter[Source] = field(default_factory=Counter)
    """How often each source was asked for it in vain."""


class Transfer:
    """One generation by one route, its extents spread over all sources: whoever gives faster gives more."""

    def __init__(
        self, route: Route, generation: int, reader: SegmentReader, into: memoryview, failures: dict[Source, str]
    ) -> None:
        self.missing = list(route.extents)
        """Extents that have not arrived, in order."""
        self._route = route
        self._generation = generation
        self._reader = reader
        self._into = into
        self._failures = failures
        self._waiting = [Waiting(extent) for extent in route.extents]
        self._streams: Counter[Source] = Counter()
        """Extents that are on their way from each source."""
        self._changed = asyncio.Condition()
        self._used: set[Source] = set()
        self._hopeless = False

    async def run(self) -> bool:
        """Bring every extent; tell whether all have come."""
        num_streams = min(NUM_STREAMS, len(self._route.sources) * STREAMS_PER_SOURCE, len(self._waiting))
        async with asyncio.TaskGroup() as group:
            for number in range(num_streams):
                group.create_task(self._stream(), name=f"generation {self._generation}, stream {number}")
        return not self.missing

    def summary(self) -> Fetched:
        extents = self._route.extents
        num_bytes = sum(extent.num_bytes for extent in extents)
        return Fetched(self._route.pieces, num_bytes, len(extents), tuple(sorted(self._used)))

    async def _stream(self) -> None:
        """Bring one extent after the other, until all are here or one cannot be had."""
        while (taken := await self._take()) is not None:
            waiting, source = taken
            try:
                arrived = await self._bring(waiting, source)
            finally:
                self._streams[source] -= 1
            async with self._changed:
                if arrived:
                    self.missing.remove(waiting.extent)
                else:
                    self._waiting.insert(0, waiting)
                self._changed.notify_all()

    async def _take(self) -> tuple[Waiting, Source] | None:
        """Return what to ask of whom next; None once all have come, or one cannot be had."""
        async with self._changed:
            while self.missing and not self._hopeless:
                for waiting in self._waiting[:LOOK_AHEAD]:
                    source = self._source_for(waiting)
                    if waiting.tries[source] >= NUM_ROUNDS:
                        self._hopeless = True
                        self._changed.notify_all()
                        return None
                    if self._streams[source] < STREAMS_PER_SOURCE:
                        self._waiting.remove(waiting)
                        self._streams[source] += 1
                        return waiting, source
                await self._changed.wait()
        return None

    def _source_for(self, waiting: Waiting) -> Source:
        """Return whom to ask for an extent, perhaps after a wait: the least busy of those that have not failed.

        Sources that have failed are asked last: the others' extents shall not wait for a dead pod again.
        """

        def order(source: Source) -> tuple[int, bool, int]:
            return waiting.tries[source], source in self._failures, self._streams[source]

        return min(self._route.sources, key=order)

    async def _bring(self, waiting: Waiting, source: Source) -> bool:
        extent = waiting.extent
        if waiting.tries[source]:
            await asyncio.sleep(PAUSE_SECONDS)
        try:
            reason = await self._read(source, extent)
        except SourceBusy:
            await asyncio.sleep(PAUSE_SECONDS)
            return False
        if reason is None:
            self._used.add(source)
            return True
        waiting.tries[source] += 1
        self._failures[source] = reason
        logger.warning("generation %d from %s: %s", self._generation, source, reason)
        return False

    async def _read(self, source: Source, extent: Extent) -> str | None:
        """Bring an extent from one source; return why it has failed. Errors: SourceBusy."""
        seconds = extent_seconds(extent.num_bytes)
        try:
            async with asyncio.timeout(seconds):
                await self._reader.read(source, self._generation, extent.start, self._into[extent.start : extent.stop])
            await asyncio.to_thread(verify, self._into, extent.pieces)
        except SourceBusy:
            raise
        except (SourceFailed, BrokenSegment) as error:
            return str(error)
        except TimeoutError:
            return f"took more than {seconds:.1f} s for {extent.num_bytes} bytes"
        return None


def extent_seconds(num_bytes: int) -> float:
    """Return how long a source may take for so many bytes."""
    return EXTENT_SECONDS + num_bytes / LEAST_BYTES_PER_SECOND


def _words(generation: int, missing: Sequence[Extent], failures: dict[Source, str], why: str) -> str:
    """Return an error for people: which pieces are missing, whom we asked, what they said."""
    tensors = [piece.tensor for extent in missing for piece in extent.pieces]
    more = f" and {len(tensors) - NAMED} more" if len(tensors) > NAMED else ""
    asked = "; ".join(f"{source}: {reason}" for source, reason in sorted(failures.items())) or "no source has failed"
    return f"generation {generation}: {', '.join(tensors[:NAMED])}{more} could not be fetched {why}: {asked}"
