"""Requests that are sent before their servers are ready: these take connections, and answer once there are weights.

A server that waits in an epoch can answer with nothing but the weights of that epoch: it has ended, or paused, what it
was before, and goes on only after it has bound them. Its answer counts once the switch is complete and the same life of
its engine serves. Whatever else becomes of a request that was sent ahead, it is cancelled, or sent again as if it had
never been.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tandem_master.rollout.ending import Ending
from tandem_master.rollout.exchange import Exchange
from tandem_master.rollout.pool import MAX_OUTSTANDING_SAMPLES
from tandem_master.rollout.segments import Ask
from tandem_master.rollout.server import CompletionApi
from tandem_master.serving import Servers, Serving

logger = logging.getLogger(__name__)

NUM_AHEAD = 2
"""Requests that wait at one server: enough to begin with, while the rest is sent. A server reads what waits before it
binds its weights, some milliseconds each: a whole phase's requests would make the switch longer than they save.
"""


@dataclass(frozen=True, slots=True)
class Sent:
    """One request that waits at a server."""

    incarnation: str
    exchange: Exchange

    @property
    def server(self) -> str:
        return self.exchange.server


class Ahead:
    """Sends the requests of one Infer phase while the switch into it runs, and hands on what becomes of them."""

    def __init__(self, api: CompletionApi, asks: Sequence[Ask], ending: Ending | None = None) -> None:
        self.asks = tuple(asks)
        self.api = api
        self.ending = ending or Ending()
        """Whether the phase is to end."""
        self._sent: dict[str, Sent] = {}
        self._known: Servers = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def follow(self, serving: Serving) -> None:
        """Send each waiting server the first of its share as soon as it waits, until cancelled."""
        while True:
            self._known = await serving.change_in_waiting(self._known)
            self._let_go({sent for sent in self._sent.values() if not _same_life(sent, self._known)})
            self._send(serving.registered())

    def keep(self, servers: Servers) -> None:
        """Let go of all requests but those at servers that serve now, in the life in which they were asked."""
        self._let_go({sent for sent in self._sent.values() if not _same_life(sent, servers)})
        if self._sent:
            logger.info("%d requests had been sent before the servers were ready", len(self._sent))

    def server_of(self, ask: Ask) -> str | None:
        """Return where a request waits already."""
        sent = self._sent.get(_name(ask))
        return None if sent is None else sent.server

    def take(self, server: str, ask: Ask) -> tuple[Exchange, bool]:
        """Return the exchange of a request with a server, and whether it was begun ahead and may have failed."""
        sent = self._sent.pop(_name(ask), None)
        if sent is not None and sent.server == server:
            return sent.exchange, True
        if sent is not None:
            self._close(sent.exchange)
        return Exchange(self.api, server, ask), False

    async def close(self) -> None:
        """Cancel what nobody has asked for."""
        self._let_go(set(self._sent.values()))
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _send(self, servers: Sequence[str]) -> None:
        num_sent = Counter(sent.server for sent in self._sent.values())
        for ask, server in zip(self.asks, spread(self.asks, servers), strict=True):
            if server is None or server not in self._known or _name(ask) in self._sent:
                continue
            if num_sent[server] < NUM_AHEAD:
                num_sent[server] += 1
                self._sent[_name(ask)] = Sent(self._known[server], Exchange(self.api, server, ask))

    def _let_go(self, those: set[Sent]) -> None:
        for sent in those:
            self._close(sent.exchange)
        self._sent = {name: sent for name, sent in self._sent.items() if sent not in those}

    def _close(self, exchange: Exchange) -> None:
        task = asyncio.create_task(exchange.close(), name=f"close at {exchange.server}")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def spread(
    asks: Sequence[Ask], servers: Sequence[str], max_outstanding: int = MAX_OUTSTANDING_SAMPLES
) -> tuple[str | None, ...]:
    """Return for each request the least busy server, the first of several; None where all are full."""
    outstanding = dict.fromkeys(servers, 0)
    chosen: list[str | None] = []
    for ask in asks:
        server = min(outstanding, key=outstanding.__getitem__, default=None)
        num_samples = len(ask.trajectories)
        if server is None or (outstanding[server] and outstanding[server] + num_samples > max_outstanding):
            chosen.append(None)
            continue
        outstanding[server] += num_samples
        chosen.append(server)
    return tuple(chosen)


def _name(ask: Ask) -> str:
    """Return what tells the requests of one phase apart: no trajectory is in two of them."""
    return ask.trajectories[0].id


def _same_life(sent: Sent, servers: Mapping[str, str]) -> bool:
    return servers.get(sent.server) == sent.incarnation
