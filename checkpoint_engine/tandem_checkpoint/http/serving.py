"""Listening: plain on loopback or behind the pods' network policy, over TLS where there are certificates."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from tandem_checkpoint.settings import require_token
from tandem_checkpoint.tls import TlsFiles

RENEWAL_SECONDS = 30.0
"""How often certificates are looked at; Kubernetes takes a minute to show a changed Secret to a pod."""


class QuietServer(uvicorn.Server):
    """uvicorn without signal handlers: the engine handles its signals itself."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(
    app: FastAPI, host: str, port: int, tls: TlsFiles | None = None, *, renewal_seconds: float = RENEWAL_SECONDS
) -> None:
    """Answer requests until cancelled. A changed certificate is taken over by connections made from then on.

    SettingsError where the app asks for no token and others reach the host.
    """
    require_token(host, app.state.token)
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level="warning",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        ssl_certfile=tls.cert if tls else None,
        ssl_keyfile=tls.key if tls else None,
    )
    config.load()
    server = QuietServer(config)
    renewal = asyncio.create_task(_renew(config, tls, renewal_seconds), name="certificates") if tls else None
    try:
        await server.serve()
    finally:
        await _close(server)
        if renewal is not None:
            renewal.cancel()


async def _close(server: QuietServer) -> None:
    """Stop listening and end every connection; harmless where that has happened, or nothing was begun."""
    if server.started:
        server.force_exit = True
        await server.shutdown()


async def _renew(config: uvicorn.Config, tls: TlsFiles, every_seconds: float) -> None:
    """Take over the certificate whenever its files have changed, forever."""
    assert config.ssl is not None
    known = tls.stamp()
    while True:
        await asyncio.sleep(every_seconds)
        if tls.stamp() != known and tls.load_into(config.ssl):
            known = tls.stamp()
