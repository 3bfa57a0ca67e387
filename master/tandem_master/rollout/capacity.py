"""How many tokens a server's key/value cache holds, and how many of them a request needs.

vLLM 0.32 tells the first on its /metrics page, in the labels of `vllm:cache_config_info`.
"""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import ceil

import httpx

from tandem_master.rollout.segments import Ask
from tandem_master.tasks import together

logger = logging.getLogger(__name__)

READ_SECONDS = 1.0
"""Deadline of a server's answer. Where it is missed, samples are counted instead of tokens."""
AT_ONCE = 32
"""Servers that are asked at once: a page has some 50 kB, and all of 512 at once would all be read too late."""
ALL_SECONDS = 10.0
"""Deadline of all answers together, however many servers stand still."""
INFO = "vllm:cache_config_info{"
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Capacity:
    """A server's key/value cache."""

    num_tokens: int
    """Tokens that it holds, over all engines of the server."""
    block_tokens: int = 1
    """It is handed out in blocks of so many."""
    shares_prefix: bool = False
    """Whether the samples of a request hold their common prefix once."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a request may take of a cache until it ends. `num_shared` + samples * `num_own` tokens."""

    num_shared: int
    num_own: int
    """Of each sample."""


def need_of(ask: Ask, capacity: Capacity) -> Need:
    """Return what a request may come to hold, in whole blocks. Only whole blocks are shared."""
    block = capacity.block_tokens
    shared = len(ask.token_ids) // block * block if capacity.shares_prefix else 0
    return Need(shared, ceil((len(ask.token_ids) - shared + ask.max_tokens) / block) * block)


def parse_capacity(page: str) -> Capacity | None:
    """Return what a server's /metrics page says of its cache; None: nothing, or nothing that can be used."""
    engines = [dict(LABEL.findall(line)) for line in page.splitlines() if line.startswith(INFO)]
    sizes = [_num_tokens(labels) for labels in engines]
    if not sizes or None in sizes:
        return None
    return Capacity(
        num_tokens=sum(size for size in sizes if size is not None),
        block_tokens=_number(engines[0], "block_size") or 1,
        shares_prefix=engines[0].get("enable_prefix_caching") == "True",
    )


async def read_capacities(client: httpx.AsyncClient, servers: Sequence[str]) -> Mapping[str, Capacity | None]:
    """Ask servers. None: one does not say, or time was up before."""
    found: dict[str, Capacity | None] = dict.fromkeys(servers)
    seats = asyncio.Semaphore(AT_ONCE)

    async def ask(server: str) -> None:
        async with seats:
            found[server] = await read_capacity(client, server)

    with suppress(TimeoutError):
        async with asyncio.timeout(ALL_SECONDS):
            await together((ask(server) for server in servers), name="ask for capacity")
    num_silent = list(found.values()).count(None)
    if num_silent:
        logger.info("%d of %d servers do not say what their caches hold: there, samples count", num_silent, len(found))
    return found


async def read_capacity(client: httpx.AsyncClient, server: str) -> Capacity | None:
    """Ask a server. None: it does not say."""
    try:
        async with asyncio.timeout(READ_SECONDS):
            response = await client.get(f"{server}/metrics")
    except (httpx.TransportError, TimeoutError):
        return None
    capacity = parse_capacity(response.text) if response.status_code == 200 else None
    logger.debug("%s: %s", server, capacity)
    return capacity


def _num_tokens(labels: dict[str, str]) -> int | None:
    """Return the size of one engine's cache: vLLM's own figure, which knows of models with several kinds of cache."""
    size, blocks, block = (_number(labels, name) for name in ("kv_cache_size_tokens", "num_gpu_blocks", "block_size"))
    if size is None and blocks is not None and block is not None:
        size = blocks * block
    # One block is vLLM's own.
    return None if size is None or size <= (block or 0) else size - (block or 0)


def _number(labels: dict[str, str], name: str) -> int | None:
    text = labels.get(name, "")
    return int(text) if text.isdecimal() and int(text) else None
