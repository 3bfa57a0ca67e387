"""A server's HTTP side: vLLM's own application and HTTP server, made before there is an engine behind them.

vLLM makes both from an engine that stands, which costs a switch about as long as the engine's start itself with a small
policy. Here the engine is promised: vLLM's build_and_serve runs as it is, up to where it would take connections, and
waits there until the door is opened.
"""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from vllm.config import VllmConfig
from vllm.entrypoints.launchers.api_server import entry
from vllm.v1.engine import async_llm
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.input_processor import InputProcessor

from tandem_sidecars.vllm.health import ServerEnded, check_health, own_context
from tandem_sidecars.vllm.recipes import TASKS, USAGE, Recipe


class PromisedEngine:
    """Stands where vLLM's HTTP side expects its engine: what a configuration tells is here, all else is the engine's.

    Before there is one, only questions that come by themselves (is it in order, log its figures) are answered.
    """

    def __init__(self, config: VllmConfig, renderer: Any) -> None:
        self.vllm_config = config
        self.model_config = config.model_config
        self.renderer = renderer
        self.input_processor = InputProcessor(config, renderer)
        self._engine: AsyncLLM | None = None

    def keep(self, engine: AsyncLLM) -> None:
        """Pass everything on to this engine from now on."""
        self._engine = engine

    @property
    def errored(self) -> bool:
        return self._engine is not None and self._engine.errored

    async def do_log_stats(self) -> None:
        if self._engine is not None:
            await self._engine.do_log_stats()

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return TASKS

    def shutdown(self, timeout: float | None = None) -> None:
        if self._engine is not None:
            self._engine.shutdown(timeout=timeout)

    def __getattr__(self, name: str) -> Any:
        engine = self.__dict__.get("_engine")
        if engine is None:
            raise AttributeError(f"{name}: there is no engine yet")
        return getattr(engine, name)


class Front:
    """The HTTP side of one server."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._engine = PromisedEngine(recipe.config, recipe.renderer)
        self._context = own_context(recipe.arguments.ssl_certfile)
        self._stands = asyncio.Event()
        self._opened = asyncio.Event()

    async def serve(self, address: str, listener: socket.socket) -> None:
        """Make the HTTP side, and serve once the door is open; it is not to end before this process does."""
        app = self._recipe.app
        app.router.lifespan_context = self._held(app.router.lifespan_context)
        entry.build_app = lambda *_: app  # by which build_and_serve makes its routes
        await (await entry.build_and_serve(self._engine, address, listener, self._recipe.arguments))
        raise ServerEnded("it has stopped by itself; its log has the cause")

    async def stands(self) -> None:
        """Return once all is there but the engine."""
        await self._stands.wait()

    def start_engine(self) -> AsyncLLM:
        """Start vLLM's engine, as build_async_engine_client does, but with what is there already. Blocks."""
        words, config, renderer = self._recipe.engine_arguments, self._recipe.config, self._recipe.renderer
        async_llm.renderer_from_config = lambda _: renderer  # one of them, as vLLM's own HTTP side has it
        engine: AsyncLLM = AsyncLLM.from_vllm_config(
            config,
            usage_context=USAGE,
            enable_log_requests=words.enable_log_requests,
            aggregate_engine_logging=words.aggregate_engine_logging,
            disable_log_stats=words.disable_log_stats,
        )
        self._engine.keep(engine)
        return engine

    async def open(self) -> None:
        """Take connections; return once the HTTP server answers. Errors: those of check_health."""
        self._opened.set()
        await check_health(self._recipe.arguments.host, self._recipe.arguments.port, self._context)

    def _held(self, lifespan: Any) -> Any:
        """Return vLLM's lifespan, which the HTTP server goes through before it takes connections, held at its end."""

        @asynccontextmanager
        async def held(app: FastAPI) -> AsyncIterator[Any]:
            started: AbstractAsyncContextManager[Any] = lifespan(app)
            async with started as state:
                self._stands.set()
                await self._opened.wait()
                yield state

        return held
