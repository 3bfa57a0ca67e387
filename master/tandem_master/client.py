"""The HTTP client with which the loop speaks to the pods of its job: to trainers' engines and to servers."""

import ssl

import httpx
from aiohttp import ClientError, ClientSession, DummyCookieJar, ServerDisconnectedError, TCPConnector
from httpx_aiohttp import AiohttpTransport

from tandem_checkpoint.tls import Trust

CONNECT_SECONDS = 10.0
KEPT_SECONDS = 3.0
"""How long an idle connection is kept open: less than uvicorn keeps it, so that none ends while it is used again."""


def pod_client(token: str, trust: Trust | None = None) -> httpx.AsyncClient:
    """Return a client that shows the job's token: no proxy of the environment, no limit of connections, no deadline but
    to connect.

    Below it is aiohttp's pool of connections: httpx's own looks at all of them for each request, which with some
    hundreds open takes longer than all else that is done for the request. With `trust`, pods that speak TLS are
    believed where their certificate holds for its name, whatever their address.
    """
    context = httpx.create_ssl_context(trust_env=False) if trust is None else trust.context
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {token}"},
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        transport=PodTransport(verify=context, trust_env=False, client=lambda: _session(context)),
        trust_env=False,
        event_hooks={} if trust is None else {"request": [NamedServer(trust.name)]},
    )


def _session(context: ssl.SSLContext) -> ClientSession:
    """Return what holds the connections; it is made in the event loop that uses it."""
    connector = TCPConnector(limit=0, keepalive_timeout=KEPT_SECONDS, ssl=context)
    return ClientSession(connector=connector, cookie_jar=DummyCookieJar(), trust_env=False)


class PodTransport(AiohttpTransport):
    """Errors by httpx's names: without it whatever befalls a connection is a timeout, and a bad answer none of them."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; return the answer, whose body is still to come. Errors: httpx.TransportError."""
        try:
            return await super().handle_async_request(request)
        except httpx.TimeoutException as error:
            if isinstance(error.__cause__, TimeoutError):
                raise
            kind = (
                httpx.RemoteProtocolError
                if isinstance(error.__cause__, ServerDisconnectedError)
                else httpx.ConnectError
            )
            raise kind(str(error)) from error
        except ClientError as error:
            raise httpx.RemoteProtocolError(str(error)) from error


class NamedServer:
    """Has each request ask for a certificate of one name."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def __call__(self, request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = self._name
