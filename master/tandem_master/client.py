"""The HTTP client with which the loop speaks to the pods of its job: to trainers' engines and to servers."""

import httpx

from tandem_checkpoint.tls import Trust

CONNECT_SECONDS = 10.0
KEPT_CONNECTIONS = 64
"""Idle connections that are kept open."""


def pod_client(token: str, trust: Trust | None = None) -> httpx.AsyncClient:
    """Return a client that shows the job's token: no proxy of the environment, no limit of connections, no deadline but
    to connect.

    With `trust`, pods that speak TLS are believed where their certificate holds for its name, whatever their address.
    """
    return httpx.AsyncClient(
        headers={"Authorization": f"Bearer {token}"},
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS),
        trust_env=False,
        verify=True if trust is None else trust.context,
        event_hooks={} if trust is None else {"request": [NamedServer(trust.name)]},
    )


class NamedServer:
    """Has each request ask for a certificate of one name."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def __call__(self, request: httpx.Request) -> None:
        request.extensions["sni_hostname"] = self._name
