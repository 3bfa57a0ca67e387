"""One vLLM server: parse, wait for the word to go, build the engine, take weights, answer OpenAI requests.

Everything but the weights stands before they are asked for, so a start and the export that it waits for overlap.
"""

import asyncio
import logging
import os
import threading
from argparse import Namespace
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress

import setproctitle
import uvloop
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.launchers.api_server import entry
from vllm.entrypoints.launchers.launcher import setup_server
from vllm.v1.engine.async_llm import AsyncLLM

from tandem_checkpoint.process.channel import ChannelClosed, ChildChannel
from tandem_checkpoint.process.commands import SERVER_COMMAND, Go, Refused, ServerCommand, ServerFailed, ServerStep
from tandem_checkpoint.process.parent import PARENT_VARIABLE, die_with_parent
from tandem_sidecars.vllm.orders import Orders
from tandem_sidecars.vllm.recipes import USAGE, Recipe, make_recipe

logger = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections that wait while the server starts; the kernel's own limit (net.core.somaxconn) may be lower."""
STAND_SECONDS = 60.0
"""Time from the engine's start to the HTTP server's first answer."""
HEALTH = b"GET /health HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n"


class ServerEnded(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """vLLM has stopped serving by itself."""


def run(channel: ChildChannel, words: Sequence[str], recipe: Recipe | None) -> int:
    """Serve until killed; return an exit code. Whatever goes wrong is told to the engine first.

    Args: recipe: what the zygote has made of `words`; None: it could not, and it is tried again here for the reason.
    """
    try:
        uvloop.run(_serve(channel, recipe or make_recipe(words)))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - the top of this process: whatever it was is told
        return _explain(channel, error)
    return 0


async def _serve(channel: ChildChannel, recipe: Recipe) -> None:
    setproctitle.setproctitle(f"tandem-server {recipe.arguments.port}")
    os.environ.update(recipe.variables)
    address, listener = setup_server(recipe.arguments, reuse_port=False)
    listener.listen(BACKLOG)
    _tell(channel, ServerStep(step="prepared"))
    command = SERVER_COMMAND.validate_json(channel.receive())
    assert isinstance(command, Go)
    _take_children_along()
    engine = await _build_engine(recipe)
    orders = Orders(engine, lambda answer: _tell(channel, answer))
    entry.build_app = recipe.app_for  # by which build_and_serve makes its routes
    serving = _serve_http(engine, entry.build_and_serve(engine, address, listener, recipe.arguments))
    work = [
        asyncio.create_task(_obey(channel, orders, recipe.arguments), name="commands"),
        asyncio.create_task(serving, name="HTTP server"),
    ]
    (ended, *_), _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
    # No orderly shutdown: what the workers hold may be half new, so nothing may run on.
    os._exit(_explain(channel, ended.exception()))


async def _build_engine(recipe: Recipe) -> AsyncLLM:
    """Start vLLM's engine, as build_async_engine_client does, but with a configuration that is there already."""
    words = recipe.engine_arguments
    engine: AsyncLLM = AsyncLLM.from_vllm_config(
        recipe.config,
        usage_context=USAGE,
        enable_log_requests=words.enable_log_requests,
        aggregate_engine_logging=words.aggregate_engine_logging,
        disable_log_stats=words.disable_log_stats,
    )
    await engine.reset_mm_cache()
    return engine


async def _obey(channel: ChildChannel, orders: Orders, arguments: Namespace) -> None:
    """Hold all requests back until there are weights, and carry out what the engine says."""
    await orders.pause()
    await _answers(arguments.host, arguments.port)
    _tell(channel, ServerStep(step="loading"))
    next_command = _listen(channel)
    while True:
        await orders.carry_out(await next_command())


def _take_children_along() -> None:
    """Have every process that is forked from here end with the one that forked it: vLLM's engine and its workers."""
    os.environ.pop(PARENT_VARIABLE, None)
    os.register_at_fork(after_in_child=die_with_parent)


async def _serve_http(engine: EngineClient, serving: Coroutine[None, None, Awaitable[None]]) -> None:
    """Run the HTTP server, which is not to end before this process does; no request comes before the pause."""
    while not await engine.is_paused():  # each turn is a question to vLLM's engine core, and its answer
        continue
    await (await serving)
    raise ServerEnded("it has stopped by itself; its log has the cause")


async def _answers(host: str, port: int) -> None:
    """Return once the HTTP server answers: a connection alone says nothing, as the kernel takes it before."""
    async with asyncio.timeout(STAND_SECONDS):
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(HEALTH)
        status = await reader.readline()
        writer.close()
    if status.split()[1:2] != [b"200"]:
        raise ServerEnded(f"it answered {status.decode()!r} when asked for its health")


def _listen(channel: ChildChannel) -> Callable[[], Awaitable[ServerCommand]]:
    """Return what gives the next command; a thread reads, since the channel blocks. Raises: ChannelClosed."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def read() -> None:
        with suppress(RuntimeError):  # the loop has ended
            try:
                while True:
                    loop.call_soon_threadsafe(lines.put_nowait, channel.receive())
            except ChannelClosed:
                loop.call_soon_threadsafe(lines.put_nowait, None)

    async def next_command() -> ServerCommand:
        line = await lines.get()
        if line is None:
            raise ChannelClosed("the engine has ended")
        return SERVER_COMMAND.validate_json(line)

    threading.Thread(target=read, name="engine commands", daemon=True).start()
    return next_command


def _tell(channel: ChildChannel, answer: ServerStep | Refused | ServerFailed) -> None:
    channel.send(answer.model_dump_json())


def _explain(channel: ChildChannel, error: BaseException | None) -> int:
    """Tell the engine why this server ends, and return the exit code."""
    if isinstance(error, ChannelClosed):
        return 0
    logger.error("vLLM could not serve", exc_info=error)
    _tell(channel, ServerFailed(reason=" ".join(f"vLLM could not serve: {error}".split())))
    return 1
