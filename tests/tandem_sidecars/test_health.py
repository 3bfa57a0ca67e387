"""A server that asks itself whether it answers, also over TLS."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tandem_checkpoint.tls import service_name
from tandem_sidecars.vllm.health import ServerEnded, check_health, own_context
from tests.tandem_checkpoint.certificates import Authority, Pair
from tests.tandem_checkpoint.etcd_process import free_address

NAME = service_name("default", "toy")
PORT = 8000


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "keys")


@asynccontextmanager
async def answering(status: bytes, pair: Pair | None = None) -> AsyncIterator[str]:
    """Answer every request with a status; yield the address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n")
        await writer.drain()
        writer.close()

    context = None
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.cert, pair.key)
    address = free_address()
    async with await asyncio.start_server(answer, address, PORT, ssl=context):
        yield address


async def test_a_server_without_certificate_is_asked_in_the_clear() -> None:
    async with answering(b"200 OK") as address:
        await check_health(address, PORT, own_context(None))


async def test_a_server_that_is_not_well_has_ended() -> None:
    async with answering(b"503 Service Unavailable") as address:
        with pytest.raises(ServerEnded, match="503 Service Unavailable"):
            await check_health(address, PORT, own_context(None))


async def test_the_servers_own_certificate_is_believed_whatever_name_it_holds_for(authority: Authority) -> None:
    pair = authority.issue("pods", [NAME])

    async with answering(b"200 OK", pair) as address:
        await check_health(address, PORT, own_context(str(pair.cert)))


async def test_another_certificate_of_the_same_authority_is_not(authority: Authority) -> None:
    own, other = authority.issue("pods", [NAME]), authority.issue("others", [NAME])

    async with answering(b"200 OK", other) as address:
        with pytest.raises(ssl.SSLCertVerificationError):
            await check_health(address, PORT, own_context(str(own.cert)))
