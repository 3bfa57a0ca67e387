"""`/livez`, `/readyz` and `/metrics`, served by a thread of their own: a frozen event loop cannot answer for itself."""

import asyncio
import errno
import logging
import os
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from aiohttp import web

from tandem_operator.program.errors import MachineError
from tandem_operator.program.metrics import CONTENT_TYPE_LATEST
from tandem_operator.program.pulse import Pulse, Verdict
from tandem_operator.program.settings import Address

logger = logging.getLogger(__name__)

START_SECONDS = 10.0
STOP_SECONDS = 5.0
CLOSE_SECONDS = 1.0
"""Time that open requests get at the end."""


class ProbeServer:
    """Serves while its context is open. `address` holds the port that was taken where 0 was asked for."""

    def __init__(self, address: Address, pulse: Pulse, metrics_text: Callable[[], bytes]) -> None:
        self._socket = _listen(address)
        self.address = Address(address.host, self._socket.getsockname()[1])
        self._app = build_app(pulse, metrics_text)
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probes", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(START_SECONDS):
            raise MachineError(f"--metrics-address: no probes within {START_SECONDS:g} s; is the machine overloaded?")
        logger.info("probes and metrics on %s:%d", self.address.host, self.address.port)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(STOP_SECONDS)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=CLOSE_SECONDS)
        await runner.setup()
        try:
            await web.SockSite(runner, self._socket).start()
            self._started.set()
            await self._stop.wait()
        finally:
            await runner.cleanup()


def build_app(pulse: Pulse, metrics_text: Callable[[], bytes]) -> web.Application:
    """Return the application: probes as one line of text, metrics as Prometheus reads them."""

    async def livez(_: web.Request) -> web.Response:
        return _answer(pulse.alive())

    async def readyz(_: web.Request) -> web.Response:
        return _answer(pulse.ready())

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics_text(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/livez", livez), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    return app


def _answer(verdict: Verdict) -> web.Response:
    return web.Response(status=200 if verdict.good else 503, text=f"{verdict.words}\n")


def _listen(address: Address) -> socket.socket:
    """Return a bound socket; MachineError where the address is not to be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        fix = "give another port" if error.errno == errno.EADDRINUSE else "give another address"
        reason = os.strerror(error.errno or 0).lower()
        raise MachineError(f"--metrics-address: {address.host}:{address.port}: {reason}; {fix}") from None
    return listener
