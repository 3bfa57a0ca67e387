"""Spreading requests over servers: least busy first, and on another server when one is gone."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from tandem_master.errors import RolloutError
from tandem_master.rollout.segments import Ask, Completion
from tandem_master.rollout.server import CompletionApi, ServerUnavailable
from tandem_master.tasks import together

logger = logging.getLogger(__name__)

MAX_OUTSTANDING_SAMPLES = 256
"""Samples that one server works on at once; more would only wait inside it, with their deadline running."""
MAX_ATTEMPTS = 3
"""Tries of one request."""
PAUSE_SECONDS = 0.5
"""Pause after the first failed try; it grows with each."""

Deliver = Callable[[Ask, tuple[Completion, ...]], Awaitable[None]]


class ServerPool:
    """Seats at the servers of one Infer phase."""

    def __init__(self, servers: Sequence[str], *, max_outstanding: int = MAX_OUTSTANDING_SAMPLES) -> None:
        if not servers:
            raise RolloutError("rollout: no server is ready; look at the logs of the rollout containers")
        self._outstanding = dict.fromkeys(servers, 0)
        self._max_outstanding = max_outstanding
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def seat(self, num_samples: int, avoid: frozenset[str] = frozenset()) -> AsyncIterator[str]:
        """Hold `num_samples` seats at the least busy server while the context is open.

        A request that is wider than a whole server waits until that server is idle. Servers in `avoid` are taken only
        where there is no other.
        """
        async with self._freed:
            await self._freed.wait_for(lambda: self._choose(num_samples, avoid) is not None)
            server = self._choose(num_samples, avoid)
            assert server is not None
            self._outstanding[server] += num_samples
        try:
            yield server
        finally:
            self._outstanding[server] -= num_samples
            async with self._freed:
                self._freed.notify_all()

    def _choose(self, num_samples: int, avoid: frozenset[str]) -> str | None:
        candidates = [server for server in self._outstanding if server not in avoid] or list(self._outstanding)
        server = min(candidates, key=lambda candidate: self._outstanding[candidate])
        busy = self._outstanding[server]
        return server if busy == 0 or busy + num_samples <= self._max_outstanding else None


async def dispatch(asks: Sequence[Ask], pool: ServerPool, api: CompletionApi, deliver: Deliver) -> None:
    """Send every request and hand each answer to `deliver` as it comes. Errors: RolloutError ends all."""
    await together((_serve(ask, pool, api, deliver) for ask in asks), name="rollout")


async def _serve(ask: Ask, pool: ServerPool, api: CompletionApi, deliver: Deliver) -> None:
    await deliver(ask, await _complete(ask, pool, api))


async def _complete(ask: Ask, pool: ServerPool, api: CompletionApi) -> tuple[Completion, ...]:
    failed: frozenset[str] = frozenset()
    reason = ""
    for attempt in range(1, MAX_ATTEMPTS + 1):
        async with pool.seat(len(ask.trajectories), avoid=failed) as server:
            try:
                return await api.complete(server, ask)
            except ServerUnavailable as error:
                failed |= {server}
                reason = str(error)
                logger.warning("%s: attempt %d of %d: %s", ask.trajectories[0].id, attempt, MAX_ATTEMPTS, error)
        await asyncio.sleep(PAUSE_SECONDS * attempt)
    raise RolloutError(f"rollout: {MAX_ATTEMPTS} servers in turn gave no samples; the last: {reason}")
