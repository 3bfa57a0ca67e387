"""How fast and how many at once the operator writes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tandem_operator.kube.errors import TooManyRequestsError


@dataclass(frozen=True, slots=True)
class WriteRate:
    """The budget of writes of one operator."""

    per_second: float = 50.0
    burst: int = 100
    """Writes that may go at once after a quiet time."""
    at_once: int = 8
    """Writes that wait for their answers together."""
    queue_seconds: float = 300.0
    """Longest wait for a turn; then the write is refused here."""


class TokenBucket:
    """Counts tokens that come at a steady rate; a token may be taken before it is there, with a wait."""

    def __init__(self, per_second: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._counted_at = clock()

    def reserve(self) -> float:
        """Take one token and return the seconds until it is there: 0 for one in stock."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._counted_at) * self._per_second) - 1
        self._counted_at = now
        return max(0.0, -self._tokens / self._per_second)

    def give_back(self) -> None:
        """Return a token that was reserved and not used."""
        self._tokens = min(self._burst, self._tokens + 1)


class WriteLimit:
    """Lets writes through: a few at once, in the order of their coming, at most at the given rate."""

    def __init__(self, rate: WriteRate = WriteRate(), clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._bucket = TokenBucket(rate.per_second, rate.burst, clock)
        self._places = asyncio.Semaphore(rate.at_once)
        self._num_waiting = 0

    @property
    def num_waiting(self) -> int:
        """Return how many writes wait for their turn."""
        return self._num_waiting

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn and hold it while the write is under way; TooManyRequests past the queue's deadline."""
        self._num_waiting += 1
        try:
            async with asyncio.timeout(self._rate.queue_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise _queue_too_long(self._rate.queue_seconds) from None
        finally:
            self._num_waiting -= 1
        try:
            await self._token()
            yield
        finally:
            self._places.release()

    async def _token(self) -> None:
        """Wait until the rate allows one more write."""
        wait_seconds = self._bucket.reserve()
        if wait_seconds <= 0:
            return
        try:
            await asyncio.sleep(wait_seconds)
        except asyncio.CancelledError:
            self._bucket.give_back()
            raise


def _queue_too_long(queue_seconds: float) -> TooManyRequestsError:
    """Return what a write gets that never had its turn."""
    return TooManyRequestsError(
        429, "ClientThrottled", f"writes: no turn within {queue_seconds:g} s; raise the operator's rate of writes"
    )
