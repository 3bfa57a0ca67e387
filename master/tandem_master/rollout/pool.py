"""Seats at the servers of one Infer phase, which may come, fail and leave while it runs.

A seat is room for a sample: in the server's key/value cache, where the server says how large that is, and among the
samples that it works on at once. What sits never needs more room than it has taken, so no server has to put a sample
off (vLLM would drop what it has computed of it, and compute that again).
"""

import asyncio
import heapq
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

from tandem_master.errors import RolloutError
from tandem_master.rollout.capacity import Capacity, Need, need_of
from tandem_master.rollout.segments import Ask

logger = logging.getLogger(__name__)

MAX_OUTSTANDING_SAMPLES = 256
"""Samples that one server works on at once; more would only wait inside it, with their deadline running."""
PROBATION_SECONDS = 15.0
"""How long a server that has failed is left alone. A pod that is dead has lost its lease by then, and is gone."""
MOST_AHEAD = 0.1
"""How much fuller than the emptiest a server may be, as a share of itself, to be taken for the prefix that it holds:
to read a prefix again costs less than to wait."""
STALE_SHARE, LEAST_NOTED = 4, 256
"""Ranks that are noted for each server, and besides: so many, most of them stale, are made anew."""


@dataclass(slots=True, eq=False)
class Station:
    """One server and its seats."""

    server: str
    """Base URL."""
    incarnation: str
    """Start of the engine that runs it."""
    capacity: Capacity | None = None
    """Of its cache; None where it does not say."""
    max_outstanding: int = MAX_OUTSTANDING_SAMPLES
    outstanding: int = 0
    """Samples that it works on."""
    reserved_tokens: int = 0
    """What these may come to hold of its cache."""
    num_answers: int = 0
    """Requests that it has answered."""
    failed_at: float | None = None
    """When it failed last, on the event loop's clock; None once it has answered again."""
    losing: dict[object, Callable[[], None]] = field(default_factory=dict)
    """What is called once it has left, by who wants to know."""

    @property
    def is_trusted(self) -> bool:
        return self.failed_at is None or _now() - self.failed_at > PROBATION_SECONDS

    @property
    def fullness(self) -> float:
        """Return how much of it is taken: of its cache, or of its seats where it does not say what that holds."""
        if self.capacity is None:
            return self.outstanding / self.max_outstanding
        return self.reserved_tokens / self.capacity.num_tokens

    @property
    def num_free(self) -> int | None:
        """Return how many tokens its cache has room for; None where it does not say."""
        return None if self.capacity is None else self.capacity.num_tokens - self.reserved_tokens

    @property
    def rank(self) -> tuple[int, int]:
        """Return what orders servers: the one with the most free tokens is first, of several that with the fewest
        samples. One that does not say what its cache holds is before all others, and such ones are ordered by samples.
        """
        if self.capacity is None:
            return (-sys.maxsize, self.outstanding)
        return (self.reserved_tokens - self.capacity.num_tokens, self.outstanding)

    def answered(self) -> None:
        """Count an answer: the server is well."""
        self.num_answers += 1
        self.failed_at = None

    def fits(self, ask: Ask) -> bool:
        """Return whether there are seats for a request. What is wider than the whole server fits when it is idle."""
        num_samples = len(ask.trajectories)
        if self.outstanding == 0:
            return True
        if self.outstanding + num_samples > self.max_outstanding:
            return False
        need = self.need_of(ask)
        return self.num_free is None or need.num_shared + num_samples * need.num_own <= self.num_free

    def need_of(self, ask: Ask) -> Need:
        return Need(0, 0) if self.capacity is None else need_of(ask, self.capacity)


@dataclass(slots=True, eq=False)
class Seats:
    """What one request has taken of a server."""

    station: Station
    need: Need
    num_samples: int
    """Those that still sit."""


class ServerPool:
    """The servers of one Infer phase."""

    def __init__(
        self,
        servers: Mapping[str, str],
        capacities: Mapping[str, Capacity | None] | None = None,
        *,
        max_outstanding: int = MAX_OUTSTANDING_SAMPLES,
    ) -> None:
        """Begin with `servers`: base URL to incarnation."""
        if not servers:
            raise RolloutError("rollout: no server is ready; look at the logs of the rollout containers")
        self._stations: dict[str, Station] = {}
        self._left: list[Station] = []
        self._failed: list[Station] = []
        """Those that have failed at some time."""
        self._by_rank: list[tuple[tuple[int, int], int, Station]] = []
        self._numbers = count()
        self._max_outstanding = max_outstanding
        self.changed = asyncio.Event()
        """Set whenever a request may find a seat that found none before."""
        self.update(servers, capacities or {}, is_first=True)

    @property
    def is_empty(self) -> bool:
        """Return whether all servers have left."""
        return not self._stations

    @property
    def num_answers(self) -> Mapping[str, int]:
        """Requests that each server has answered, those that have left included."""
        counts: dict[str, int] = {}
        for station in (*self._left, *self._stations.values()):
            counts[station.server] = counts.get(station.server, 0) + station.num_answers
        return counts

    def strangers(self, servers: Mapping[str, str]) -> tuple[str, ...]:
        """Return which of these are not here yet, in this life."""
        known = {station.server: station.incarnation for station in self._stations.values()}
        return tuple(server for server, incarnation in servers.items() if known.get(server) != incarnation)

    def update(
        self, servers: Mapping[str, str], capacities: Mapping[str, Capacity | None], *, is_first: bool = False
    ) -> None:
        """Take in who has come and let go of who has left; an engine that was started anew has done both."""
        self.let_go(servers)
        for server in self.strangers(servers):
            if not is_first:
                logger.info("%s has joined the rollout", server)
            capacity = capacities.get(server)
            self._stations[server] = Station(server, servers[server], capacity, self._max_outstanding)
            self._rank(self._stations[server])
        self.changed.set()

    def let_go(self, servers: Mapping[str, str]) -> None:
        """Let go of who is not among these, in this life."""
        for station in list(self._stations.values()):
            if servers.get(station.server) != station.incarnation:
                logger.info("%s has left the rollout", station.server)
                del self._stations[station.server]
                self._left.append(station)
                for lose in list(station.losing.values()):
                    lose()
        self.changed.set()

    def take(
        self, ask: Ask, avoid: frozenset[str] = frozenset(), *, sent_to: str | None = None, near: str | None = None
    ) -> Seats | None:
        """Take seats for all samples of a request at the server with the most room; None where that has too little.

        Servers that have failed lately, and those in `avoid`, are taken only where there is no other. `sent_to`, which
        has the request already, is taken first where it is well and has the seats; so is `near`, which may hold its
        prefix, where it is not much fuller than the others.
        """
        best = self._roomiest(avoid)
        if best is None:
            return None
        station = self._preferred(sent_to, ask, avoid)
        if station is None:
            station = self._preferred(near, ask, avoid)
            if station is None or station.fullness > best.fullness + MOST_AHEAD:
                station = best
        if not station.fits(ask):
            return None
        seats = Seats(station, station.need_of(ask), len(ask.trajectories))
        station.outstanding += seats.num_samples
        station.reserved_tokens += seats.need.num_shared + seats.num_samples * seats.need.num_own
        self._rank(station)
        return seats

    def give_back(self, seats: Seats, num_samples: int) -> None:
        """Give the seats of so many samples back, and with the last one what these shared."""
        if num_samples == 0:
            return
        station, need = seats.station, seats.need
        are_last = num_samples == seats.num_samples
        seats.num_samples -= num_samples
        station.outstanding -= num_samples
        station.reserved_tokens -= num_samples * need.num_own + (need.num_shared if are_last else 0)
        self._rank(station)
        self.changed.set()

    def distrust(self, station: Station) -> bool:
        """Leave a server alone that has failed; tell whether there is another one to go on with."""
        station.failed_at = _now()
        self._failed.append(station)
        return any(other.is_trusted for other in self._stations.values())

    def _roomiest(self, avoid: frozenset[str]) -> Station | None:
        """Return the server that is asked next: the first by rank of the best kind that there is."""
        if avoid or (self._failed and any(station.failed_at is not None for station in self._failed)):
            stations = self._stations.values()
            return min(stations, key=lambda one: (_last_resort(one, avoid), one.rank), default=None)
        while self._by_rank:
            rank, _, station = self._by_rank[0]
            if station.rank == rank and self._stations.get(station.server) is station:
                return station
            heapq.heappop(self._by_rank)  # what it was before
        return None

    def _rank(self, station: Station) -> None:
        """Take note of a new rank. What was noted before is passed over when it comes to the top, or left out once most
        of what was noted is of that kind.
        """
        if len(self._by_rank) > STALE_SHARE * len(self._stations) + LEAST_NOTED:
            self._by_rank = [(one.rank, next(self._numbers), one) for one in self._stations.values()]
            heapq.heapify(self._by_rank)
        heapq.heappush(self._by_rank, (station.rank, next(self._numbers), station))

    def _preferred(self, server: str | None, ask: Ask, avoid: frozenset[str]) -> Station | None:
        station = None if server is None or server in avoid else self._stations.get(server)
        return station if station is not None and station.is_trusted and station.fits(ask) else None


def _last_resort(station: Station, avoid: frozenset[str]) -> int:
    """Return how late a server is to be asked: first those that are well and that no one avoids, last those that have
    failed and that are to be avoided."""
    return 2 * (not station.is_trusted) + (station.server in avoid)


def _now() -> float:
    return asyncio.get_running_loop().time()
