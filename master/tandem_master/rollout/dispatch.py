"""Spreading requests over servers: least busy first, and on another server when one is gone."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from tandem_master.errors import RolloutError
from tandem_master.rollout.ahead import Ahead
from tandem_master.rollout.pool import ServerPool, Station
from tandem_master.rollout.segments import Ask, Completion
from tandem_master.rollout.server import ServerLost, ServerUnavailable
from tandem_master.tasks import together

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 3
"""Tries of one request. Servers that die on it while others live do not count: pods may leave at any time."""
PAUSE_SECONDS = 0.5
"""Pause after the first failed try; it grows with each."""

Deliver = Callable[[Ask, tuple[Completion, ...]], Awaitable[Sequence[Ask]]]
"""Takes in an answer and returns what is to be asked because of it."""


async def dispatch(ahead: Ahead, pool: ServerPool, deliver: Deliver) -> None:
    """Send every request that was not sent ahead, and hand each answer to `deliver` as it comes; what that returns is
    sent too.

    Errors: RolloutError ends all.
    """
    await together((_serve(ask, pool, ahead, deliver) for ask in ahead.asks), name="rollout")


async def _serve(ask: Ask, pool: ServerPool, ahead: Ahead, deliver: Deliver) -> None:
    further = await deliver(ask, await _complete(ask, pool, ahead))
    if further:
        await together((_serve(item, pool, ahead, deliver) for item in further), name=f"after {ask.trajectories[0].id}")


async def _complete(ask: Ask, pool: ServerPool, ahead: Ahead) -> tuple[Completion, ...]:
    failed: frozenset[str] = frozenset()
    reason = ""
    attempt = 1
    while attempt <= MAX_ATTEMPTS:
        async with pool.seat(len(ask.trajectories), avoid=failed, prefer=ahead.server_of(ask)) as station:
            try:
                return await _ask(station, ask, ahead)
            except ServerUnavailable as error:
                reason = str(error)
                logger.warning("%s: attempt %d of %d: %s", ask.trajectories[0].id, attempt, MAX_ATTEMPTS, error)
                is_replaced = pool.distrust(station) and isinstance(error, ServerLost)
        is_first = station.server not in failed
        failed |= {station.server}
        if is_replaced and is_first:
            continue
        await asyncio.sleep(PAUSE_SECONDS * attempt)
        attempt += 1
    raise RolloutError(f"rollout: {MAX_ATTEMPTS} servers in turn gave no samples; the last: {reason}")


async def _ask(station: Station, ask: Ask, ahead: Ahead) -> tuple[Completion, ...]:
    """Return a server's answer. Errors: as CompletionApi; ServerLost as soon as it has left."""
    asking = asyncio.create_task(ahead.complete(station.server, ask), name=f"ask {station.server}")
    leaving = asyncio.create_task(station.gone.wait(), name=f"leaving of {station.server}")
    try:
        await asyncio.wait({asking, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            raise ServerLost(f"{station.server}: has left the job")
        answer = asking.result()
    finally:
        asking.cancel()
        leaving.cancel()
        await asyncio.gather(asking, leaving, return_exceptions=True)
    station.answered()
    return answer
