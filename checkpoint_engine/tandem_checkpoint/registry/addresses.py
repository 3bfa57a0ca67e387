"""From the names of etcd's hosts to their addresses: the etcd client takes no names."""

import asyncio
import socket
from collections.abc import Sequence

from tandem_checkpoint.registry.errors import RegistryUnreachable

RESOLVE_SECONDS = 10.0


async def resolve(endpoints: Sequence[str]) -> tuple[str, ...]:
    """Return `address:port` of every IPv4 address behind `host:port` endpoints.

    A name that has no address now is left out; RegistryUnreachable where none of them has one.
    """
    found: dict[str, None] = {}
    problems: list[str] = []
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        try:
            async with asyncio.timeout(RESOLVE_SECONDS):
                rows = await asyncio.get_running_loop().getaddrinfo(
                    host, int(port), family=socket.AF_INET, type=socket.SOCK_STREAM
                )
        except OSError as error:  # a missed deadline is one too
            problems.append(f"{host}: no address ({error}); is the name right?")
            continue
        found |= {f"{row[4][0]!s}:{port}": None for row in rows}
    if not found:
        raise RegistryUnreachable(f"etcd: {problems[0]}")
    return tuple(found)
