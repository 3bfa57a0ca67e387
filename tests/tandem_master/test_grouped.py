"""What many tasks want at once is done together, and counts for each of them alone."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from tandem_master.grouped import Grouped


class Disk:
    """Writes a group only when it is let."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.may_write = threading.Event()
        self.refused: set[str] = set()

    def write(self, group: Sequence[str]) -> Sequence[str]:
        assert self.may_write.wait(10)
        self.groups.append(list(group))
        if self.refused & set(group):
            raise OSError("No space left on device")
        return [f"{item} is written" for item in group]


@pytest.fixture
def disk() -> Disk:
    return Disk()


async def begun(commits: Grouped[str, str], *items: str) -> list["asyncio.Task[str]"]:
    tasks = [asyncio.create_task(commits.done(item)) for item in items]
    await asyncio.sleep(0.01)
    return tasks


async def test_what_comes_while_one_group_is_written_is_the_next_one(disk: Disk) -> None:
    commits = Grouped(disk.write, "disk")
    tasks = await begun(commits, "a")
    tasks += await begun(commits, "b", "c")

    disk.may_write.set()
    results = await asyncio.gather(*tasks)

    assert disk.groups == [["a"], ["b", "c"]]
    assert results == ["a is written", "b is written", "c is written"]


async def test_nobody_is_told_before_it_is_written(disk: Disk) -> None:
    commits = Grouped(disk.write, "disk")
    tasks = await begun(commits, "a")

    told_early = tasks[0].done()
    disk.may_write.set()
    await asyncio.gather(*tasks)

    assert not told_early


async def test_all_of_a_group_that_cannot_be_written_are_told_and_later_ones_are_written(disk: Disk) -> None:
    commits = Grouped(disk.write, "disk")
    disk.refused = {"b"}
    tasks = await begun(commits, "a")
    tasks += await begun(commits, "b", "c")
    disk.may_write.set()

    ends = await asyncio.gather(*tasks, return_exceptions=True)
    await commits.done("d")

    assert [type(end) for end in ends] == [str, OSError, OSError]
    assert disk.groups[-1] == ["d"]


async def test_what_its_task_has_given_up_before_its_turn_is_not_written(disk: Disk) -> None:
    commits = Grouped(disk.write, "disk")
    tasks = await begun(commits, "a")
    given_up, kept = await begun(commits, "b", "c")

    given_up.cancel()
    await asyncio.wait([given_up])
    disk.may_write.set()
    await asyncio.gather(*tasks, kept)

    assert disk.groups == [["a"], ["c"]]
