"""One request at one server, while its answer streams in."""

import asyncio
import logging
import secrets
from collections.abc import Sequence
from itertools import count

from tandem_master.errors import RolloutError
from tandem_master.rollout.answer import Part, PartialAnswer, UnknownSample
from tandem_master.rollout.segments import Ask, Piece
from tandem_master.rollout.server import CompletionApi, ServerLost, ServerUnavailable

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 2.0
"""Time that a server gets to send what it has sampled of a request that it was told to end."""
OF_THIS_PROCESS = secrets.token_hex(8)
"""Tells its requests from those of a master that was there before."""
NUMBERS = count()


class Exchange:
    """Sends a request at once, and takes in what comes. Whatever ends it, what has come by then is there."""

    def __init__(self, api: CompletionApi, server: str, ask: Ask) -> None:
        self.server = server
        self.ask = ask
        self.answer = PartialAnswer(ask, api.repeats)
        self.name = f"{OF_THIS_PROCESS}-{next(NUMBERS)}"
        """What the server knows the request by."""
        self.failure: ServerUnavailable | RolloutError | None = None
        """Why it is over before its time, where nobody here has ended it."""
        self.api = api
        self._ended_here = False
        self._news = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None
        self._reading = asyncio.create_task(self._read(), name=f"ask {server}")
        self._reading.add_done_callback(lambda _: self._news.set())

    @property
    def is_over(self) -> bool:
        """Return whether nothing more comes."""
        return self._reading.done()

    async def ended_samples(self) -> tuple[Piece, ...]:
        """Return the samples that have ended since the last call, as soon as there are any; none once it is over."""
        while not (ended := self.answer.take_ended()) and not self.is_over:
            self._news.clear()
            await self._news.wait()
        return ended

    def expect_end(self) -> None:
        """From now on its end is no failure."""
        self._ended_here = True

    def expire(self, seconds: float) -> None:
        """Give up what does not come within so long."""
        asyncio.get_running_loop().call_later(seconds, self._reading.cancel)

    def lose(self, reason: str) -> None:
        """Give it up, as its server is lost."""
        if not self.is_over and self.failure is None:
            self.failure = ServerLost(f"{self.server}: {reason}")
            self._reading.cancel()

    async def close(self) -> None:
        """Close the connection: a server ends a request whose client has gone."""
        if self._reading.done() and self._ending is None and not self._reading.cancelled():
            self._reading.exception()  # looked at, as below: what ended it is `failure`
            return
        tasks = [self._reading, *([self._ending] if self._ending is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        try:
            await self.api.take_in(self.server, self.ask, self.name, self._take)
            if not self.answer.is_complete:
                raise ServerLost(f"{self.server}: its answer ended before all samples had")
            if not self._ended_here and self.answer.has_aborted:
                raise ServerUnavailable(f"{self.server}: it has aborted the request")
        except (ServerUnavailable, RolloutError) as error:
            if not self._ended_here:
                self.failure = error

    def _take(self, parts: Sequence[tuple[int, Part]]) -> bool:
        """Add what came at once; return whether more is wanted. Errors: RolloutError."""
        try:
            repeats = [self.answer.add(index, part) for index, part in parts]
        except UnknownSample as error:
            raise RolloutError(f"{self.server}: its answer cannot be used: {error}") from error
        if any(part.finish_reason is not None for _, part in parts):
            self._news.set()
        if any(repeats):
            self._news.set()
            if self.answer.is_complete:
                return False
            if self._ending is None:
                self._ending = asyncio.create_task(end_all(self.api, self.server, [self]), name=f"end {self.server}")
        return True


async def end_all(api: CompletionApi, server: str, exchanges: Sequence[Exchange]) -> None:
    """Have a server end requests and send what it has sampled of them; what does not come soon is given up.

    A server sends a first token at once: where none has come, there is nothing to wait for.
    """
    for exchange in exchanges:
        exchange.expect_end()
    has_heard = await api.abort(server, [exchange.name for exchange in exchanges])
    for exchange in exchanges:
        exchange.expire(FLUSH_SECONDS if has_heard and exchange.answer.num_tokens else 0.0)
