"""Resident and Sleep: servers that live on between Infer phases, with a zygote that costs nothing."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.zygote import Zygote
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.strategies.resident import Resident
from tandem_checkpoint.switch.strategies.sleep import Sleep, SleepRefused, check_device
from tests.tandem_checkpoint.test_processes import ENVIRONMENT
from tests.tandem_checkpoint.test_zygote import PROGRAM, SOON

MANIFEST = Path("/nowhere/manifest.json")


@pytest.fixture
async def zygote() -> AsyncIterator[Zygote]:
    zygote = await Zygote.start(PROGRAM, ENVIRONMENT, inherit=(), deadline_seconds=SOON)
    yield zygote
    await zygote.kill()


async def weights() -> Path:
    return MANIFEST


def pids(strategy: Resident | Sleep) -> list[int]:
    return [server.pid for server in strategy.servers]


async def resident(zygote: Zygote, *manners: str) -> Resident:
    strategy = Resident(zygote, [(manner,) for manner in manners])
    await strategy.prepare()
    await strategy.serve(weights, Stopwatch())
    return strategy


async def test_a_resident_server_serves_phase_after_phase(zygote: Zygote) -> None:
    strategy = await resident(zygote, "serve", "serve")
    before = pids(strategy)

    await strategy.release()
    await strategy.prepare()
    await strategy.serve(weights, Stopwatch())

    assert pids(strategy) == before
    await strategy.close()


async def test_one_that_has_died_between_phases_is_replaced_in_the_next(zygote: Zygote) -> None:
    strategy = await resident(zygote, "serve", "serve")
    first, second = strategy.servers
    await strategy.release()
    os.kill(first.pid, signal.SIGKILL)
    await first.ended

    await strategy.prepare()
    await strategy.serve(weights, Stopwatch())

    assert pids(strategy)[0] != first.pid
    assert pids(strategy)[1] == second.pid
    await strategy.close()


async def test_one_that_has_died_while_serving_is_revived_alone(zygote: Zygote) -> None:
    strategy = await resident(zygote, "serve", "serve")
    first, second = strategy.servers
    os.kill(first.pid, signal.SIGKILL)
    assert await strategy.first_end() == "a server has ended; its log has the cause"

    await strategy.revive()

    assert pids(strategy)[0] != first.pid
    assert pids(strategy)[1] == second.pid
    await strategy.close()


async def test_one_that_does_not_abort_in_time_is_killed_and_replaced(
    zygote: Zygote, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tandem_checkpoint.switch.strategies.servers.ABORT_SECONDS", 0.1)
    strategy = await resident(zygote, "deaf")
    (deaf,) = strategy.servers

    await strategy.release()
    await strategy.prepare()

    assert "did not abort its requests" in caplog.text
    assert deaf.ended.done()
    assert pids(strategy) != [deaf.pid]
    await strategy.close()


async def test_one_whose_switch_was_given_up_is_in_doubt_and_replaced(zygote: Zygote) -> None:
    strategy = Resident(zygote, [("serve",)])
    await strategy.prepare()
    (doubtful,) = strategy.servers
    serving = asyncio.create_task(strategy.serve(weights, Stopwatch()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving

    await strategy.release()
    await strategy.prepare()
    await strategy.serve(weights, Stopwatch())

    assert doubtful.ended.done()
    assert pids(strategy) != [doubtful.pid]
    await strategy.close()


async def test_a_switch_that_waits_for_its_weights_may_be_given_up_without_doubt(zygote: Zygote) -> None:
    asked = asyncio.Event()

    async def never() -> Path:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    strategy = Resident(zygote, [("serve",)])
    await strategy.prepare()
    before = pids(strategy)
    serving = asyncio.create_task(strategy.serve(never, Stopwatch()))
    await asyncio.wait_for(asked.wait(), SOON)
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving

    await strategy.release()
    await strategy.prepare()
    await strategy.serve(weights, Stopwatch())

    assert pids(strategy) == before
    await strategy.close()


async def test_a_server_that_ends_over_its_weights_says_why(zygote: Zygote) -> None:
    strategy = Resident(zygote, [("fail",)])
    await strategy.prepare()

    with pytest.raises(ChildGone, match=r"checksum of model\.norm\.weight differs"):
        await strategy.serve(weights, Stopwatch())

    await strategy.close()


async def test_a_sleeper_sleeps_between_phases_and_lives_on(zygote: Zygote) -> None:
    strategy = Sleep(zygote, [("serve",)])
    await strategy.prepare()
    await strategy.serve(weights, Stopwatch())
    before = pids(strategy)

    await strategy.abort()
    held = await strategy.release()
    await strategy.release()
    await strategy.prepare()
    await strategy.serve(weights, Stopwatch())

    assert pids(strategy) == before
    assert held == 0
    await strategy.close()


def test_sleep_is_refused_on_a_cpu_in_one_line() -> None:
    with pytest.raises(SleepRefused) as caught:
        check_device("cpu")

    assert str(caught.value) == ("spec.switch.strategy: Sleep needs a CUDA device; use Restart or Resident on a CPU")
