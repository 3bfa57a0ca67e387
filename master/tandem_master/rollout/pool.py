"""Seats at the servers of one Infer phase, which may come, fail and leave while it runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import monotonic

from tandem_master.errors import RolloutError

logger = logging.getLogger(__name__)

MAX_OUTSTANDING_SAMPLES = 256
"""Samples that one server works on at once; more would only wait inside it, with their deadline running."""
PROBATION_SECONDS = 15.0
"""How long a server that has failed is left alone. A pod that is dead has lost its lease by then, and is gone."""
EMPTY_SECONDS = 60.0
"""How long a request waits for a server where all have left."""


@dataclass(slots=True, eq=False)
class Station:
    """One server and its seats."""

    server: str
    """Base URL."""
    incarnation: str
    """Start of the engine that runs it."""
    outstanding: int = 0
    """Samples that it works on."""
    num_answers: int = 0
    """Requests that it has answered."""
    failed_at: float | None = None
    """When it failed last, on the monotonic clock; None once it has answered again."""
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once it has left."""

    @property
    def is_trusted(self) -> bool:
        return self.failed_at is None or monotonic() - self.failed_at > PROBATION_SECONDS

    def answered(self) -> None:
        """Count an answer: the server is well."""
        self.num_answers += 1
        self.failed_at = None


class ServerPool:
    """The servers of one Infer phase."""

    def __init__(self, servers: Mapping[str, str], *, max_outstanding: int = MAX_OUTSTANDING_SAMPLES) -> None:
        """Begin with `servers`: base URL to incarnation."""
        if not servers:
            raise RolloutError("rollout: no server is ready; look at the logs of the rollout containers")
        self._stations = {server: Station(server, incarnation) for server, incarnation in servers.items()}
        self._left: list[Station] = []
        self._max_outstanding = max_outstanding
        self._changed = asyncio.Condition()

    @property
    def num_answers(self) -> Mapping[str, int]:
        """Requests that each server has answered, those that have left included."""
        counts: dict[str, int] = {}
        for station in (*self._left, *self._stations.values()):
            counts[station.server] = counts.get(station.server, 0) + station.num_answers
        return counts

    async def update(self, servers: Mapping[str, str]) -> None:
        """Take in who has come and let go of who has left; an engine that was started anew has done both."""
        async with self._changed:
            for station in list(self._stations.values()):
                if servers.get(station.server) != station.incarnation:
                    logger.info("%s has left the rollout", station.server)
                    del self._stations[station.server]
                    self._left.append(station)
                    station.gone.set()
            for server in servers.keys() - self._stations.keys():
                logger.info("%s has joined the rollout", server)
                self._stations[server] = Station(server, servers[server])
            self._changed.notify_all()

    @asynccontextmanager
    async def seat(
        self, num_samples: int, avoid: frozenset[str] = frozenset(), prefer: str | None = None
    ) -> AsyncIterator[Station]:
        """Hold `num_samples` seats at the least busy server while the context is open.

        A request that is wider than a whole server waits until that server is idle. Servers that have failed lately,
        and those in `avoid`, are taken only where there is no other. `prefer` is taken before those that are less
        busy, where it is well and has the seats. Errors: RolloutError where no server is left.
        """
        async with self._changed:
            station = self._preferred(prefer, num_samples, avoid) or await self._free_station(num_samples, avoid)
            station.outstanding += num_samples
        try:
            yield station
        finally:
            station.outstanding -= num_samples
            async with self._changed:
                self._changed.notify_all()

    def distrust(self, station: Station) -> bool:
        """Leave a server alone that has failed; tell whether there is another one to go on with."""
        station.failed_at = monotonic()
        return any(other.is_trusted for other in self._stations.values())

    async def _free_station(self, num_samples: int, avoid: frozenset[str]) -> Station:
        while (station := self._choose(num_samples, avoid)) is None:
            try:
                async with asyncio.timeout(None if self._stations else EMPTY_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                raise RolloutError(
                    f"rollout: all servers have left, and none came within {EMPTY_SECONDS:g} s; look at the logs of "
                    "the rollout containers"
                ) from None
        return station

    def _choose(self, num_samples: int, avoid: frozenset[str]) -> Station | None:
        stations = list(self._stations.values())
        trusted = [station for station in stations if station.is_trusted]
        wanted = [station for station in trusted if station.server not in avoid]
        unasked = [station for station in stations if station.server not in avoid]
        station = min(wanted or trusted or unasked or stations, key=lambda one: one.outstanding, default=None)
        if station is None:
            return None
        return station if self._fits(station, num_samples) else None

    def _preferred(self, server: str | None, num_samples: int, avoid: frozenset[str]) -> Station | None:
        station = None if server is None or server in avoid else self._stations.get(server)
        return station if station is not None and station.is_trusted and self._fits(station, num_samples) else None

    def _fits(self, station: Station, num_samples: int) -> bool:
        return station.outstanding == 0 or station.outstanding + num_samples <= self._max_outstanding
