"""The cache holds the children that are there, whatever happens to its watches."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tandem_operator.kube.cache import ChildCache, WatchedKind
from tandem_operator.kube.manifest import name_of, resource_version_of, section
from tandem_operator.kube.reflector import WatchTiming
from tandem_operator.kube.resources import CONFIG_MAP, POD, POD_GROUP
from tandem_operator.kube.retry import Backoff
from tests.tandem_operator.kube.conftest import Server
from tests.tandem_operator.kube.fake_api import FakeApi, Fault
from tests.tandem_operator.kube.manifests import config_map
from tests.tandem_operator.kube.waiting import eventually

QUICK = WatchTiming(backoff=Backoff(first_seconds=0.01, longest_seconds=0.1))
HOME = "/api/v1/namespaces/research/configmaps"


@contextlib.asynccontextmanager
async def running(
    server: Server, *watched: WatchedKind, timing: WatchTiming = QUICK, changed: list[str] | None = None
) -> AsyncIterator[ChildCache]:
    """Run a cache of ConfigMaps, or of given kinds, in the server's namespace; wait until it is synced."""
    told = [] if changed is None else changed
    cache = ChildCache(
        server.client,
        watched or (WatchedKind(CONFIG_MAP),),
        on_change=lambda namespace, job: told.append(job),
        namespaces=(server.namespace,),
        timing=timing,
    )
    task = asyncio.create_task(cache.run())
    try:
        async with asyncio.timeout(20):
            await cache.synced.wait()
        yield cache
    finally:
        task.cancel()
        await asyncio.wait([task])


def names(cache: ChildCache, job: str = "math", namespace: str = "research") -> list[str]:
    """Return the names of a job's ConfigMaps."""
    return [name_of(child) for child in cache.children(namespace, job, CONFIG_MAP)]


def manifest(name: str, job: str = "math", **data: str) -> dict[str, Any]:
    """Return a ConfigMap of a job for the fake."""
    return config_map("research", name, job=job, **data)


async def test_it_tells_which_kinds_the_cluster_serves(fake_server: Server, fake: FakeApi) -> None:
    fake.unserved.add("podgroups")

    async with running(fake_server, WatchedKind(CONFIG_MAP), WatchedKind(POD_GROUP, optional=True)) as cache:
        served = (cache.serves(CONFIG_MAP), cache.serves(POD_GROUP))
        with pytest.raises(LookupError, match="pods: not watched"):
            cache.serves(POD)

    assert served == (True, False)


async def test_it_holds_what_is_there_when_it_is_synced(server: Server) -> None:
    await server.client.create(config_map(server.namespace, "one", job="math"))
    await server.client.create(config_map(server.namespace, "two", job="code"))
    await server.client.create(config_map(server.namespace, "three"))

    async with running(server) as cache:
        assert names(cache, "math", server.namespace) == ["one"]
        assert names(cache, "code", server.namespace) == ["two"]
        assert cache.num_objects(CONFIG_MAP) == 2
        assert cache.jobs() == {(server.namespace, "math"), (server.namespace, "code")}


async def test_it_follows_what_is_created_changed_and_deleted_and_tells_whose_it_was(server: Server) -> None:
    changed: list[str] = []

    async with running(server, changed=changed) as cache:
        created = await server.client.create(config_map(server.namespace, "one", job="math"))
        await eventually(lambda: names(cache, "math", server.namespace) == ["one"], "the created child")
        applied = await server.client.apply(config_map(server.namespace, "one", job="math", color="red"))
        await eventually(
            lambda: (
                resource_version_of(cache.children(server.namespace, "math", CONFIG_MAP)[0])
                == resource_version_of(applied)
            ),
            "the changed child",
        )
        await server.client.delete(CONFIG_MAP, server.namespace, "one")
        await eventually(lambda: not names(cache, "math", server.namespace), "the deletion")

    assert resource_version_of(created) != resource_version_of(applied)
    assert changed == ["math", "math", "math"]


async def test_it_sees_an_own_write_at_once(server: Server) -> None:
    async with running(server) as cache:
        cache.remember(await server.client.create(config_map(server.namespace, "one", job="math")))

        assert cache.child(server.namespace, "math", CONFIG_MAP, "one") is not None


async def test_it_keeps_no_data_and_no_managed_fields(server: Server) -> None:
    await server.client.apply(config_map(server.namespace, "one", job="math", color="red"))

    async with running(server) as cache:
        (child,) = cache.children(server.namespace, "math", CONFIG_MAP)

    assert "data" not in child
    assert "managedFields" not in section(child, "metadata")


async def test_asking_for_what_is_not_watched_is_an_error(fake_server: Server) -> None:
    async with running(fake_server) as cache:
        with pytest.raises(LookupError, match="pods in research: not watched"):
            cache.children("research", "math", POD)


async def test_a_cut_watch_goes_on_where_it_was(fake_server: Server, fake: FakeApi) -> None:
    async with running(fake_server) as cache:
        await eventually(lambda: fake.num_watches == 1, "the watch")
        fake.cut_watches()
        await fake.write(f"{HOME}/one", manifest("one"))
        await eventually(lambda: names(cache) == ["one"], "the child created in between")

    assert fake.num_requests("GET", limit="500") == 1


async def test_what_happened_while_the_version_was_forgotten_is_found_by_a_new_list(
    fake_server: Server, fake: FakeApi
) -> None:
    changed: list[str] = []
    await fake.write(f"{HOME}/gone", manifest("gone", "lost"))

    async with running(fake_server, changed=changed) as cache:
        await eventually(lambda: fake.num_watches == 1, "the watch")
        fake.faults.extend([Fault(status=503)] * 3)
        fake.cut_watches()
        await fake.erase(f"{HOME}/gone")
        await fake.write(f"{HOME}/new", manifest("new"))
        fake.compact()
        await eventually(lambda: names(cache) == ["new"] and not names(cache, "lost"), "the new list")

    assert changed == ["lost", "lost", "math"] or changed == ["lost", "math", "lost"]
    assert fake.num_requests("GET", limit="500") == 2


async def test_a_bookmark_moves_the_place_where_a_watch_goes_on(fake_server: Server, fake: FakeApi) -> None:
    async with running(fake_server) as cache:
        await eventually(lambda: fake.num_watches == 1, "the watch")
        fake.compact()
        await eventually(lambda: cache.age_seconds() > 0.1, "silence")
        await fake.bookmark()
        await eventually(lambda: cache.age_seconds() < 0.1, "the bookmark")
        fake.cut_watches()
        await eventually(lambda: fake.num_requests("GET", watch="true") == 2, "the second watch")
        await eventually(lambda: fake.num_watches == 1, "the watch from the bookmark")

    assert fake.num_requests("GET", limit="500") == 1


async def test_a_silent_watch_is_opened_again_and_after_some_everything_is_listed_again(
    fake_server: Server, fake: FakeApi
) -> None:
    timing = WatchTiming(idle_seconds=0.05, silences_before_list=3, backoff=Backoff(first_seconds=0.01))

    async with running(fake_server, timing=timing):
        await eventually(lambda: fake.num_requests("GET", limit="500") == 2, "the second list")

    assert fake.num_requests("GET", watch="true") >= 3


async def test_a_watch_that_ends_at_its_time_is_opened_again(fake_server: Server, fake: FakeApi) -> None:
    timing = WatchTiming(server_seconds=1, steady_seconds=0.5, backoff=Backoff(first_seconds=0.01))

    async with running(fake_server, timing=timing) as cache:
        await eventually(lambda: fake.num_requests("GET", watch="true") == 2, "the second watch")
        await fake.write(f"{HOME}/one", manifest("one"))
        await eventually(lambda: names(cache) == ["one"], "a change on the second watch")


async def test_errors_of_all_kinds_are_outlived_and_each_is_logged_once(
    fake_server: Server, fake: FakeApi, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="tandem_operator")

    async with running(fake_server) as cache:
        await eventually(lambda: fake.num_watches == 1, "the watch")
        fake.faults.extend([Fault(status=403)] * 4)
        fake.cut_watches()
        await eventually(lambda: not fake.faults, "the faults")
        await fake.write(f"{HOME}/one", manifest("one"))
        await eventually(lambda: names(cache) == ["one"], "the child created in between")

    refusals = [record for record in caplog.records if "as the test asked" in record.getMessage()]
    assert len(refusals) == 1
    assert "configmaps in research: works again" in caplog.text


async def test_a_first_list_that_is_refused_is_tried_until_it_works(fake_server: Server, fake: FakeApi) -> None:
    fake.faults.extend([Fault(status=403)] * 3)
    await fake.write(f"{HOME}/one", manifest("one"))

    async with running(fake_server) as cache:
        assert names(cache) == ["one"]


async def test_an_optional_kind_that_is_not_served_counts_as_empty(fake_server: Server, fake: FakeApi) -> None:
    fake.unserved.add("podgroups")

    async with running(fake_server, WatchedKind(POD_GROUP, optional=True)) as cache:
        assert cache.children("research", "math", POD_GROUP) == ()
        assert cache.age_seconds() == 0


async def test_an_optional_kind_is_watched_once_it_is_served(fake_server: Server, fake: FakeApi) -> None:
    timing = WatchTiming(absent_seconds=0.05)
    fake.unserved.add("podgroups")

    async with running(fake_server, WatchedKind(POD_GROUP, optional=True), timing=timing) as cache:
        fake.unserved.clear()
        await fake.write(POD_GROUP.object_path("research", "gang"), manifest("gang"))
        await eventually(lambda: cache.children("research", "math", POD_GROUP), "the gang")


async def test_its_age_is_that_of_the_last_sign_of_life(fake_server: Server, fake: FakeApi) -> None:
    async with running(fake_server) as cache:
        await eventually(lambda: fake.num_watches == 1, "the watch")
        await asyncio.sleep(0.3)
        silent_seconds = cache.age_seconds()
        await fake.bookmark()
        await eventually(lambda: cache.age_seconds() < silent_seconds, "the bookmark")

    assert silent_seconds >= 0.29


async def test_a_long_list_comes_in_pages_and_a_large_object_in_one_event(fake_server: Server, fake: FakeApi) -> None:
    [await fake.write(f"{HOME}/page-{ordinal}", manifest(f"page-{ordinal}")) for ordinal in range(1200)]

    async with running(fake_server) as cache:
        await fake.write(f"{HOME}/large", manifest("large", "code", text="x" * 1_400_000))
        await eventually(lambda: names(cache, "code") == ["large"], "the large child")

        assert len(names(cache)) == 1200

    assert fake.num_requests("GET", limit="500") == 3
