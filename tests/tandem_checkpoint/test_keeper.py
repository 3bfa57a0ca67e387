"""A zygote is always there: made again when it dies or grows, given up when it does so again and again."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psutil
import pytest

from tandem_checkpoint.process.backoff import Backoff
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.keeper import ZygoteKeeper
from tandem_checkpoint.process.memory import MemoryLimit, resident_bytes
from tests.tandem_checkpoint.test_processes import ENVIRONMENT, until_gone
from tests.tandem_checkpoint.test_zygote import PROGRAM, SOON, serving

Start = Callable[..., Awaitable[ZygoteKeeper]]
MEBIBYTE = 1 << 20


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts keepers of zygotes with some options, and ends them all."""
    started: list[ZygoteKeeper] = []

    async def start(*options: str, most: int = 6, limit: MemoryLimit | None = None) -> ZygoteKeeper:
        started.append(
            await ZygoteKeeper.start(
                [*PROGRAM, *options],
                ENVIRONMENT,
                inherit=(),
                deadline_seconds=SOON,
                backoff=Backoff(most=most),
                limit=limit,
            )
        )
        return started[-1]

    yield start
    await asyncio.gather(*(keeper.kill() for keeper in started))


def pid_of(keeper: ZygoteKeeper) -> int:
    assert keeper.pid is not None
    return keeper.pid


async def until_replaced(keeper: ZygoteKeeper, pid: int) -> None:
    async with asyncio.timeout(SOON):
        while keeper.pid in (None, pid):  # noqa: ASYNC110 - only forking waits for it
            await asyncio.sleep(0.01)


async def test_a_kept_zygote_forks(start: Start) -> None:
    keeper = await start()

    server = await serving(keeper, "serve")

    assert psutil.Process(server.pid).ppid() == keeper.pid
    await server.kill()


async def test_a_zygote_that_dies_is_made_again_without_being_asked(start: Start) -> None:
    keeper = await start()
    first = pid_of(keeper)

    os.kill(first, signal.SIGKILL)

    await until_replaced(keeper, first)


async def test_the_servers_of_a_dead_zygote_have_ended(start: Start) -> None:
    keeper = await start()
    server = await serving(keeper, "serve")

    os.kill(pid_of(keeper), signal.SIGKILL)

    async with asyncio.timeout(SOON):
        assert (await server.wait()).startswith("the server was ended by SIGKILL")
    await until_gone(server.pid)
    await server.kill()


async def test_a_fork_right_after_the_death_waits_for_the_next_zygote(start: Start) -> None:
    keeper = await start()
    first = pid_of(keeper)
    os.kill(first, signal.SIGKILL)

    server = await serving(keeper, "serve")

    assert keeper.pid != first
    assert psutil.Process(server.pid).ppid() == keeper.pid
    await server.kill()


async def test_a_zygote_that_has_stopped_is_replaced_when_it_is_needed(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem_checkpoint.process.zygote.FORK_SECONDS", 0.3)
    keeper = await start()
    first = pid_of(keeper)
    os.kill(first, signal.SIGSTOP)

    server = await serving(keeper, "serve")

    assert keeper.pid != first
    await until_gone(first)
    await server.kill()


async def test_a_zygote_that_has_grown_is_replaced_and_goes_with_its_last_server(start: Start) -> None:
    keeper = await start("--grow-bytes", str(64 * MEBIBYTE), limit=MemoryLimit(factor=10.0, num_bytes=32 * MEBIBYTE))
    first = pid_of(keeper)

    old = await serving(keeper, "serve")
    await until_replaced(keeper, first)

    assert not old.ended.done()
    assert psutil.pid_exists(first)
    await old.kill()
    await until_gone(first)


async def test_a_zygote_that_does_not_grow_stays(start: Start) -> None:
    keeper = await start(limit=MemoryLimit(factor=1.5, num_bytes=32 * MEBIBYTE))
    first = pid_of(keeper)

    for _ in range(5):
        await (await serving(keeper, "serve")).kill()

    assert keeper.pid == first


async def test_a_zygote_that_dies_again_and_again_is_given_up(start: Start, tmp_path: Path) -> None:
    keeper = await start("--broken-unless", str(tmp_path / "started"), most=3)

    os.kill(pid_of(keeper), signal.SIGKILL)

    async with asyncio.timeout(SOON):
        assert (await keeper.wait()).startswith("the vLLM zygote exited with code 3")
    with pytest.raises(ChildGone, match="the vLLM zygote exited with code 3"):
        await keeper.fork(["serve"])


async def test_a_fork_that_waits_for_a_zygote_that_never_comes_ends(start: Start, tmp_path: Path) -> None:
    keeper = await start("--broken-unless", str(tmp_path / "started"), most=3)
    first = pid_of(keeper)
    os.kill(first, signal.SIGKILL)
    await until_gone(first)

    async with asyncio.timeout(SOON):
        with pytest.raises(ChildGone):
            await keeper.fork(["serve"])


async def test_a_keeper_whose_first_zygote_never_comes_up_says_how(start: Start) -> None:
    with pytest.raises(ChildGone, match="the vLLM zygote exited with code 3"):
        await start("--broken", most=2)


async def test_an_ended_keeper_leaves_no_process(start: Start) -> None:
    before = set(psutil.Process().children())
    keeper = await start()
    server = await serving(keeper, "serve")

    await keeper.kill()

    assert set(psutil.Process().children()) <= before
    await until_gone(server.pid)
    await server.kill()


def test_memory_is_exceeded_by_the_factor_or_by_the_bytes_whichever_comes_first() -> None:
    limit = MemoryLimit(factor=2.0, num_bytes=300)

    assert not limit.is_exceeded(100, 200)
    assert limit.is_exceeded(100, 201)
    assert not limit.is_exceeded(1000, 1300)
    assert limit.is_exceeded(1000, 1301)


def test_resident_memory_is_what_others_measure_and_nothing_of_a_process_that_is_gone() -> None:
    assert resident_bytes(os.getpid()) == pytest.approx(psutil.Process().memory_info().rss, rel=0.05)
    assert resident_bytes(2**22 + 1) == 0
