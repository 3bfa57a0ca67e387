"""What a server's /metrics page says of its cache."""

from collections.abc import Callable

import httpx
import pytest

from tandem_master.rollout.capacity import Capacity, parse_capacity, read_capacity


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
