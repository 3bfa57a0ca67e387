"""The engine's handle on a zygote and its servers, with a zygote that costs nothing."""

import asyncio
import gc
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.commands import Abort, Bind, Go
from tandem_checkpoint.process.group import group_exists
from tandem_checkpoint.process.keeper import ZygoteKeeper
from tandem_checkpoint.process.leftovers import Sweeper
from tandem_checkpoint.process.server import Server
from tandem_checkpoint.process.zygote import Zygote
from tests.tandem_checkpoint.test_processes import ENVIRONMENT, until_gone

SOON = 10.0
PROGRAM = (sys.executable, "-m", "tests.tandem_checkpoint.programs.zygote")
BIND = Bind(manifest="/nowhere/manifest.json", keeps_copy=False)


@pytest.fixture
def sweeper() -> Sweeper:
    return Sweeper()


@pytest.fixture
async def zygote(sweeper: Sweeper) -> AsyncIterator[Zygote]:
    zygote = await Zygote.start(PROGRAM, ENVIRONMENT, inherit=(), deadline_seconds=SOON, sweeper=sweeper)
    yield zygote
    await zygote.kill()


async def serving(zygote: Zygote | ZygoteKeeper, manner: str) -> Server:
    server = await zygote.fork([manner])
    await server.expect("prepared")
    await server.send(Go())
    await server.send(BIND)
    await server.expect("listening")
    return server


async def waiting_for_weights(zygote: Zygote, manner: str) -> Server:
    server = await zygote.fork([manner])
    await server.send(Go())
    await server.expect("loading")
    return server


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where servers put temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def files_under(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def list_of(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def is_shared(name: str) -> bool:
    return Path("/dev/shm", name).exists()


def leaked(caplog: pytest.LogCaptureFixture) -> str:
    """Return the name of the one segment that a leaky server has told of."""
    (name,) = [line.removeprefix("the server: ") for line in caplog.messages if line.startswith("the server: psm_")]
    return name


async def test_servers_are_forked_into_groups_of_their_own(zygote: Zygote) -> None:
    servers = await asyncio.gather(*(serving(zygote, "serve") for _ in range(3)))

    assert len({server.pid for server in servers}) == 3
    assert {os.getpgid(server.pid) for server in servers} == {server.pid for server in servers}
    await asyncio.gather(*(server.kill() for server in servers))


async def test_a_killed_server_leaves_no_process_of_its_group(zygote: Zygote) -> None:
    server = await serving(zygote, "family")
    assert len(psutil.Process(server.pid).children()) == 1

    await server.kill()

    assert not group_exists(server.pid)
    assert await server.wait() == "the server was ended by SIGKILL; out of memory?"


async def test_a_server_that_has_died_leaves_no_process_of_its_group_either(zygote: Zygote) -> None:
    server = await serving(zygote, "family")
    (child,) = psutil.Process(server.pid).children()

    os.kill(server.pid, signal.SIGSEGV)
    await server.ended

    await until_gone(child.pid)
    await server.kill()


async def test_a_killed_server_leaves_neither_shared_memory_nor_temporary_files(
    zygote: Zygote, scratch: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server = await serving(zygote, "leaky")
    name = leaked(caplog)
    assert is_shared(name)
    assert [path.name for path in files_under(scratch)] == ["vllm_dist_0123"]

    await server.kill()
    await zygote.kill()

    assert not is_shared(name)
    assert files_under(scratch) == []


@pytest.mark.parametrize("start", [waiting_for_weights, serving])
async def test_a_server_that_has_died_leaves_no_shared_memory_either(
    zygote: Zygote, caplog: pytest.LogCaptureFixture, start: Callable[[Zygote, str], Awaitable[Server]]
) -> None:
    caplog.set_level("INFO")
    server = await start(zygote, "leaky")
    name = leaked(caplog)
    os.killpg(server.pid, signal.SIGKILL)
    await server.ended

    await server.kill()
    await zygote.kill()

    assert not is_shared(name)


async def test_temporary_files_of_servers_that_nobody_killed_go_with_their_zygote(
    zygote: Zygote, scratch: Path
) -> None:
    server = await serving(zygote, "leaky")

    await zygote.kill()

    assert list_of(scratch) == []
    await server.kill()


async def test_killing_twice_is_harmless(zygote: Zygote) -> None:
    server = await serving(zygote, "serve")

    await server.kill()
    await server.kill()

    assert server.ended.done()


async def test_a_stopped_server_is_killed_like_any_other(zygote: Zygote) -> None:
    server = await serving(zygote, "family")
    os.killpg(server.pid, signal.SIGSTOP)

    await server.kill()

    assert not group_exists(server.pid)


async def test_a_server_that_cannot_load_hands_on_its_reason(zygote: Zygote) -> None:
    server = await zygote.fork(["fail"])
    await server.send(Go())
    await server.send(BIND)

    with pytest.raises(ChildGone, match=r"checksum of model\.norm\.weight differs"):
        await server.expect("loaded")
    await server.kill()


async def test_a_server_that_ends_by_itself_is_told_of_with_its_last_error(zygote: Zygote) -> None:
    server = await zygote.fork(["die"])
    await server.expect("prepared")
    await server.ended

    with pytest.raises(ChildGone, match="the server exited with code 7: ValueError: no such head"):
        await server.expect("loading")
    await server.kill()


async def test_speaking_to_an_ended_server_says_how_it_ended(zygote: Zygote) -> None:
    server = await zygote.fork(["serve"])
    await server.expect("prepared")
    os.kill(server.pid, signal.SIGSEGV)
    await server.ended

    with pytest.raises(ChildGone, match="the server was ended by SIGSEGV"):
        await server.send(Go())
    await server.kill()


async def test_a_fork_that_is_given_up_leaves_no_server_that_nobody_knows(zygote: Zygote, scratch: Path) -> None:
    forking = asyncio.create_task(zygote.fork(["serve"]))
    await asyncio.sleep(0)
    forking.cancel()
    await asyncio.wait({forking})

    following = await zygote.fork(["serve"])

    await following.expect("prepared")
    async with asyncio.timeout(SOON):
        while [child.pid for child in psutil.Process(zygote.pid).children()] != [following.pid]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await following.kill()
    await zygote.kill()
    assert files_under(scratch) == []


async def test_servers_die_with_their_zygote_and_the_engine_notices(zygote: Zygote) -> None:
    server = await serving(zygote, "family")
    (child,) = psutil.Process(server.pid).children()

    os.kill(zygote.pid, signal.SIGKILL)

    async with asyncio.timeout(SOON):
        assert await zygote.wait() == "the vLLM zygote was ended by SIGKILL; out of memory?"
        assert await server.wait() == "the server was ended by SIGKILL; out of memory?"
    await until_gone(server.pid)
    await until_gone(child.pid)
    await server.kill()


async def test_a_zygote_that_dies_over_a_fork_says_how(zygote: Zygote) -> None:
    os.kill(zygote.pid, signal.SIGSTOP)
    forking = asyncio.create_task(zygote.fork(["serve"]))
    await asyncio.sleep(0.05)

    os.kill(zygote.pid, signal.SIGKILL)

    with pytest.raises(ChildGone, match="the vLLM zygote was ended by SIGKILL"):
        await forking


async def test_a_stopped_zygote_forks_nothing_and_says_so(zygote: Zygote, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tandem_checkpoint.process.zygote.FORK_SECONDS", 0.2)
    os.kill(zygote.pid, signal.SIGSTOP)

    with pytest.raises(TimeoutError, match="has not forked a server within"):
        await zygote.fork(["serve"])


async def test_a_server_is_killed_though_its_zygote_has_stopped(
    zygote: Zygote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem_checkpoint.process.server.REAP_SECONDS", 0.2)
    server = await serving(zygote, "family")
    os.kill(zygote.pid, signal.SIGSTOP)

    await server.kill()

    assert not group_exists(server.pid)
    assert not zygote.running


async def test_a_dead_zygote_forks_nothing_and_says_how_it_ended(zygote: Zygote) -> None:
    os.kill(zygote.pid, signal.SIGKILL)
    await zygote.wait()

    with pytest.raises(ChildGone, match="the vLLM zygote was ended by SIGKILL"):
        await zygote.fork(["serve"])


async def test_a_server_told_something_else_answers_it(zygote: Zygote) -> None:
    server = await serving(zygote, "serve")

    await server.send(Abort())

    assert (await server.expect("aborted")).step == "aborted"
    await server.kill()


async def num_held_open(sweeper: Sweeper) -> int:
    """Return how many files this process has open, once no sweep looks through any and earlier tests' are closed."""
    await sweeper.finish()
    gc.collect()
    await asyncio.sleep(0.05)
    return int(psutil.Process().num_fds())


async def test_forking_many_servers_in_turn_holds_on_to_nothing(zygote: Zygote, sweeper: Sweeper) -> None:
    await (await serving(zygote, "serve")).kill()
    before = await num_held_open(sweeper)

    for _ in range(20):
        await (await serving(zygote, "serve")).kill()

    assert await num_held_open(sweeper) <= before


async def test_a_zygote_that_fails_at_its_start_says_how() -> None:
    with pytest.raises(ChildGone, match="the vLLM zygote exited with code 3; its log has the cause"):
        await Zygote.start([*PROGRAM, "--broken"], ENVIRONMENT, inherit=(), deadline_seconds=SOON)


async def test_a_zygote_that_is_not_ready_in_time_is_killed() -> None:
    before = set(psutil.Process().children())

    with pytest.raises(TimeoutError):
        await Zygote.start([*PROGRAM, "--silent"], ENVIRONMENT, inherit=(), deadline_seconds=0.5)

    assert set(psutil.Process().children()) <= before
