"""Servers and trainers in the master's own process, in place of its HTTP client: all above that is the master's."""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time
from typing import Any

import httpx

from tandem_api.engine import StepMetrics, TrainResponse
from tandem_master.rollout.capacity import INFO

LOOK_SECONDS = 0.0005
CACHE_TOKENS = 1 << 20
"""Of one server."""
EVENT_TOKENS = 64
"""Tokens of one event of a stream, as the master asks for them."""


@dataclass(slots=True, eq=False)
class Stream:
    """One request that is being answered."""

    server: str
    answer: asyncio.Future[list[str]]


@dataclass(slots=True)
class Pace:
    """How many requests are answered."""

    per_second: float | None
    """All servers together; None: each request at once."""
    most: int
    """Then no more."""
    num_seats: int
    """Requests that all servers together work on; at a pace, none is answered before there are as many."""


@dataclass(slots=True)
class Clock:
    """When seats became free, and how long it took until the next request came to them."""

    freed: dict[str, deque[float]] = field(default_factory=dict)
    """By server."""
    seconds: list[float] = field(default_factory=list)

    def free(self, server: str) -> None:
        """Note that a server has sent the last of an answer."""
        self.freed.setdefault(server, deque()).append(perf_counter())

    def taken(self, server: str) -> None:
        """Note that a request has come to a server."""
        waiting = self.freed.get(server)
        if waiting:
            self.seconds.append(perf_counter() - waiting.popleft())


class PretendServers(httpx.AsyncClient):
    """Answers completions by ready-made streams and trainings by ready-made figures."""

    def __init__(self, right: list[str], wrong: list[str], pace: Pace) -> None:
        super().__init__()
        self._answers = (right, wrong)
        self._pace = pace
        self._open: deque[Stream] = deque()
        self.clock = Clock()
        self.num_answered = 0
        self.filled_at = 0.0
        """When all seats were taken."""
        self.cpu_at_filled = 0.0
        """CPU time of the process then, seconds."""

    async def run(self) -> None:
        """Answer at the pace, the oldest request first, until as many are answered as is wanted."""
        assert self._pace.per_second is not None
        while len(self._open) < self._pace.num_seats:  # noqa: ASYNC110 - the master under test is not to tell
            await asyncio.sleep(LOOK_SECONDS)
        self.filled_at = began = perf_counter()
        self.cpu_at_filled = process_time()
        while self.num_answered < self._pace.most:
            due = min(int((perf_counter() - began) * self._pace.per_second), self._pace.most)
            while self.num_answered < due and self._open:
                stream = self._open.popleft()
                if not stream.answer.done():
                    self.clock.free(stream.server)
                    stream.answer.set_result(self._next_answer())
            await asyncio.sleep(LOOK_SECONDS)

    def stream(self, method: str, url: Any, **options: Any) -> Any:
        """Take in a request; return what streams in."""
        server = str(url).partition("/v1/")[0]
        self.clock.taken(server)
        return self._streamed(server)

    async def get(self, url: Any, **options: Any) -> httpx.Response:
        """Say how large a server's cache is: as large as its seats are many."""
        return httpx.Response(200, text=f'{INFO}{{block_size="16",kv_cache_size_tokens="{CACHE_TOKENS}"}} 1.0')

    async def post(self, url: Any, **options: Any) -> httpx.Response:
        """Take in a training."""
        metrics = StepMetrics(loss=0.5, gradient_norm=1.0)
        answer = TrainResponse(
            max_abs_logprob_difference=0.0, kl=0.0, steps=(metrics,), num_tokens=len(options["content"]), seconds=0.0
        )
        return httpx.Response(200, content=answer.model_dump_json())

    @asynccontextmanager
    async def _streamed(self, server: str) -> AsyncIterator["Answer"]:
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        if self._pace.per_second is not None or self.num_answered >= self._pace.most:
            self._open.append(Stream(server, answer))
        else:
            answer.set_result(self._next_answer())
        yield Answer(answer)

    def _next_answer(self) -> list[str]:
        self.num_answered += 1
        return self._answers[self.num_answered % 2]


class Answer:
    """What the master sees of a response of httpx."""

    status_code = 200

    def __init__(self, lines: asyncio.Future[list[str]]) -> None:
        self._lines = lines

    async def aiter_lines(self) -> AsyncIterator[str]:
        """Yield the lines as soon as the server sends them."""
        for line in await self._lines:
            yield line


def streamed_lines(token_ids: list[int]) -> list[str]:
    """Return the lines of a stream of one sample that ends by itself, with all fields that vLLM 0.32 sends."""
    events = [token_ids[begin : begin + EVENT_TOKENS] for begin in range(0, len(token_ids), EVENT_TOKENS)]
    lines = []
    for number, event in enumerate(events):
        logprobs = [-((token * 7919 + index) % 1000) / 997 for index, token in enumerate(event)]
        choice = {
            "index": 0,
            "text": "".join(str(token % 10) for token in event),
            "logprobs": {
                "text_offset": list(range(len(event))),
                "token_logprobs": logprobs,
                "tokens": [str(token % 10) for token in event],
                "top_logprobs": [{str(token % 10): value} for token, value in zip(event, logprobs, strict=True)],
            },
            "finish_reason": "stop" if number == len(events) - 1 else None,
            "stop_reason": None,
            "prompt_token_ids": None,
            "token_ids": event,
        }
        content = {"id": "cmpl-0", "object": "text_completion", "created": 1, "model": "policy", "choices": [choice]}
        lines += [f"data: {json.dumps(content)}", ""]
    return [*lines, "data: [DONE]", ""]
