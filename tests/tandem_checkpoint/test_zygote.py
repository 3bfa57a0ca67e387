"""The engine's handle on a zygote and its servers, with a zygote that costs nothing."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tandem_checkpoint.process.child import ChildGone, group_exists
from tandem_checkpoint.process.commands import Abort, Go
from tandem_checkpoint.process.zygote import Zygote
from tandem_checkpoint.switch.stopwatch import Stopwatch
from tandem_checkpoint.switch.strategies.restart import Restart
from tests.tandem_checkpoint.test_processes import ENVIRONMENT, until_gone

SOON = 10.0
PROGRAM = (sys.executable, "-m", "tests.tandem_checkpoint.programs.zygote")
MANIFEST = Path("/nowhere/manifest.json")


@pytest.fixture
async def zygote() -> AsyncIterator[Zygote]:
    zygote = await Zygote.start(PROGRAM, ENVIRONMENT, inherit=(), deadline_seconds=SOON)
    yield zygote
    await zygote.kill()


class Pod:
    """Starts servers by their manners, and stops them all at the end."""

    def __init__(self, zygote: Zygote) -> None:
        self._zygote = zygote
        self._strategies: list[Restart] = []

    async def prepared(self, *manners: str) -> Restart:
        restart = Restart(self._zygote, [(manner,) for manner in manners])
        self._strategies.append(restart)
        await restart.prepare()
        return restart

    async def serving(self, *manners: str) -> Restart:
        restart = await self.prepared(*manners)
        await restart.serve(MANIFEST, Stopwatch())
        return restart

    async def stop(self) -> None:
        await asyncio.gather(*(restart.stop() for restart in self._strategies))


@pytest.fixture
async def pod(zygote: Zygote) -> AsyncIterator[Pod]:
    pod = Pod(zygote)
    yield pod
    await pod.stop()


async def test_all_servers_of_a_pod_are_forked_and_serve(pod: Pod) -> None:
    stopwatch = Stopwatch()
    restart = await pod.prepared("serve", "serve")

    await restart.serve(MANIFEST, stopwatch)

    assert [span.stage for span in stopwatch.spans] == ["start", "load", "ready"]
    assert len({server.pid for server in restart.servers}) == 2


async def test_a_preparation_that_is_given_up_leaves_no_server_that_nobody_knows(zygote: Zygote) -> None:
    restart = Restart(zygote, [("serve",), ("serve",)])
    preparing = asyncio.create_task(restart.prepare())
    await asyncio.sleep(0)
    await asyncio.sleep(0)

    preparing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await preparing

    assert len(psutil.Process(zygote.pid).children()) == len(restart.servers) == 2
    await restart.stop()
    assert psutil.Process(zygote.pid).children() == []


async def test_a_stopped_server_leaves_no_process_of_its_group(pod: Pod) -> None:
    restart = await pod.serving("family")
    (server,) = restart.servers
    assert len(psutil.Process(server.pid).children()) == 1

    await restart.stop()

    assert not group_exists(server.pid)
    assert restart.servers == ()


async def test_preparing_again_replaces_the_servers(pod: Pod) -> None:
    restart = await pod.serving("serve")
    (old,) = restart.servers

    await restart.prepare()

    assert old.ended.done()
    assert restart.servers[0].pid != old.pid


async def test_a_server_that_cannot_load_hands_on_its_reason(pod: Pod) -> None:
    restart = await pod.prepared("serve", "fail")

    with pytest.raises(ChildGone, match=r"checksum of model\.norm\.weight differs"):
        await restart.serve(MANIFEST, Stopwatch())


async def test_a_server_that_ends_before_the_word_to_go_says_how(pod: Pod) -> None:
    restart = await pod.prepared("die")
    (server,) = restart.servers
    await server.ended

    with pytest.raises(ChildGone, match="the server exited with code 7; its log has the cause"):
        await restart.serve(MANIFEST, Stopwatch())


async def test_speaking_to_an_ended_server_says_how_it_ended(zygote: Zygote) -> None:
    server = await zygote.fork(["serve"])
    await server.expect("prepared")
    os.kill(server.pid, signal.SIGSEGV)
    await server.ended

    with pytest.raises(ChildGone, match="the server was ended by SIGSEGV"):
        await server.send(Go(manifest="m"))
    await server.kill()


async def test_an_abort_is_answered(pod: Pod) -> None:
    restart = await pod.serving("serve", "serve")

    await restart.abort()

    assert not any(server.ended.done() for server in restart.servers)


async def test_an_abort_passes_over_servers_that_have_died(pod: Pod) -> None:
    restart = await pod.serving("serve", "serve")
    os.kill(restart.servers[0].pid, signal.SIGKILL)

    await restart.abort()

    assert not restart.servers[1].ended.done()


async def test_an_abort_that_hears_nothing_gives_up(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tandem_checkpoint.switch.strategies.restart.ABORT_SECONDS", 0.1)
    restart = await pod.serving("deaf")

    await restart.abort()

    assert "did not abort its requests" in caplog.text


async def test_a_stray_abort_before_the_word_to_go_ends_the_server_not_the_zygote(zygote: Zygote) -> None:
    server = await zygote.fork(["serve"])
    await server.expect("prepared")

    await server.send(Abort())

    with pytest.raises(ChildGone):
        await server.expect("aborted")
    assert psutil.pid_exists(zygote.pid)
    await server.kill()


async def test_servers_die_with_their_zygote_and_the_engine_notices(zygote: Zygote, pod: Pod) -> None:
    restart = await pod.serving("serve")
    (server,) = restart.servers

    os.kill(zygote.pid, signal.SIGKILL)

    async with asyncio.timeout(SOON):
        assert await restart.first_end() == "the vLLM zygote was ended by SIGKILL; out of memory?"
        with pytest.raises(ChildGone, match="the server was ended by SIGKILL"):
            await server.expect("aborted")
    await until_gone(server.pid)


async def test_a_dead_zygote_forks_nothing_and_says_how_it_ended(zygote: Zygote) -> None:
    os.kill(zygote.pid, signal.SIGKILL)
    await zygote.wait()

    with pytest.raises(ChildGone, match="the vLLM zygote was ended by SIGKILL"):
        await zygote.fork(["serve"])


async def test_a_zygote_that_fails_at_its_start_says_how() -> None:
    with pytest.raises(ChildGone, match="the vLLM zygote exited with code 3; its log has the cause"):
        await Zygote.start([*PROGRAM, "--broken"], ENVIRONMENT, inherit=(), deadline_seconds=SOON)


async def test_a_zygote_that_is_not_ready_in_time_is_killed() -> None:
    before = set(psutil.Process().children())

    with pytest.raises(TimeoutError):
        await Zygote.start([*PROGRAM, "--silent"], ENVIRONMENT, inherit=(), deadline_seconds=0.5)

    assert set(psutil.Process().children()) == before
