"""One vLLM server: parse, wait for the word to go, bind the segment, answer OpenAI requests."""

import asyncio
import logging
import threading
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from vllm.engine.protocol import EngineClient
from vllm.entrypoints.launchers.api_server.entry import build_and_serve, build_async_engine_client
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import setup_server
from vllm.utils.argparse_utils import FlexibleArgumentParser

from tandem_checkpoint.process.channel import ChannelClosed, ChildChannel
from tandem_checkpoint.process.commands import SERVER_COMMAND, Abort, Go, ServerFailed, ServerStep
from tandem_sidecars.vllm.loader import Binding

logger = logging.getLogger(__name__)

LISTEN_SECONDS = 30.0
LISTEN_POLL_SECONDS = 0.005


def run(channel: ChildChannel, arguments: Sequence[str], device: str) -> int:
    """Serve until killed; return an exit code. Whatever goes wrong is told to the engine first."""
    import setproctitle
    import uvloop

    setproctitle.setproctitle(f"tandem-server {arguments[-1]}")
    try:
        uvloop.run(_serve(channel, parse(arguments)))
    except ChannelClosed:
        return 0
    except (Exception, SystemExit) as error:
        logger.exception("vLLM could not serve")
        _tell(channel, f"vLLM could not serve: {error}")
        return 1
    return 0


def parse(arguments: Sequence[str]) -> Namespace:
    """Return vLLM's own parsed arguments."""
    parsed: Namespace = make_arg_parser(FlexibleArgumentParser()).parse_args(list(arguments))
    validate_parsed_serve_args(parsed)
    return parsed


async def _serve(channel: ChildChannel, arguments: Namespace) -> None:
    address, listener = setup_server(arguments, reuse_port=False)
    _step(channel, "prepared")
    command = SERVER_COMMAND.validate_json(channel.receive())
    assert isinstance(command, Go)
    Binding.manifest = Path(command.manifest)
    Binding.on_step = staticmethod(lambda step: _step(channel, step))
    Binding.on_failure = staticmethod(lambda reason: _tell(channel, reason))
    async with build_async_engine_client(arguments) as engine, asyncio.TaskGroup() as tasks:
        tasks.create_task(_announce(channel, engine, arguments), name="announce")
        await (await build_and_serve(engine, address, listener, arguments))


async def _announce(channel: ChildChannel, engine: EngineClient, arguments: Namespace) -> None:
    """Tell the engine as soon as requests are answered, and take its commands from then on."""
    await _reachable(arguments.host, arguments.port)
    _listen_for_abort(channel, engine)
    _step(channel, "listening")


async def _reachable(host: str, port: int) -> None:
    """Return once the server accepts connections: uvicorn starts in a task of its own."""
    async with asyncio.timeout(LISTEN_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, port)
            except ConnectionRefusedError:
                await asyncio.sleep(LISTEN_POLL_SECONDS)
                continue
            writer.close()
            return


def _listen_for_abort(channel: ChildChannel, engine: EngineClient) -> None:
    """Carry out the engine's commands beside the server, from a thread since the channel blocks."""
    loop = asyncio.get_running_loop()

    def listen() -> None:
        try:
            while isinstance(SERVER_COMMAND.validate_json(channel.receive()), Abort):
                asyncio.run_coroutine_threadsafe(engine.pause_generation(mode="abort"), loop).result()
                _step(channel, "aborted")
        except (ChannelClosed, RuntimeError):
            return

    threading.Thread(target=listen, name="engine commands", daemon=True).start()


def _step(channel: ChildChannel, step: str) -> None:
    channel.send(ServerStep.model_validate({"step": step}).model_dump_json())


def _tell(channel: ChildChannel, reason: str) -> None:
    channel.send(ServerFailed(reason=" ".join(reason.split())).model_dump_json())
