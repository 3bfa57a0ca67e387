"""What only a real etcd can show: processes that die, an etcd that dies, a network that breaks."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest
from etcd3aio import Etcd3Client

from tandem_checkpoint.registry.errors import RegistryUnreachable
from tandem_checkpoint.registry.etcd import connect
from tandem_checkpoint.registry.mirror import mirrored
from tandem_checkpoint.registry.store import Absent, Change, Put, Registry
from tests.tandem_checkpoint.etcd_process import EtcdProcess
from tests.tandem_checkpoint.test_registry_contract import SOON, following
from tests.wire import Wire, wire_to

pytestmark = pytest.mark.etcd

LEASE_SECONDS = 2
AWAY_SECONDS = 3.0
HANG_SECONDS = 6.0
"""Longer than one try of a call."""
EXPIRY_SECONDS = 20.0
RECONNECT_SECONDS = 20.0
OWNER_PROGRAM = """
import asyncio, sys
from tandem_checkpoint.registry.etcd import connect

async def own():
    async with connect([sys.argv[1]]) as registry, registry.lease(int(sys.argv[3])) as lease:
        await registry.put(sys.argv[2], "alive", lease=lease.id)
        await asyncio.Event().wait()

asyncio.run(own())
"""


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdProcess]:
    """An etcd that the test may kill."""
    process = EtcdProcess(tmp_path / "etcd")
    process.data.mkdir()
    process.start()
    yield process
    process.kill()


async def test_the_keys_of_a_killed_process_vanish_when_its_lease_runs_out(etcd_endpoint: str, prefix: str) -> None:
    async with connect([etcd_endpoint]) as registry, mirrored(registry, prefix) as mirror:
        owner = await asyncio.create_subprocess_exec(
            sys.executable, "-c", OWNER_PROGRAM, etcd_endpoint, f"{prefix}member", str(LEASE_SECONDS)
        )
        async with asyncio.timeout(EXPIRY_SECONDS):
            await mirror.wait(lambda seen: seen.values.get(f"{prefix}member"))

        owner.send_signal(signal.SIGKILL)
        await owner.wait()

        async with asyncio.timeout(EXPIRY_SECONDS):
            assert await mirror.wait(lambda seen: None if seen.values else "gone") == "gone"


async def test_a_renewed_lease_outlives_its_time_to_live(etcd_endpoint: str, prefix: str) -> None:
    async with connect([etcd_endpoint]) as registry, registry.lease(LEASE_SECONDS) as lease:
        await registry.put(f"{prefix}member", "alive", lease=lease.id)

        await asyncio.sleep(LEASE_SECONDS * 2)

        assert lease.alive
        assert await registry.get(f"{prefix}member") == "alive"


async def test_a_killed_etcd_is_unreachable_for_every_verb(own_etcd: EtcdProcess) -> None:
    async with connect([own_etcd.endpoint], patience_seconds=1) as registry:
        await registry.put("/a", "1")
        own_etcd.kill()

        with pytest.raises(RegistryUnreachable, match=r"get /a got no answer .* is it running\?"):
            await registry.get("/a")
        with pytest.raises(RegistryUnreachable, match="list /a"):
            await registry.list("/a")
        with pytest.raises(RegistryUnreachable, match="put /a"):
            await registry.put("/a", "2")
        with pytest.raises(RegistryUnreachable, match="transact"):
            await registry.transact([Absent("/b")], [Put("/b", "1")])
        with pytest.raises(RegistryUnreachable, match="delete /a"):
            await registry.delete("/a")
        with pytest.raises(RegistryUnreachable, match="lease"):
            await registry.lease(LEASE_SECONDS).__aenter__()


async def test_a_write_outlasts_an_etcd_that_is_away_for_some_seconds(own_etcd: EtcdProcess) -> None:
    async with connect([own_etcd.endpoint]) as registry:
        await registry.put("/a", "1")
        own_etcd.kill()
        writing = asyncio.create_task(registry.put("/a", "2"))
        creating = asyncio.create_task(registry.transact([Absent("/b")], [Put("/b", "1")]))
        reading = asyncio.create_task(registry.list("/a"))

        await asyncio.sleep(AWAY_SECONDS)
        assert [task.done() for task in (writing, creating, reading)] == [False] * 3
        await asyncio.to_thread(own_etcd.start)

        await asyncio.gather(writing, creating)
        assert await reading in ({"/a": "1"}, {"/a": "2"})
        assert dict(await registry.list("/")) == {"/a": "2", "/b": "1"}


async def test_a_call_outlasts_an_etcd_that_hangs(own_etcd: EtcdProcess) -> None:
    async with connect([own_etcd.endpoint]) as registry:
        await registry.put("/a", "1")
        own_etcd.stop()
        writing = asyncio.create_task(registry.put("/a", "2"))
        await asyncio.sleep(HANG_SECONDS)

        own_etcd.go_on()

        await writing
        assert await registry.get("/a") == "2"


async def test_a_create_only_write_whose_answer_was_lost_is_no_refusal(etcd: EtcdProcess, prefix: str) -> None:
    async with wire_to(etcd.endpoint) as wire, connect([wire.endpoint]) as registry:
        await registry.get(prefix)
        wire.lose_answers()
        writing = asyncio.create_task(registry.transact([Absent(f"{prefix}a")], [Put(f"{prefix}a", "1")]))
        async with connect([etcd.endpoint]) as near, mirrored(near, prefix) as mirror, asyncio.timeout(SOON):
            await mirror.wait(lambda seen: seen.values.get(f"{prefix}a"))
        await wire.cut()
        await wire.join()

        await writing


async def test_a_watch_shows_that_etcd_has_come_back_empty(own_etcd: EtcdProcess, tmp_path: Path) -> None:
    async with connect([own_etcd.endpoint]) as registry, mirrored(registry, "/job/") as mirror:
        await registry.put("/job/desired", "1")
        await registry.put("/job/progress", "1")
        async with asyncio.timeout(RECONNECT_SECONDS):
            await mirror.wait(lambda seen: seen.values.get("/job/progress"))

        own_etcd.kill()
        own_etcd.data = tmp_path / "empty"
        own_etcd.data.mkdir()
        await asyncio.to_thread(own_etcd.start)
        async with asyncio.timeout(RECONNECT_SECONDS):
            await mirror.wait(lambda seen: None if seen.values else True)
        await registry.put("/job/desired", "2")

        async with asyncio.timeout(RECONNECT_SECONDS):
            await mirror.wait(lambda seen: True if seen.values == {"/job/desired": "2"} else None)


async def test_a_lease_is_dead_soon_after_etcd_is_and_can_still_be_left(own_etcd: EtcdProcess) -> None:
    async with connect([own_etcd.endpoint]) as registry, registry.lease(LEASE_SECONDS) as lease:
        own_etcd.kill()

        async with asyncio.timeout(EXPIRY_SECONDS):
            while lease.alive:  # noqa: ASYNC110 - a lease has no event
                await asyncio.sleep(0.05)


async def test_a_watch_outlives_a_restart_of_etcd(own_etcd: EtcdProcess) -> None:
    async with connect([own_etcd.endpoint]) as registry, mirrored(registry, "/job/") as mirror:
        await registry.put("/job/desired", "1")
        async with asyncio.timeout(RECONNECT_SECONDS):
            await mirror.wait(lambda seen: seen.values.get("/job/desired"))

        own_etcd.kill()
        await asyncio.to_thread(own_etcd.start)
        await registry.put("/job/desired", "2")

        async with asyncio.timeout(RECONNECT_SECONDS):
            await mirror.wait(lambda seen: True if seen.values.get("/job/desired") == "2" else None)


@asynccontextmanager
async def watched_by_wire(
    etcd: EtcdProcess, prefix: str
) -> AsyncIterator[tuple[Wire, Registry, AsyncIterator[Sequence[Change]]]]:
    """Yield a wire, a registry that needs none, and what a watch over the wire tells from now on: `gone` is there."""
    async with (
        wire_to(etcd.endpoint) as wire,
        connect([wire.endpoint]) as far,
        connect([etcd.endpoint]) as near,
    ):
        await near.put(f"{prefix}gone", "1")
        async with aclosing(far.watch(prefix)) as changes:  # type: ignore[type-var]
            await following(changes)
            yield wire, near, changes


async def test_a_reconnected_watch_reports_what_was_deleted_meanwhile(etcd: EtcdProcess, prefix: str) -> None:
    async with watched_by_wire(etcd, prefix) as (wire, near, changes):
        reading = asyncio.ensure_future(anext(changes))
        await near.put(f"{prefix}stays", "2")
        assert await reading == (Change(f"{prefix}stays", "2"),)

        reading = asyncio.ensure_future(anext(changes))
        await wire.cut()
        await near.delete(f"{prefix}gone")
        await wire.join()

        async with asyncio.timeout(RECONNECT_SECONDS):
            assert await reading == (Change(f"{prefix}gone", None), Change(f"{prefix}stays", "2"))


async def test_a_reconnected_watch_reports_deletions_that_etcd_itself_has_forgotten(
    etcd: EtcdProcess, prefix: str
) -> None:
    async with watched_by_wire(etcd, prefix) as (wire, near, changes):
        reading = asyncio.ensure_future(anext(changes))
        await asyncio.sleep(0.2)
        await wire.cut()
        await near.delete(f"{prefix}gone")
        await near.put(f"{prefix}new", "2")
        await compact(etcd)
        await wire.join()

        async with asyncio.timeout(RECONNECT_SECONDS):
            assert await reading == (Change(f"{prefix}gone", None), Change(f"{prefix}new", "2"))


async def compact(etcd: EtcdProcess) -> None:
    """Have etcd forget the whole history of its keys."""
    async with Etcd3Client([etcd.endpoint]) as client:
        assert client.kv is not None
        newest = await client.kv.get("/none")
        await client.kv.compact(newest.header.revision, physical=True)
