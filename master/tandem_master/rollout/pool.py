"""Seats at the servers of one Infer phase, which may come, fail and leave while it runs."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import monotonic

from tandem_master.errors import RolloutError

logger = logging.getLogger(__name__)

MAX_OUTSTANDING_SAMPLES = 256
"""Samples that one server works on at once; more would only wait inside it, with their deadline running."""
PROBATION_SECONDS = 15.0
"""How long a server that has failed is left alone. A pod that is dead has lost its lease by then, and is gone."""


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
    losing: dict[object, Callable[[], None]] = field(default_factory=dict)
    """What is called once it has left, by who wants to know."""

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
        self.changed = asyncio.Event()
        """Set whenever a request may find a seat that found none before."""

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

    def update(self, servers: Mapping[str, str]) -> None:
        """Take in who has come and let go of who has left; an engine that was started anew has done both."""
        for station in list(self._stations.values()):
            if servers.get(station.server) != station.incarnation:
                logger.info("%s has left the rollout", station.server)
                del self._stations[station.server]
                self._left.append(station)
                for lose in list(station.losing.values()):
                    lose()
        for server in servers.keys() - self._stations.keys():
            logger.info("%s has joined the rollout", server)
            self._stations[server] = Station(server, servers[server])
        self.changed.set()

    def take(self, num_samples: int, avoid: frozenset[str] = frozenset(), prefer: str | None = None) -> Station | None:
        """Take `num_samples` seats at the least busy server; None where it has not as many.

        A request that is wider than a whole server waits until that server is idle. Servers that have failed lately,
        and those in `avoid`, are taken only where there is no other. `prefer` is taken before those that are less
        busy, where it is well and has the seats.
        """
        station = self._preferred(prefer, num_samples, avoid) or self._choose(num_samples, avoid)
        if station is not None:
            station.outstanding += num_samples
        return station

    def give_back(self, station: Station, num_samples: int) -> None:
        """Give seats back."""
        station.outstanding -= num_samples
        self.changed.set()

    def distrust(self, station: Station) -> bool:
        """Leave a server alone that has failed; tell whether there is another one to go on with."""
        station.failed_at = monotonic()
        return any(other.is_trusted for other in self._stations.values())

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
