"""The verbs mean the same on the fake and on a real API server."""

import contextlib

import pytest

from tandem_operator.kube.client import Selection, WatchEvent
from tandem_operator.kube.errors import AlreadyExistsError, ConflictError, GoneError, InvalidError, NotFoundError
from tandem_operator.kube.manifest import Manifest, name_of, resource_version_of, section, text, uid_of
from tandem_operator.kube.resources import (
    CONFIG_MAP,
    POD_DISRUPTION_BUDGET,
    RLJOB,
    VOLCANO_POD_GROUP,
)
from tests.tandem_operator.kube.conftest import Server
from tests.tandem_operator.kube.fake_api import FakeApi
from tests.tandem_operator.kube.manifests import config_map


def budget(namespace: str) -> Manifest:
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"namespace": namespace, "name": "one"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app": "nothing"}}},
    }


async def changes(server: Server, version: str, num_changes: int) -> list[WatchEvent]:
    """Return so many changes of ConfigMaps with the label `tandem.dev/job` since a version."""
    selection = Selection(CONFIG_MAP, server.namespace, label_selector="tandem.dev/job")
    seen: list[WatchEvent] = []
    async with contextlib.aclosing(
        server.client.watch(selection, resource_version=version, timeout_seconds=20)
    ) as events:
        async for event in events:
            seen.extend([event] if event.type != "BOOKMARK" else [])
            if len(seen) == num_changes:
                return seen
    return seen


async def test_a_created_object_comes_back_with_uid_and_version(server: Server) -> None:
    created = await server.client.create(config_map(server.namespace, "one", color="red"))

    read = await server.client.get(CONFIG_MAP, server.namespace, "one")
    assert uid_of(created)
    assert resource_version_of(read) == resource_version_of(created)
    assert section(read, "data") == {"color": "red"}


async def test_a_second_create_of_a_name_says_that_it_is_there(server: Server) -> None:
    await server.client.create(config_map(server.namespace, "one"))

    with pytest.raises(AlreadyExistsError, match='"one" already exists'):
        await server.client.create(config_map(server.namespace, "one"))


async def test_an_absent_object_is_an_error_to_get_and_none_to_find(server: Server) -> None:
    found = await server.client.find(CONFIG_MAP, server.namespace, "absent")

    assert found is None
    with pytest.raises(NotFoundError, match="absent"):
        await server.client.get(CONFIG_MAP, server.namespace, "absent")


async def test_apply_creates_what_is_not_there_and_changes_what_is(server: Server) -> None:
    first = await server.client.apply(config_map(server.namespace, "one", color="red"))
    second = await server.client.apply(config_map(server.namespace, "one", color="blue"))

    assert section(first, "data") == {"color": "red"}
    assert section(second, "data") == {"color": "blue"}
    assert uid_of(second) == uid_of(first)


async def test_apply_takes_a_field_from_another_manager(server: Server) -> None:
    await server.client.create(config_map(server.namespace, "one", color="red"))

    applied = await server.client.apply(config_map(server.namespace, "one", color="blue"))

    assert section(applied, "data") == {"color": "blue"}


async def test_a_merge_patch_changes_what_it_names_and_removes_what_it_nulls(server: Server) -> None:
    await server.client.create(config_map(server.namespace, "one", color="red", size="big"))

    patched = await server.client.merge_patch(
        CONFIG_MAP, server.namespace, "one", {"data": {"color": "blue", "size": None}}
    )

    assert section(patched, "data") == {"color": "blue"}


async def test_a_merge_patch_of_status_goes_to_the_subresource(server: Server) -> None:
    await server.client.create(budget(server.namespace))
    status: Manifest = {
        "status": {"currentHealthy": 3, "desiredHealthy": 1, "disruptionsAllowed": 2, "expectedPods": 4}
    }

    await server.client.merge_patch(POD_DISRUPTION_BUDGET, server.namespace, "one", status, subresource="status")

    read = await server.client.get(POD_DISRUPTION_BUDGET, server.namespace, "one")
    assert section(read, "status")["currentHealthy"] == 3
    assert section(read, "spec")["maxUnavailable"] == 0


async def test_a_merge_patch_at_an_old_version_is_a_conflict(server: Server) -> None:
    created = await server.client.create(config_map(server.namespace, "one", color="red"))
    await server.client.apply(config_map(server.namespace, "one", color="blue"))

    with pytest.raises(ConflictError, match="has been modified"):
        await server.client.merge_patch(
            CONFIG_MAP,
            server.namespace,
            "one",
            {"metadata": {"resourceVersion": resource_version_of(created)}, "data": {"color": "green"}},
        )


async def test_replacing_an_old_version_is_a_conflict(server: Server) -> None:
    created = await server.client.create(config_map(server.namespace, "one", color="red"))
    await server.client.replace({**created, "data": {"color": "blue"}})

    with pytest.raises(ConflictError, match="has been modified"):
        await server.client.replace({**created, "data": {"color": "green"}})


async def test_deletion_spares_a_namesake_with_another_uid(server: Server) -> None:
    created = await server.client.create(config_map(server.namespace, "one"))

    with pytest.raises(ConflictError):
        await server.client.delete(CONFIG_MAP, server.namespace, "one", uid="00000000-0000-0000-0000-000000000000")

    assert await server.client.find(CONFIG_MAP, server.namespace, "one") is not None
    await server.client.delete(CONFIG_MAP, server.namespace, "one", uid=uid_of(created), grace_seconds=0)
    assert await server.client.find(CONFIG_MAP, server.namespace, "one") is None


async def test_deletion_of_what_is_gone_is_not_found(server: Server) -> None:
    with pytest.raises(NotFoundError):
        await server.client.delete(CONFIG_MAP, server.namespace, "absent")


async def test_a_list_comes_in_pages_of_one_version(server: Server) -> None:
    names = [f"page-{ordinal}" for ordinal in range(7)]
    [await server.client.create(config_map(server.namespace, name, job="math")) for name in names]
    selection = Selection(CONFIG_MAP, server.namespace, label_selector="tandem.dev/job")

    pages = [page async for page in server.client.pages(selection, limit=3)]

    assert [len(page.items) for page in pages] == [3, 3, 1]
    assert [name_of(item) for page in pages for item in page.items] == names
    assert len({page.resource_version for page in pages}) == 1
    assert text(pages[2].items[0], "kind") == "ConfigMap"


async def test_a_label_selector_leaves_out_the_rest(server: Server) -> None:
    await server.client.create(config_map(server.namespace, "mine", job="math"))
    await server.client.create(config_map(server.namespace, "other", job="code"))

    listed = server.client.objects(Selection(CONFIG_MAP, server.namespace, label_selector="tandem.dev/job=math"))

    assert [name_of(item) async for item in listed] == ["mine"]


async def test_a_watch_tells_what_was_added_changed_and_deleted_since_a_version(server: Server) -> None:
    before = await server.client.create(config_map(server.namespace, "marker"))
    await server.client.create(config_map(server.namespace, "one", job="math", color="red"))
    await server.client.apply(config_map(server.namespace, "one", job="math", color="blue"))
    await server.client.delete(CONFIG_MAP, server.namespace, "one")

    seen = await changes(server, resource_version_of(before), 3)

    assert [event.type for event in seen] == ["ADDED", "MODIFIED", "DELETED"]
    assert [section(event.manifest, "data").get("color") for event in seen] == ["red", "blue", "blue"]


async def test_a_watch_ends_at_its_time(server: Server) -> None:
    before = await server.client.create(config_map(server.namespace, "marker"))
    selection = Selection(
        CONFIG_MAP, server.namespace, label_selector="tandem.dev/job"
    )  # Kubernetes adds one of its own

    events = server.client.watch(selection, resource_version=resource_version_of(before), timeout_seconds=1)

    assert [event.type async for event in events if event.type != "BOOKMARK"] == []


async def test_a_watch_from_a_forgotten_version_is_gone(fake_server: Server, fake: FakeApi) -> None:
    fake.compact()

    with pytest.raises(GoneError, match="too old resource version"):
        await changes(fake_server, "1", 1)


@pytest.mark.api_server
@pytest.mark.parametrize("server", ["real"], indirect=True)
async def test_an_object_against_its_schema_is_invalid_and_says_where(server: Server) -> None:
    bad = config_map(server.namespace, "Not_A_Name")

    with pytest.raises(InvalidError) as refused:
        await server.client.create(bad)

    assert refused.value.causes[0].startswith("metadata.name: ")
    assert "\n" not in str(refused.value)


async def test_it_says_which_kinds_the_cluster_serves(server: Server) -> None:
    assert await server.client.serves(RLJOB)
    assert not await server.client.serves(VOLCANO_POD_GROUP)
