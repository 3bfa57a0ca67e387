"""The mirror of the masters' progress, on a registry in memory and on a real etcd."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tandem_api.registry import Keys, Progress
from tandem_checkpoint.registry.errors import RegistryUnreachable
from tandem_checkpoint.registry.etcd import connect
from tandem_checkpoint.registry.store import Registry
from tandem_operator.progress import ProgressMirror
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.etcd_process import EtcdProcess

DIGITS = Keys("team", "digits")
SECONDS = 30.0


def progress(iteration: int) -> Progress:
    """Return the word of a master."""
    return Progress(activity="Train", iteration=iteration, iterations=30, generation=iteration)


@dataclass(slots=True)
class Watcher:
    """Waits for what the mirror tells."""

    told: list[tuple[str, str]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def on_change(self, namespace: str, name: str) -> None:
        self.told.append((namespace, name))
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until the condition holds after a change."""
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._changed.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await self._changed.wait()


@asynccontextmanager
async def running(mirror: ProgressMirror) -> AsyncIterator[None]:
    """Run the mirror while the context is open."""
    task = asyncio.create_task(mirror.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def fake() -> FakeRegistry:
    return FakeRegistry()


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
def mirror(fake: FakeRegistry, watcher: Watcher) -> ProgressMirror:
    """A mirror of the registry in memory; it asks for signs of life all the time."""

    @asynccontextmanager
    async def connect_fake(_: Sequence[str]) -> AsyncIterator[Registry]:
        yield fake

    return ProgressMirror(["127.0.0.1:1"], watcher.on_change, connect=connect_fake, probe_every_seconds=0.02)


def iteration_of(mirror: ProgressMirror, name: str = "digits") -> int | None:
    """Return what the mirror knows of a job."""
    seen = mirror.get("team", name)
    return None if seen is None else seen.progress.iteration


async def test_it_knows_what_was_there_before_it(fake: FakeRegistry, mirror: ProgressMirror, watcher: Watcher) -> None:
    await fake.put(DIGITS.progress, progress(3).model_dump_json())

    async with running(mirror):
        await watcher.until(lambda: iteration_of(mirror) == 3)

    assert watcher.told == [("team", "digits")]


async def test_it_follows_each_job_and_tells_which_one_changed(
    fake: FakeRegistry, mirror: ProgressMirror, watcher: Watcher
) -> None:
    async with running(mirror):
        await fake.put(Keys("team", "letters").progress, progress(1).model_dump_json())
        await fake.put(DIGITS.progress, progress(4).model_dump_json())
        await watcher.until(lambda: iteration_of(mirror) == 4)

    assert iteration_of(mirror, "letters") == 1
    assert ("team", "letters") in watcher.told


async def test_other_keys_of_a_job_wake_nobody(fake: FakeRegistry, mirror: ProgressMirror, watcher: Watcher) -> None:
    async with running(mirror):
        await fake.put(DIGITS.published, "3")
        await fake.put(f"{DIGITS.members}pod/progress", "{}")
        await fake.put(DIGITS.progress, progress(1).model_dump_json())
        await watcher.until(lambda: iteration_of(mirror) == 1)

    assert watcher.told == [("team", "digits")]


async def test_the_last_word_of_a_master_stays_and_grows_old(
    fake: FakeRegistry, mirror: ProgressMirror, watcher: Watcher
) -> None:
    async with running(mirror):
        async with fake.lease(5) as lease:
            await fake.put(DIGITS.progress, progress(7).model_dump_json(), lease=lease.id)
            await watcher.until(lambda: iteration_of(mirror) == 7)
            fresh = mirror.get("team", "digits")
        await watcher.until(lambda: len(watcher.told) == 2)
        await asyncio.sleep(0.02)
        old = mirror.get("team", "digits")

    assert fresh is not None
    assert old is not None
    assert (fresh.age_seconds, old.progress) == (0.0, fresh.progress)
    assert old.age_seconds > 0


async def test_a_word_that_is_not_readable_leaves_the_last_one(
    fake: FakeRegistry, mirror: ProgressMirror, watcher: Watcher
) -> None:
    async with running(mirror):
        await fake.put(DIGITS.progress, progress(2).model_dump_json())
        await watcher.until(lambda: iteration_of(mirror) == 2)
        await fake.put(DIGITS.progress, '{"of": "another world"}')
        await fake.put(Keys("team", "letters").progress, progress(1).model_dump_json())
        await watcher.until(lambda: iteration_of(mirror, "letters") == 1)

    assert iteration_of(mirror) == 2


async def test_a_newer_master_may_say_more(fake: FakeRegistry, mirror: ProgressMirror, watcher: Watcher) -> None:
    document = json.loads(progress(2).model_dump_json()) | {"mood": "good"}

    async with running(mirror):
        await fake.put(DIGITS.progress, json.dumps(document))
        await watcher.until(lambda: iteration_of(mirror) == 2)

    assert watcher.told == [("team", "digits")]


async def test_without_etcd_values_stay_and_the_outage_is_counted(
    fake: FakeRegistry, mirror: ProgressMirror, watcher: Watcher
) -> None:
    async with running(mirror):
        await fake.put(DIGITS.progress, progress(2).model_dump_json())
        await watcher.until(lambda: iteration_of(mirror) == 2)
        assert mirror.unreachable_seconds() == 0

        fake.reachable = False
        await watcher.until(lambda: mirror.unreachable_seconds() > 0)
        during = mirror.get("team", "digits")
        fake.reachable = True
        await watcher.until(lambda: mirror.unreachable_seconds() == 0)

    assert during is not None
    assert during.progress.iteration == 2
    assert during.age_seconds > 0


async def test_what_changed_during_an_outage_is_seen_after_it(
    fake: FakeRegistry, mirror: ProgressMirror, watcher: Watcher
) -> None:
    async with running(mirror):
        await fake.put(DIGITS.progress, progress(2).model_dump_json())
        await fake.put(Keys("team", "letters").progress, progress(1).model_dump_json())
        await watcher.until(lambda: iteration_of(mirror, "letters") == 1)
        fake.reachable = False
        await watcher.until(lambda: mirror.unreachable_seconds() > 0)

        fake.reachable = True
        await fake.delete(Keys("team", "letters").prefix)
        await fake.put(DIGITS.progress, progress(9).model_dump_json())
        await watcher.until(lambda: iteration_of(mirror) == 9 and mirror.unreachable_seconds() == 0)
        gone = mirror.get("team", "letters")

    assert gone is not None
    assert gone.age_seconds > 0


async def test_a_forgotten_job_leaves_neither_value_nor_key(
    fake: FakeRegistry, mirror: ProgressMirror, watcher: Watcher
) -> None:
    other = Keys("team", "digits-2")
    async with running(mirror):
        await fake.put(DIGITS.progress, progress(2).model_dump_json())
        await fake.put(DIGITS.published, "2")
        await fake.put(other.published, "5")
        await watcher.until(lambda: iteration_of(mirror) == 2)

        assert await mirror.forget("team", "digits")

    assert mirror.get("team", "digits") is None
    assert dict(await fake.list("/tandem/v1/")) == {other.published: "5"}


async def test_forgetting_without_etcd_is_no_error(
    fake: FakeRegistry, mirror: ProgressMirror, watcher: Watcher
) -> None:
    async with running(mirror):
        await watcher.until(lambda: mirror.unreachable_seconds() == 0)
        fake.reachable = False

        assert not await mirror.forget("team", "digits")


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdProcess]:
    """An etcd that this test may kill."""
    process = EtcdProcess(tmp_path)
    process.start()
    yield process
    process.kill()


async def put(endpoint: str, name: str, iteration: int) -> None:
    """Write a job's progress as its master would; try again while etcd comes up."""
    async with asyncio.timeout(SECONDS), connect([endpoint]) as registry:
        while True:
            with suppress(RegistryUnreachable):
                await registry.put(Keys("team", name).progress, progress(iteration).model_dump_json())
                return


@pytest.mark.etcd
async def test_a_real_etcd_is_followed_through_its_death_and_return(own_etcd: EtcdProcess, watcher: Watcher) -> None:
    mirror = ProgressMirror([own_etcd.endpoint], watcher.on_change, probe_every_seconds=0.2)
    async with running(mirror):
        await put(own_etcd.endpoint, "digits", 1)
        await watcher.until(lambda: iteration_of(mirror) == 1)

        await asyncio.to_thread(own_etcd.kill)
        await watcher.until(lambda: mirror.unreachable_seconds() > 0)
        during = mirror.get("team", "digits")
        await asyncio.to_thread(own_etcd.start)
        await put(own_etcd.endpoint, "digits", 2)
        await watcher.until(lambda: iteration_of(mirror) == 2)
        await watcher.until(lambda: mirror.unreachable_seconds() == 0)

        assert await mirror.forget("team", "digits")
    assert during is not None
    assert during.age_seconds > 0
    assert mirror.get("team", "digits") is None


@pytest.mark.etcd
async def test_an_operator_that_starts_before_its_etcd_waits_for_it(tmp_path: Path, watcher: Watcher) -> None:
    late = EtcdProcess(tmp_path)
    mirror = ProgressMirror([late.endpoint], watcher.on_change)
    try:
        async with running(mirror):
            await asyncio.sleep(0.1)
            await asyncio.to_thread(late.start)
            await put(late.endpoint, "digits", 1)
            await watcher.until(lambda: iteration_of(mirror) == 1)
    finally:
        late.kill()
