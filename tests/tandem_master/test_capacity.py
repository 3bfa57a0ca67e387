"""What a server's /metrics page says of its cache."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import httpx
import pytest

from tandem_master.rollout.capacity import (
    ALL_SECONDS,
    AT_ONCE,
    Capacity,
    parse_capacity,
    read_capacities,
    read_capacity,
)
from tests.tandem_master.virtual_time import run_virtually


def line(engine: int = 0, **labels: object) -> str:
    """Return vLLM's line with these labels."""
    text = ",".join(f'{name}="{value}"' for name, value in {"engine": engine, **labels}.items())
    return f"vllm:cache_config_info{{{text}}} 1.0\n"


OWN = line(kv_cache_size_tokens=4096, block_size=16, num_gpu_blocks=300, enable_prefix_caching=True)
BLOCKS = line(kv_cache_size_tokens=None, block_size=16, num_gpu_blocks=300, enable_prefix_caching=False)


@pytest.mark.parametrize(
    ("page", "capacity"),
    [
        (f"# HELP x\n{OWN}vllm:other 3\n", Capacity(4080, 16, shares_prefix=True)),
        (BLOCKS, Capacity(4784, 16, shares_prefix=False)),
        (OWN + line(1, kv_cache_size_tokens=4096, block_size=16), Capacity(8160, 16, shares_prefix=True)),
        (line(kv_cache_size_tokens=0, block_size=16), None),
        (line(block_size=16, num_gpu_blocks=None), None),
        ("vllm:num_requests_running 0\n", None),
    ],
    ids=["vLLM's own figure", "blocks", "two engines", "no cache", "blocks unknown", "another server"],
)
def test_the_size_of_a_cache_is_read_where_the_server_says_it(page: str, capacity: Capacity | None) -> None:
    assert parse_capacity(page) == capacity


def refused(_: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


@pytest.mark.parametrize("handler", [refused, lambda _: httpx.Response(404), lambda _: httpx.Response(401, text=OWN)])
async def test_a_server_that_does_not_answer_says_nothing(handler: Callable[[httpx.Request], httpx.Response]) -> None:
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        assert await read_capacity(client, "http://a") is None


@dataclass(slots=True)
class Pages(httpx.AsyncBaseTransport):
    """Answers every server after so long, and counts how many wait at once."""

    seconds: float
    num_waiting: int = 0
    most_waiting: int = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.num_waiting += 1
        self.most_waiting = max(self.most_waiting, self.num_waiting)
        await asyncio.sleep(self.seconds)
        self.num_waiting -= 1
        return httpx.Response(200, text=OWN)


async def ask(pages: Pages, count: int) -> tuple[int, float]:
    """Return how many of so many servers have said how much they hold, and how long that took, seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with httpx.AsyncClient(transport=pages) as client:
        found = await read_capacities(client, [f"http://server-{number}" for number in range(count)])
    assert len(found) == count
    return sum(capacity is not None for capacity in found.values()), loop.time() - began


def test_of_many_servers_some_are_asked_at_once_and_all_are_heard() -> None:
    pages = Pages(seconds=0.1)

    num_heard, _ = run_virtually(ask(pages, 512))

    assert num_heard == 512
    assert pages.most_waiting == AT_ONCE


def test_servers_that_stand_still_hold_a_phase_up_for_a_bounded_time() -> None:
    num_heard, seconds = run_virtually(ask(Pages(seconds=3600.0), 512))

    assert num_heard == 0
    assert seconds == pytest.approx(ALL_SECONDS)
