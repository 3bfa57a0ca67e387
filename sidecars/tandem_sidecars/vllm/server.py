"""One vLLM server: parse, build the HTTP side, wait for the word to go, build the engine, take weights, answer.

Everything but the weights stands before they are asked for, so a start and the export that it waits for overlap.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import setproctitle
import uvloop
from vllm.entrypoints.launchers.launcher import setup_server

from tandem_checkpoint.process.channel import ChannelClosed, ChildChannel
from tandem_checkpoint.process.commands import (
    SERVER_COMMAND,
    Fingerprinted,
    Go,
    Refused,
    ServerCommand,
    ServerFailed,
    ServerStep,
)
from tandem_checkpoint.process.parent import PARENT_VARIABLE, die_with_parent
from tandem_sidecars.vllm.front import Front
from tandem_sidecars.vllm.orders import Orders
from tandem_sidecars.vllm.recipes import Recipe, make_recipe

logger = logging.getLogger(__name__)

BACKLOG = 2048
"""Connections that wait while the server starts; the kernel's own limit (net.core.somaxconn) may be lower."""


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
    front = Front(recipe)
    work = [
        asyncio.create_task(_obey(channel, front), name="commands"),
        asyncio.create_task(front.serve(address, listener), name="HTTP server"),
    ]
    (ended, *_), _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
    # No orderly shutdown: what the workers hold may be half new, so nothing may run on.
    os._exit(_explain(channel, ended.exception()))


async def _obey(channel: ChildChannel, front: Front) -> None:
    """Start the engine at the word to go, hold all requests back until there are weights, and carry out what the
    engine says.
    """
    await front.stands()
    assert isinstance(await _first_command(channel), Go)
    _take_children_along()
    engine = front.start_engine()
    orders = Orders(engine, lambda answer: _tell(channel, answer))
    await orders.hold()
    await front.open()  # only now: no request comes before the pause
    _tell(channel, ServerStep(step="loading"))
    next_command = _listen(channel)
    while True:
        await orders.carry_out(await next_command())


async def _first_command(channel: ChildChannel) -> ServerCommand:
    """Return the first command. No thread reads it: the engine is forked from here, and a fork has no threads."""
    said, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(channel.fileno(), said.set)
    await said.wait()
    loop.remove_reader(channel.fileno())
    os.set_blocking(channel.fileno(), True)  # uvloop has changed that
    return SERVER_COMMAND.validate_json(channel.receive())


def _take_children_along() -> None:
    """Have every process that is forked from here end with the one that forked it: vLLM's engine and its workers."""
    os.environ.pop(PARENT_VARIABLE, None)
    os.register_at_fork(after_in_child=_become_child)


def _become_child() -> None:
    """Hear signals oneself: what the HTTP server has set up for them would tell its own loop, in the parent."""
    die_with_parent()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


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


def _tell(channel: ChildChannel, answer: ServerStep | Fingerprinted | Refused | ServerFailed) -> None:
    channel.send(answer.model_dump_json())


def _explain(channel: ChildChannel, error: BaseException | None) -> int:
    """Tell the engine why this server ends, and return the exit code."""
    if isinstance(error, ChannelClosed):
        return 0
    logger.error("vLLM could not serve", exc_info=error)
    _tell(channel, ServerFailed(reason=" ".join(f"vLLM could not serve: {error}".split())))
    return 1
