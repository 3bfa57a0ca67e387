"""Processes end with whoever needs them, and nothing is left behind."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator

import psutil
import pytest

from tandem_checkpoint.process.channel import ChannelClosed
from tandem_checkpoint.process.child import Child, how_it_ended, reap_strays
from tandem_checkpoint.process.group import group_exists, kill_group
from tandem_checkpoint.process.parent import PARENT_VARIABLE, reap_orphans

SOON = 10.0
FAMILY = (sys.executable, "-m", "tests.tandem_checkpoint.programs.family", "3")
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
PARENT_PROGRAM = """
import subprocess, sys, time
from tandem_checkpoint.process.parent import child_environment
import os
argv = [sys.executable, "-c", sys.argv[1]]
grandchild = subprocess.Popen(argv, env=child_environment(os.environ), stdout=subprocess.PIPE)
grandchild.stdout.readline()
print(grandchild.pid, flush=True)
time.sleep(60)
"""
GRANDCHILD_PROGRAM = """
import time
from tandem_checkpoint.process.parent import die_with_parent
die_with_parent()
print("tied", flush=True)
time.sleep(60)
"""
ORPHAN_PROGRAM = """
import os, subprocess, sys, time
from tandem_checkpoint.process.parent import adopt_orphans, reap_orphans
adopt_orphans()
own = subprocess.Popen(["sh", "-c", "exit 5"])
middle = subprocess.run(["sh", "-c", "sleep 0.2 & echo $!"], capture_output=False, stdout=subprocess.PIPE, text=True)
orphan = int(middle.stdout)
reaped = []
while orphan not in reaped:
    reaped += reap_orphans({own.pid})
    time.sleep(0.01)
print(reaped == [orphan], own.wait())
"""

STRAY_PROGRAM = """
import asyncio, os, sys
from tandem_checkpoint.process.child import Child, reap_strays
from tandem_checkpoint.process.parent import adopt_orphans
async def main():
    adopt_orphans()
    child = await Child.start("the child", ["sh", "-c", "setsid sleep 0.1 & exit 5"], dict(os.environ))
    ending = await child.wait()
    while open(f"/proc/self/task/{os.getpid()}/children").read():
        reap_strays()
        await asyncio.sleep(0.01)
    print(ending)
    await child.kill()
asyncio.run(main())
"""


@pytest.fixture
async def family() -> AsyncIterator[Child]:
    child = await Child.start("the family", FAMILY, ENVIRONMENT)
    yield child
    await child.kill()


async def until_gone_for_good(family: Child) -> None:
    """Kill a family and wait until init has reaped what fell to it."""
    await family.channel.receive()
    await family.kill()
    async with asyncio.timeout(SOON):
        while group_exists(family.pid):  # noqa: ASYNC110 - a process group has no event
            await asyncio.sleep(0.01)


async def until_gone(pid: int) -> None:
    """Wait until a process has ended; whoever adopted it may reap it later."""
    async with asyncio.timeout(SOON):
        while _lives(pid):  # noqa: ASYNC110 - another process's child has no event
            await asyncio.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def test_a_child_that_is_tied_to_its_parent_dies_when_the_parent_is_killed() -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT_PROGRAM, GRANDCHILD_PROGRAM, env=ENVIRONMENT, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    grandchild = int(await parent.stdout.readline())

    parent.kill()
    await parent.communicate()

    await until_gone(grandchild)


def test_a_child_whose_parent_died_before_it_could_tie_itself_exits_at_once() -> None:
    nobody = {**ENVIRONMENT, PARENT_VARIABLE: "1"}

    finished = subprocess.run([sys.executable, "-c", GRANDCHILD_PROGRAM], env=nobody, check=False, timeout=SOON)

    assert finished.returncode == 1


async def test_a_channel_carries_lines_both_ways(family: Child) -> None:
    await family.channel.receive()

    await family.channel.send("Zeile mit Umlaut: ü")

    assert await family.channel.receive() == "Zeile mit Umlaut: ü"


async def test_a_channel_carries_a_line_of_many_megabytes(family: Child) -> None:
    await family.channel.receive()
    line = "x" * (8 << 20)

    await asyncio.gather(family.channel.send(line), asyncio.sleep(0))

    assert await family.channel.receive() == line


async def test_killing_a_child_kills_its_whole_group(family: Child) -> None:
    grandchild = int(await family.channel.receive())

    await family.kill()

    await until_gone(grandchild)
    assert not family.running


async def test_killing_a_group_that_is_gone_is_harmless(family: Child) -> None:
    await until_gone_for_good(family)

    kill_group(family.pid)

    assert not group_exists(family.pid)


async def test_the_channel_of_an_ended_child_is_closed_and_says_so(family: Child) -> None:
    await family.channel.receive()
    await family.channel.send("exit")

    with pytest.raises(ChannelClosed, match="the process at the other end has ended"):
        await family.channel.receive()

    assert await family.wait() == "the family exited with code 3; its log has the cause"


def test_an_end_by_signal_is_told_in_words() -> None:
    assert how_it_ended("trainer rank 0", -signal.SIGKILL) == "trainer rank 0 was ended by SIGKILL; out of memory?"
    assert how_it_ended("the server", -signal.SIGSEGV) == "the server was ended by SIGSEGV"


def test_orphans_are_reaped_and_own_children_keep_their_exit_status() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", ORPHAN_PROGRAM],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=SOON,
        check=True,
    )

    assert finished.stdout.split() == ["True", "5"]


def test_an_adopted_stray_is_reaped_and_a_child_keeps_its_exit_status() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", STRAY_PROGRAM], env=ENVIRONMENT, capture_output=True, text=True, timeout=SOON, check=True
    )

    assert finished.stdout.strip() == "the child exited with code 5; its log has the cause"


def test_a_process_that_adopts_nobody_reaps_no_strays() -> None:
    ended = subprocess.Popen(["sh", "-c", "exit 5"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)

    reap_strays()

    assert ended.wait() == 5


def test_reaping_where_nothing_has_ended_returns_nothing() -> None:
    assert reap_orphans(own={child.pid for child in psutil.Process().children()}) == []
