"""One master a job: election, guarded writes, and the order to stop."""

import asyncio

import pytest

from tandem_api.registry import Keys, MasterRecord, Progress
from tandem_checkpoint.registry.errors import Fenced, LeaseLost
from tandem_checkpoint.registry.store import Lease
from tandem_master import mastership
from tandem_master.errors import ElectionError, Stopped
from tandem_master.mastership import elected
from tandem_master.progress import ProgressBoard
from tandem_master.stop import StopSignal
from tandem_master.tasks import alongside, together
from tests.fakes.registry import FakeRegistry

KEYS = Keys("default", "toy")
OTHER = MasterRecord(incarnation="other", pod="other-pod").model_dump_json()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mastership, "RETRY_SECONDS", 0.01)


@pytest.fixture
def registry() -> FakeRegistry:
    return FakeRegistry()


async def fail() -> None:
    raise ValueError("first")


async def wait_forever() -> None:
    await asyncio.Event().wait()


async def test_the_place_of_a_dead_master_is_taken_when_its_lease_expires(registry: FakeRegistry) -> None:
    dead: Lease
    async with registry.lease(10) as dead:
        await registry.put(KEYS.master, OTHER, lease=dead.id)
        asyncio.get_running_loop().call_later(0.05, registry.expire, dead.id)

        async with elected(registry, KEYS, "toy-master"):
            record = MasterRecord.model_validate_json(await registry.get(KEYS.master) or "")

    assert record.pod == "toy-master"


async def test_a_master_that_goes_frees_its_place(registry: FakeRegistry) -> None:
    async with elected(registry, KEYS, "toy-master"):
        pass

    assert await registry.get(KEYS.master) is None


async def test_a_write_that_depends_on_keys_is_made_only_while_they_are_there(registry: FakeRegistry) -> None:
    await registry.put("shard", "whatever")

    async with elected(registry, KEYS, "toy-master") as master:
        written = await master.write_where(["shard"], KEYS.published, "1")
        refused = await master.write_where(["shard", "gone"], KEYS.published, "2")

    assert (written, refused) == (True, False)
    assert await registry.get(KEYS.published) == "1"


async def test_a_stale_master_does_not_take_its_refusal_for_a_missing_key(registry: FakeRegistry) -> None:
    await registry.put("shard", "whatever")

    async with elected(registry, KEYS, "toy-master") as master:
        await registry.put(KEYS.master, OTHER)

        with pytest.raises(Fenced):
            await master.write_where(["shard"], KEYS.published, "1")


async def test_a_living_master_is_named(registry: FakeRegistry) -> None:
    await registry.put(KEYS.master, OTHER)

    with pytest.raises(ElectionError, match="job default/toy: it already has a master, incarnation other in pod"):
        async with elected(registry, KEYS, "toy-master", patience_seconds=0.05):
            pass


async def test_a_registry_that_never_answers_is_named(registry: FakeRegistry) -> None:
    registry.reachable = False

    with pytest.raises(ElectionError, match="registry: the registry is down; check TANDEM_ETCD"):
        async with elected(registry, KEYS, "toy-master", patience_seconds=0.05):
            pass


async def test_with_patience_a_registry_that_was_away_is_waited_for(registry: FakeRegistry) -> None:
    registry.reachable = False
    asyncio.get_running_loop().call_later(0.1, setattr, registry, "reachable", True)

    async with elected(registry, KEYS, "toy-master", patience_seconds=10.0):
        record = MasterRecord.model_validate_json(await registry.get(KEYS.master) or "")

    assert record.pod == "toy-master"


async def test_a_write_waits_for_a_registry_that_comes_back(registry: FakeRegistry) -> None:
    async with elected(registry, KEYS, "toy-master") as held:
        registry.reachable = False
        asyncio.get_running_loop().call_later(0.05, setattr, registry, "reachable", True)

        await held.write(KEYS.published, "3")

    assert await registry.get(KEYS.published) == "3"


async def test_a_stale_master_writes_nothing(registry: FakeRegistry) -> None:
    async with elected(registry, KEYS, "toy-master") as held:
        await registry.put(KEYS.master, OTHER)

        with pytest.raises(Fenced):
            await held.write(KEYS.published, "3")

    assert await registry.get(KEYS.published) is None


async def test_a_master_notices_that_its_lease_has_expired(registry: FakeRegistry) -> None:
    async with elected(registry, KEYS, "toy-master") as held:
        registry.expire_owner(KEYS.master)

        with pytest.raises(LeaseLost):
            await alongside(wait_forever(), held.keep_checking())


async def test_progress_is_written_behind_the_loops_back(registry: FakeRegistry) -> None:
    async with elected(registry, KEYS, "toy-master") as held:
        board = ProgressBoard(held, KEYS.progress, Progress(activity="a", iteration=0, iterations=3, generation=0))
        publishing = asyncio.create_task(board.publish())
        board.show(activity="sampling", completed_trajectories=5)
        async for changes in registry.watch(KEYS.progress):
            if changes:
                break
        publishing.cancel()

    assert Progress.model_validate_json(changes[0].value or "").completed_trajectories == 5
    assert await registry.get(KEYS.progress) is None


async def test_work_that_ends_within_its_grace_is_not_cut_by_a_stop() -> None:
    stop, may_end = StopSignal(), asyncio.Event()
    bounded = asyncio.create_task(stop.bound(may_end.wait(), grace_seconds=5))
    stop.request()
    await asyncio.sleep(0)

    may_end.set()

    assert await bounded is True


async def test_work_that_does_not_end_is_cut_by_a_stop() -> None:
    stop = StopSignal()
    stop.request()

    with pytest.raises(Stopped):
        await stop.bound(wait_forever(), grace_seconds=0)


async def test_the_first_error_of_several_waits_is_raised_alone() -> None:
    with pytest.raises(ValueError, match="first"):
        await together([wait_forever(), fail()], name="waits")


async def test_an_error_of_a_companion_ends_the_work() -> None:
    with pytest.raises(ValueError, match="first"):
        await alongside(wait_forever(), fail())
