"""Shared memory of a killed group is removed; whatever might be another's is not."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from tandem_checkpoint.process import leftovers
from tandem_checkpoint.process.child import Child
from tandem_checkpoint.process.group import freeze_group, group_members, kill_group
from tandem_checkpoint.process.leftovers import SHARED_MEMORY, Segment, Sweeper
from tests.tandem_checkpoint.test_processes import ENVIRONMENT, until_gone

MAKER = """
import os, sys, time
from multiprocessing.shared_memory import SharedMemory
from tandem_checkpoint.process.channel import ChildChannel
channel = ChildChannel.inherited()
segments = [SharedMemory(create=True, size=4096)]
segments += [SharedMemory(name=name) for name in sys.argv[1:]]
if os.fork() == 0:
    segments.append(SharedMemory(create=True, size=4096))
    open(f"/dev/shm/__KMP_REGISTERED_LIB_{os.getpid()}_0", "w").close()
    channel.send(segments[-1].name + " " + segments[0].name + f" __KMP_REGISTERED_LIB_{os.getpid()}_0")
time.sleep(60)
"""
DECOY = """
import time
from multiprocessing.shared_memory import SharedMemory
segment = SharedMemory(create=True, size=4096)
print(segment.name, flush=True)
time.sleep(60)
"""

SHARED = "vllm_dist_0123-tp:0-[0-1]-cpushm"


@pytest.fixture
def decoy() -> Iterator[Path]:
    """A segment of another process, which lives."""
    process = subprocess.Popen([sys.executable, "-c", DECOY], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    path = SHARED_MEMORY / process.stdout.readline().strip()
    yield path
    kill_group(process.pid)
    process.communicate()
    path.unlink(missing_ok=True)


def is_there(path: Path) -> bool:
    return path.exists()


async def makers_of_segments(*shares: str) -> tuple[Child, list[Path]]:
    """Start a group of two processes that leak three segments between them; `shares`: others that they use too."""
    child = await Child.start("a maker", [sys.executable, "-c", MAKER, *shares], ENVIRONMENT)
    return child, [SHARED_MEMORY / name for name in (await child.channel.receive()).split()]


async def kill_and_sweep(sweeper: Sweeper, child: Child) -> tuple[Path, ...]:
    members = group_members(child.pid)
    freeze_group(child.pid)
    segments = sweeper.used_by(child.pid)
    await child.kill()
    await asyncio.gather(*(until_gone(pid) for pid in members))
    return sweeper.sweep(segments)


async def test_a_killed_group_leaves_no_segment() -> None:
    sweeper = Sweeper()
    child, paths = await makers_of_segments()

    removed = await kill_and_sweep(sweeper, child)

    assert set(removed) == set(paths)
    assert not any(path.exists() for path in paths)


async def test_a_segment_of_another_living_process_survives(decoy: Path) -> None:
    sweeper = Sweeper()
    child, paths = await makers_of_segments()

    removed = await kill_and_sweep(sweeper, child)

    assert len(removed) == len(paths)
    assert is_there(decoy)


async def test_a_segment_that_another_process_left_meanwhile_survives() -> None:
    sweeper = Sweeper()
    child, _ = await makers_of_segments()
    left = SHARED_MEMORY / f"psm_{os.getpid():08x}"
    left.touch(mode=0o600)

    await kill_and_sweep(sweeper, child)

    assert left.exists()
    left.unlink()


async def test_a_segment_that_somebody_else_uses_too_survives() -> None:
    sweeper = Sweeper()
    shared = SharedMemory(create=True, size=4096)
    child, paths = await makers_of_segments(shared.name)

    removed = await kill_and_sweep(sweeper, child)

    assert set(removed) == set(paths)
    assert (SHARED_MEMORY / shared.name).exists()
    shared.close()
    shared.unlink()


async def test_a_segment_that_was_there_before_survives() -> None:
    child, paths = await makers_of_segments()
    sweeper = Sweeper()

    removed = await kill_and_sweep(sweeper, child)

    assert removed == ()
    assert all(path.exists() for path in paths)
    for path in paths:
        path.unlink()


def test_a_file_with_a_name_that_no_library_gives_survives(tmp_path: Path) -> None:
    sweeper = Sweeper(tmp_path)
    with (tmp_path / "weights-0.segment").open("wb"), (tmp_path / "psm_0123").open("wb"):
        used = sweeper.used_by(os.getpgid(0))

    assert {segment.path.name for segment in used} == {"psm_0123"}


def test_a_new_file_under_an_old_name_survives(tmp_path: Path) -> None:
    sweeper = Sweeper(tmp_path)
    path = tmp_path / "psm_0123"
    path.touch()
    old = Segment(path, path.stat().st_ino + 1)

    assert sweeper.sweep([old]) == ()
    assert path.exists()


def test_a_link_to_somewhere_else_survives(tmp_path: Path) -> None:
    sweeper = Sweeper(tmp_path)
    target = tmp_path / "precious"
    target.touch()
    (tmp_path / "psm_0123").symlink_to(target)
    with target.open("wb"):
        used = sweeper.used_by(os.getpgid(0))

    assert sweeper.sweep(used) == ()
    assert target.exists()


def test_an_open_file_is_in_use_though_it_is_not_mapped(tmp_path: Path) -> None:
    sweeper = Sweeper(tmp_path)
    path = tmp_path / "nccl-abc"
    with path.open("wb"):
        used = sweeper.used_by(os.getpgid(0))
        assert sweeper.sweep(used) == ()

    assert sweeper.sweep(used) == (path,)


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    sweeper = Sweeper(tmp_path / "nowhere")

    assert sweeper.used_by(os.getpgid(0)) == frozenset()


async def swept(sweeper: Sweeper, scratch: Path, *made: Path) -> list[Path]:
    """Sweep after killed processes with this temporary folder; return what is left of what they had made."""
    for path in made:
        path.touch()
    sweeper.sweep_later(frozenset(), scratch)
    await sweeper.finish()
    return [path for path in made if is_there(path)]


def temporary_of_workers(folder: Path) -> Path:
    """Return the temporary folder of a server whose workers have met in a file of theirs."""
    scratch = folder / "scratch" / "server"
    scratch.mkdir(parents=True)
    (scratch / "vllm_dist_0123").touch()
    return scratch


async def test_what_workers_shared_goes_though_nobody_saw_them_use_it(tmp_path: Path) -> None:
    scratch, shared = temporary_of_workers(tmp_path), [tmp_path / f"{SHARED}_{number}" for number in range(2)]

    left = await swept(Sweeper(tmp_path), scratch, *shared)

    assert left == []
    assert not is_there(scratch)


async def test_what_the_workers_of_all_servers_shared_goes_with_their_zygote(tmp_path: Path) -> None:
    scratch = temporary_of_workers(tmp_path).parent

    assert await swept(Sweeper(tmp_path), scratch, tmp_path / SHARED) == []


async def test_what_workers_of_others_share_survives(tmp_path: Path) -> None:
    scratch, others = temporary_of_workers(tmp_path), tmp_path / "vllm_dist_01234-tp:0-[0-1]-cpushm"

    assert await swept(Sweeper(tmp_path), scratch, others) == [others]


async def test_what_workers_still_share_survives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "LETTING_GO_SECONDS", 0.05)
    sweeper, scratch, shared = Sweeper(tmp_path), temporary_of_workers(tmp_path), tmp_path / SHARED
    with shared.open("wb"):
        left = await swept(sweeper, scratch, shared)

    assert left == [shared]


async def test_what_dying_workers_share_goes_once_they_let_go_of_it(tmp_path: Path) -> None:
    sweeper, scratch, shared = Sweeper(tmp_path), temporary_of_workers(tmp_path), tmp_path / SHARED
    with shared.open("wb") as file:
        asyncio.get_running_loop().call_later(0.1, file.close)
        left = await swept(sweeper, scratch, shared)

    assert left == []


async def test_leftovers_are_swept_beside_other_work_and_waited_for_at_the_end(tmp_path: Path) -> None:
    sweeper = Sweeper(tmp_path)
    path, scratch = tmp_path / "psm_0123", tmp_path / "scratch"
    (scratch / "inner").mkdir(parents=True)
    path.touch()
    segments = frozenset({Segment(path, path.stat().st_ino)})

    sweeper.sweep_later(segments, scratch)
    await sweeper.finish()

    assert not any(is_there(each) for each in (path, scratch))
