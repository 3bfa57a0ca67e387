"""The ranks of a pod are one to whoever speaks to them; a late answer is never taken for another one."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import psutil
import pytest

from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.process.commands import Exported, FolderSource, Moved, Offload, RankPlace, Reload, Save, Saved
from tandem_checkpoint.process.ranks import CommandRefused, RankGroup
from tests.tandem_checkpoint.test_processes import ENVIRONMENT, SOON

PROGRAM = (sys.executable, "-m", "tests.tandem_checkpoint.programs.rank")
PLACES = tuple(
    RankPlace(rank=rank, world_size=4, local_rank=rank - 2, rendezvous_address="127.0.0.1", rendezvous_port=29500)
    for rank in (2, 3)
)
POLICY = FolderSource(path="/policy")

Start = Callable[[str], Awaitable[RankGroup]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts two ranks of a manner (see programs/rank.py), and kills them at the end."""
    started: list[RankGroup] = []

    async def start(manner: str) -> RankGroup:
        started.append(await RankGroup.start([*PROGRAM, manner], ENVIRONMENT, num_ranks=2, inherit=()))
        return started[-1]

    yield start
    await asyncio.gather(*(group.kill() for group in started))


@pytest.fixture
def built(start: Start) -> Start:
    async def build(manner: str) -> RankGroup:
        group = await start(manner)
        await group.build(PLACES, POLICY)
        return group

    return build


async def test_ranks_build_at_their_places_once_they_are_told_to(start: Start) -> None:
    group = await start("obey")
    assert group.device_bytes == 0

    await group.build(PLACES, POLICY)

    assert group.device_bytes == 102 + 103


async def test_ranks_are_spoken_to_as_one_and_answer_in_order(built: Start) -> None:
    group = await built("obey")

    answers = await group.ask(lambda _: Offload(), Moved)

    assert [answer.device_bytes for answer in answers] == [2, 3]


async def test_a_source_that_cannot_be_read_is_refused_with_its_reason(start: Start) -> None:
    group = await start("unreadable")

    with pytest.raises(CommandRefused, match="/policy holds no weights"):
        await group.build(PLACES, POLICY)


async def test_a_command_that_one_rank_refuses_is_refused_with_its_reason(built: Start) -> None:
    group = await built("refuse")

    with pytest.raises(CommandRefused, match="rank 3 will not"):
        await group.ask(lambda _: Offload(), Moved)


async def test_after_a_refusal_the_ranks_go_on(built: Start) -> None:
    group = await built("refuse")
    with pytest.raises(CommandRefused):
        await group.ask(lambda _: Offload(), Moved)

    answers = await group.ask(lambda _: Reload(), Moved)

    assert [answer.device_bytes for answer in answers] == [1002, 1003]


async def test_a_rank_that_dies_over_a_command_is_named_though_others_never_answer(built: Start) -> None:
    group = await built("die")

    with pytest.raises(ChildGone, match="trainer rank 3 exited with code 9"):
        await group.ask(lambda _: Offload(), Moved)

    assert (await group.first_end()).startswith("trainer rank 3 exited with code 9")


async def test_an_answer_that_comes_after_its_deadline_is_not_taken_for_the_next_one(built: Start) -> None:
    group = await built("slow")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await group.ask(lambda _: Offload(), Moved)
    assert group.in_doubt

    answers = await group.ask(lambda _: Reload(), Moved)

    assert [answer.device_bytes for answer in answers] == [1002, 1003]
    assert not group.in_doubt


async def test_a_late_answer_of_the_first_rank_alone_is_dropped_too(built: Start) -> None:
    group = await built("slow")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await group.ask_first(Offload(), Moved)

    saved = await group.ask_first(Save(path="/policy"), Saved)
    answers = await group.ask(lambda _: Reload(), Moved)

    assert saved.num_bytes == 7
    assert [answer.device_bytes for answer in answers] == [1002, 1003]


async def test_a_rank_that_stays_busy_with_an_older_command_is_named(
    built: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = await built("obey")
    pids = [child.pid for child in psutil.Process().children() if "programs.rank" in " ".join(child.cmdline())]
    os.kill(pids[1], signal.SIGSTOP)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await group.ask(lambda _: Offload(), Moved)
    monkeypatch.setattr("tandem_checkpoint.process.ranks.LATE_SECONDS", 2.0)

    with pytest.raises(TimeoutError, match="trainer rank 3 is still busy with an older command"):
        await group.ask(lambda _: Reload(), Moved)


async def test_two_who_ask_at_once_get_an_answer_each(built: Start) -> None:
    group = await built("obey")

    async with asyncio.timeout(SOON):
        away, back = await asyncio.gather(group.ask(lambda _: Offload(), Moved), group.ask(lambda _: Reload(), Moved))

    assert [answer.device_bytes for answer in (*away, *back)] == [2, 3, 1002, 1003]


async def test_an_answer_of_the_wrong_kind_is_a_bug_and_not_passed_over(built: Start) -> None:
    group = await built("obey")

    with pytest.raises(AssertionError, match=r"wanted Exported, got \['moved', 'moved'\]"):
        await group.ask(lambda _: Offload(), Exported)
