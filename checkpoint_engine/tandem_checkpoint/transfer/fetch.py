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
from tandem_checkpoint.transfer.runs import scatter

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
    """Those of the whole generation."""
    num_bytes: int
    """Bytes that were lacking, and are here now."""
    num_read_bytes: int
    """Bytes that came over the network: more only where some came in vain."""
    num_extents: int
    sources: tuple[Source, ...]
    """Those that gave bytes, by name."""


async def fetch(
    routes: Sequence[Route], generation: int, reader: SegmentReader, into: Buffer, deadline_seconds: float
) -> Fetched:
    """Fill `into`, laid out as the sources' segments, with what is lacking of a generation.

    Errors: FetchFailed where no route leads there.
    """
    failures: dict[Source, str] = {}
    missing: Sequence[Extent] = ()
    num_read_bytes = 0
    try:
        async with asyncio.timeout(deadline_seconds):
            for route in routes:
                transfer = Transfer(route, generation, reader, memoryview(into), failures)
                missing = transfer.missing
                has_come = await transfer.run()
                num_read_bytes += transfer.num_read_bytes
                if has_come:
                    return transfer.summary(num_read_bytes)
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
        self.num_read_bytes = 0
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
        num_sources = len(self._route.sources)
        num_streams = min(NUM_STREAMS, num_sources * STREAMS_PER_SOURCE, len(self._waiting))
        async with asyncio.TaskGroup() as group:
            for number in range(num_streams):
                group.create_task(self._stream(), name=f"generation {self._generation}, stream {number}")
        return not self.missing

    def summary(self, num_read_bytes: int) -> Fetched:
        """Return what has come; `num_read_bytes`: by this route and by those that were tried before."""
        extents = self._route.extents
        num_bytes = sum(extent.num_bytes for extent in extents)
        return Fetched(self._route.pieces, num_bytes, num_read_bytes, len(extents), tuple(sorted(self._used)))

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
                found = self._next()
                if found is None:
                    await self._changed.wait()
                    continue
                waiting, source = found
                if waiting.tries[source] >= NUM_ROUNDS:
                    self._hopeless = True
                    self._changed.notify_all()
                    return None
                self._waiting.remove(waiting)
                self._streams[source] += 1
                return waiting, source
        return None

    def _next(self) -> tuple[Waiting, Source] | None:
        """Return an extent and who has a stream to spare for it: as planned, else whoever has its bytes too."""
        ahead = [(waiting, self._sources_for(waiting)) for waiting in self._waiting[:LOOK_AHEAD]]
        for choice in range(max((len(sources) for _, sources in ahead), default=0)):
            for waiting, sources in ahead:
                if choice < len(sources) and self._streams[sources[choice]] < STREAMS_PER_SOURCE:
                    return waiting, sources[choice]
        return None

    def _sources_for(self, waiting: Waiting) -> list[Source]:
        """Return whom to ask for an extent: the planned source first, those that have failed last.

        So the others' extents do not wait for a dead pod again. Who was asked more often than others is left out.
        """
        sources = waiting.extent.sources
        fewest = min((waiting.tries[source] for source in sources), default=0)
        least = [source for source in sources if waiting.tries[source] == fewest]
        good = [source for source in least if source not in self._failures]
        return good or least

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
                await self._take_in(source, extent)
            self.num_read_bytes += extent.num_bytes
            await asyncio.to_thread(verify, self._into, extent.pieces)
        except SourceBusy:
            raise
        except (SourceFailed, BrokenSegment) as error:
            return str(error)
        except TimeoutError:
            return f"took more than {seconds:.1f} s for {extent.num_bytes} bytes"
        return None

    async def _take_in(self, source: Source, extent: Extent) -> None:
        """Read an extent into its place: beside it first, where its runs lie apart."""
        if extent.is_together:
            into = self._into[extent.start : extent.stop]
            await self._reader.read(source, self._generation, extent.runs, into)
            return
        beside = memoryview(bytearray(extent.num_bytes))
        await self._reader.read(source, self._generation, extent.runs, beside)
        await asyncio.to_thread(scatter, beside, extent.runs, self._into)


def extent_seconds(num_bytes: int) -> float:
    """Return how long a source may take for so many bytes."""
    return EXTENT_SECONDS + num_bytes / LEAST_BYTES_PER_SECOND


def _words(generation: int, missing: Sequence[Extent], failures: dict[Source, str], why: str) -> str:
    """Return an error for people: which pieces are missing, whom we asked, what they said."""
    tensors = [piece.tensor for extent in missing for piece in extent.pieces]
    more = f" and {len(tensors) - NAMED} more" if len(tensors) > NAMED else ""
    asked = "; ".join(f"{source}: {reason}" for source, reason in sorted(failures.items())) or "no source has failed"
    return f"generation {generation}: {', '.join(tensors[:NAMED])}{more} could not be fetched {why}: {asked}"
