"""Spreading requests over servers: the longest first, where there is most room, elsewhere when a server is gone."""

import asyncio
import heapq
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from tandem_master.errors import RolloutError
from tandem_master.rollout.ahead import Ahead
from tandem_master.rollout.exchange import Exchange, end_all
from tandem_master.rollout.pool import Seats, ServerPool, Station
from tandem_master.rollout.segments import Ask, Piece
from tandem_master.rollout.server import SILENCE_SECONDS, ServerLost
from tandem_master.tasks import first_error

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Tries of one request. Servers that die on it while others live do not count: pods may leave at any time."""
PAUSE_SECONDS = 0.5
"""Pause after the first failed try; it grows with each."""
EMPTY_SECONDS = 60.0
"""How long requests wait for a server where all have left."""
STALL_SECONDS = SILENCE_SECONDS + 60.0
"""How long requests wait for a seat while no server samples anything: longer than one may be silent."""

Deliver = Callable[[Sequence[Piece]], Awaitable[Sequence[Ask]]]
"""Takes in what was sampled and returns what is to be asked because of it: what goes on, and what else is drawn."""


@dataclass(frozen=True, slots=True)
class Errand:
    """A request that is to be answered, and what has become of it so far."""

    ask: Ask
    attempt: int = 1
    failed: frozenset[str] = frozenset()
    """Servers that have failed it, or what it continues."""


@dataclass(slots=True)
class Queue:
    """Errands that wait: the longest response so far first, then the one that came first."""

    _heap: list[tuple[int, int, Errand]] = field(default_factory=list)
    _numbers: "count[int]" = field(default_factory=count)

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, errand: Errand) -> None:
        heapq.heappush(self._heap, (-errand.ask.num_response_tokens, next(self._numbers), errand))

    def first(self) -> Errand:
        return self._heap[0][2]

    def pop(self) -> None:
        heapq.heappop(self._heap)

    def clear(self) -> None:
        self._heap.clear()


class Dispatcher:
    """Has the servers of one phase answer its requests. Only what a server works on has a task."""

    def __init__(self, ahead: Ahead, pool: ServerPool, deliver: Deliver) -> None:
        self._ahead = ahead
        self._pool = pool
        self._deliver = deliver
        self._ending = ahead.ending
        self._waiting = Queue()
        self._exchanges: set[Exchange] = set()
        self._server_of_group: dict[str, str] = {}
        """Where the prefix of a group was read last."""
        self._tasks = asyncio.TaskGroup()
        self._num_busy = 0

    async def run(self) -> None:
        """Have every request answered, and all that comes of the answers, or as much as there is time for.

        Errors: RolloutError ends all.
        """
        self._push(Errand(ask) for ask in self._ahead.asks)
        try:
            async with self._tasks:
                watching = self._tasks.create_task(self._watch_ending(), name="end of the phase")
                while self._waiting or self._num_busy:
                    self._send_what_fits()
                    await self._until_changed()
                watching.cancel()
        except BaseExceptionGroup as errors:
            raise first_error(errors) from None
        finally:
            for exchange in tuple(self._exchanges):  # whose task was cancelled before it began
                await exchange.close()

    def _push(self, errands: Iterable[Errand]) -> None:
        if not self._ending.has_struck:
            for errand in errands:
                self._waiting.push(errand)
                self._pool.changed.set()

    def _send_what_fits(self) -> None:
        """Send from the head of the queue while there are seats. The head waits for its seats: what is longest takes
        longest, and nothing overtakes it for ever.
        """
        while self._waiting and not self._ending.has_struck:
            errand = self._waiting.first()
            group = errand.ask.trajectories[0].group
            sent_to, near = self._ahead.server_of(errand.ask), self._server_of_group.get(group)
            seats = self._pool.take(errand.ask, errand.failed, sent_to=sent_to, near=near)
            if seats is None:
                return
            self._waiting.pop()
            self._server_of_group[group] = seats.station.server
            self._send(errand, seats)

    def _send(self, errand: Errand, seats: Seats) -> None:
        """Send a request to where it has its seats, and have a task attend to what comes."""
        station = seats.station
        exchange, was_ahead = self._ahead.take(station.server, errand.ask)
        self._exchanges.add(exchange)
        station.losing[exchange] = lambda: exchange.lose("has left the job")
        self._start(f"ask {station.server}", self._attend(errand, seats, exchange, is_free=was_ahead))

    async def _until_changed(self) -> None:
        """Wait until there may be something to send. Errors: RolloutError where nothing happens for too long."""
        is_empty = self._pool.is_empty and not self._exchanges
        before = self._ending.num_heard
        limit = EMPTY_SECONDS if is_empty else STALL_SECONDS
        try:
            async with asyncio.timeout(limit if self._waiting else None):
                await self._pool.changed.wait()
            self._pool.changed.clear()
        except TimeoutError:
            if is_empty:
                raise RolloutError(
                    f"rollout: all servers have left, and none came within {limit:g} s; look at the logs of the rollout"
                    " containers"
                ) from None
            # Without a request of its own at a server, it waits for seats that another dispatcher of the pool holds.
            if self._exchanges and self._ending.num_heard == before:
                raise RolloutError(f"rollout: no server has sampled anything for {limit:g} s") from None

    def _start(self, name: str, work: Coroutine[object, object, None]) -> None:
        """Have `work` done while the phase goes on; `run` waits for it."""
        self._num_busy += 1
        self._tasks.create_task(work, name=name).add_done_callback(self._has_ended)

    def _has_ended(self, _: object) -> None:
        self._num_busy -= 1
        if not self._num_busy:
            self._pool.changed.set()

    async def _attend(self, errand: Errand, seats: Seats, exchange: Exchange, *, is_free: bool) -> None:
        """Hand on each sample of a request when it has ended, and the rest when the request has."""
        station = seats.station
        try:
            while ended := await exchange.ended_samples():
                self._pool.give_back(seats, len(ended))
                self._send_what_fits()  # at once: a turn of the event loop may be long
                if seats.num_samples:
                    self._start("deliver", self._hand_on(ended))
                else:
                    await self._hand_on(ended)
        finally:
            await exchange.close()
            del station.losing[exchange]
            self._exchanges.remove(exchange)
            self._pool.give_back(seats, seats.num_samples)
        await self._conclude(errand, station, exchange, is_free=is_free)

    async def _conclude(self, errand: Errand, station: Station, exchange: Exchange, *, is_free: bool) -> None:
        """Take in what is left of a request that is over, and have it go on where it has not ended."""
        failure = exchange.failure
        if exchange.answer.is_untouched:
            asks: Sequence[Ask] = (errand.ask,)
        else:
            rest = exchange.answer.take_rest()
            asks = await self._deliver(rest) if rest else ()
        if failure is None:
            station.answered()
        elif not is_free and not self._ending.has_struck:
            errand = await self._failed(errand, station, failure)
        self._push(replace(errand, ask=ask) for ask in asks)

    async def _failed(self, errand: Errand, station: Station, failure: Exception) -> Errand:
        """Return what is tried next, after a pause where the try counts. Errors: RolloutError where none helps."""
        if isinstance(failure, RolloutError):
            raise failure
        name = errand.ask.trajectories[0].id
        logger.warning("%s: attempt %d of %d: %s", name, errand.attempt, MAX_ATTEMPTS, failure)
        is_replaced = self._pool.distrust(station) and isinstance(failure, ServerLost)
        is_first = station.server not in errand.failed
        failed = errand.failed | {station.server}
        if is_replaced and is_first:
            return replace(errand, failed=failed)
        if errand.attempt == MAX_ATTEMPTS:
            raise RolloutError(f"rollout: {MAX_ATTEMPTS} servers in turn gave no samples; the last: {failure}")
        await asyncio.sleep(PAUSE_SECONDS * errand.attempt)
        return replace(errand, failed=failed, attempt=errand.attempt + 1)

    async def _hand_on(self, pieces: Sequence[Piece]) -> None:
        """Deliver samples that have ended, and queue what comes of them."""
        self._push(Errand(ask) for ask in await self._deliver(pieces))

    async def _watch_ending(self) -> None:
        """Once the phase is to end: send nothing more, and have all servers end what they work on."""
        await self._ending.struck()
        self._waiting.clear()
        self._pool.changed.set()
        by_server: dict[str, list[Exchange]] = {}
        for exchange in self._exchanges:
            by_server.setdefault(exchange.server, []).append(exchange)
        for server, exchanges in by_server.items():
            self._start(f"end at {server}", end_all(self._ahead.api, server, exchanges))
