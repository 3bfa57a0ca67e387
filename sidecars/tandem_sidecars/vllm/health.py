"""Whether this server's HTTP side answers: asked over the network, as others will ask it."""

import asyncio
import ssl

HEALTH = b"GET /health HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n"
STAND_SECONDS = 60.0
"""Time from opening the door to the HTTP server's first answer."""


class ServerEnded(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """vLLM has stopped serving by itself."""


def own_context(certificate: str | None) -> ssl.SSLContext | None:
    """Return what believes this server alone: whoever shows the certificate in its file. None: it speaks HTTP."""
    if certificate is None:
        return None
    context = ssl.create_default_context(cafile=certificate)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is believed, not its authority
    context.check_hostname = False  # it holds for the job's name, not for this address
    return context


async def check_health(host: str, port: int, context: ssl.SSLContext | None) -> None:
    """Return once the HTTP server answers that it is well; a connection alone says nothing, as the kernel takes it
    before.

    Errors: ServerEnded where it says otherwise, OSError where it cannot be asked, TimeoutError.
    """
    async with asyncio.timeout(STAND_SECONDS):
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        writer.write(HEALTH)
        status = await reader.readline()
        writer.close()
    if status.split()[1:2] != [b"200"]:
        raise ServerEnded(f"it answered {status.decode()!r} when asked for its health")
