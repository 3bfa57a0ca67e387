"""`/metrics` of the master: off unless a port is named, and for those who hold the job's token."""

import logging
import secrets
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from aiohttp import web

from tandem_api.engine import ProblemDetails
from tandem_master.errors import SettingsError
from tandem_master.metrics import CONTENT_TYPE_LATEST

logger = logging.getLogger(__name__)

PORT_VARIABLE = "TANDEM_METRICS_PORT"
CLOSE_SECONDS = 1.0
"""Time that open requests get at the end."""
MOST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Listening:
    """Where the metrics are to be had; where port 0 was asked for, the port that was taken."""

    address: str
    port: int


def metrics_port(environment: Mapping[str, str]) -> int | None:
    """Return the port that the environment names, None for no metrics. Errors: SettingsError."""
    text = environment.get(PORT_VARIABLE, "")
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) <= MOST_PORT:
        raise SettingsError(f"{PORT_VARIABLE}: is {text!r}; use a port from 1 to {MOST_PORT}, or leave it unset")
    return int(text)


@asynccontextmanager
async def metrics_served(
    address: str, port: int, token: str, rendered: Callable[[], bytes], tls: ssl.SSLContext | None = None
) -> AsyncIterator[Listening]:
    """Serve what `rendered` returns at `/metrics` while the context is open.

    `token`: the job's; a request must carry it as its bearer token. `tls`: None for plain HTTP.
    Errors: SettingsError where nobody can listen there.
    """
    runner = web.AppRunner(build_app(token, rendered), access_log=None, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, address, port, ssl_context=tls, reuse_address=True)
        try:
            await site.start()
        except OSError as error:
            raise SettingsError(
                f"{PORT_VARIABLE}: nobody can listen on {address}:{port} ({error.strerror}); name another port"
            ) from None
        listening = Listening(address, runner.addresses[0][1])
        logger.info("metrics on %s:%d", listening.address, listening.port)
        yield listening
    finally:
        await runner.cleanup()


def build_app(token: str, rendered: Callable[[], bytes]) -> web.Application:
    """Return the application: metrics, as Prometheus reads them; anybody else's request is 401 (RFC 9457)."""

    async def metrics(request: web.Request) -> web.Response:
        if not _is_authorized(request, token):
            return _unauthorized()
        return web.Response(body=rendered(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics)])
    return app


def _is_authorized(request: web.Request, token: str) -> bool:
    sent = request.headers.get("Authorization", "")
    return secrets.compare_digest(sent.encode(), f"Bearer {token}".encode())


def _unauthorized() -> web.Response:
    problem = ProblemDetails(
        title="Unauthorized",
        status=401,
        detail="the request has no token, or another job's; send the token of the job's Secret as a bearer token",
    )
    return web.Response(
        status=401,
        body=problem.model_dump_json(),
        headers={"Content-Type": "application/problem+json", "WWW-Authenticate": "Bearer"},
    )
