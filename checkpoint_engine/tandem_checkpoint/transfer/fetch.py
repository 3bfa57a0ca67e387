"""One generation on its way from other pods into a segment of this one, every checksum compared on arrival."""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import Buffer

from tandem_api.weights import Piece
from tandem_checkpoint.segments.manifest import BrokenSegment, verify
from tandem_checkpoint.transfer.plan import Extent, Route, Source
from tandem_checkpoint.transfer.reader import SegmentReader, SourceFailed

logger = logging.getLogger(__name__)

NUM_STREAMS = 4
"""Extents on their way at once."""
NUM_ROUNDS = 2
"""How often an extent is asked of every source before it is given up."""
PAUSE_SECONDS = 0.5
"""Pause between two rounds."""
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


class Transfer:
    """One generation by one route."""

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
        self._waiting = deque(route.extents)
        self._used: set[Source] = set()
        self._hopeless = False

    async def run(self) -> bool:
        """Bring every extent; tell whether all have come."""
        async with asyncio.TaskGroup() as group:
            for number in range(min(NUM_STREAMS, len(self._waiting))):
                group.create_task(self._stream(), name=f"generation {self._generation}, stream {number}")
        return not self.missing

    def summary(self) -> Fetched:
        extents = self._route.extents
        num_bytes = sum(extent.num_bytes for extent in extents)
        return Fetched(self._route.pieces, num_bytes, len(extents), tuple(sorted(self._used)))

    async def _stream(self) -> None:
        """Bring one extent after the other, until none is left or one cannot be had."""
        while self._waiting and not self._hopeless:
            extent = self._waiting.popleft()
            if await self._bring(extent):
                self.missing.remove(extent)
            else:
                self._hopeless = True

    async def _bring(self, extent: Extent) -> bool:
        for number in range(NUM_ROUNDS):
            await asyncio.sleep(PAUSE_SECONDS * number)
            # Sources that have failed are asked last: the others' extents shall not wait for a dead pod again.
            for source in sorted(self._route.sources, key=self._failures.__contains__):
                if await self._read(source, extent):
                    return True
        return False

    async def _read(self, source: Source, extent: Extent) -> bool:
        seconds = extent_seconds(extent.num_bytes)
        try:
            async with asyncio.timeout(seconds):
                await self._reader.read(source, self._generation, extent.start, self._into[extent.start : extent.stop])
            await asyncio.to_thread(verify, self._into, extent.pieces)
        except (SourceFailed, BrokenSegment) as error:
            reason = str(error)
        except TimeoutError:
            reason = f"took more than {seconds:.1f} s for {extent.num_bytes} bytes"
        else:
            self._used.add(source)
            return True
        self._failures[source] = reason
        logger.warning("generation %d from %s: %s", self._generation, source, reason)
        return False


def extent_seconds(num_bytes: int) -> float:
    """Return how long a source may take for so many bytes."""
    return EXTENT_SECONDS + num_bytes / LEAST_BYTES_PER_SECOND


def _words(generation: int, missing: Sequence[Extent], failures: dict[Source, str], why: str) -> str:
    """Return an error for people: which pieces are missing, whom we asked, what they said."""
    tensors = [piece.tensor for extent in missing for piece in extent.pieces]
    more = f" and {len(tensors) - NAMED} more" if len(tensors) > NAMED else ""
    asked = "; ".join(f"{source}: {reason}" for source, reason in sorted(failures.items())) or "no source has failed"
    return f"generation {generation}: {', '.join(tensors[:NAMED])}{more} could not be fetched {why}: {asked}"
