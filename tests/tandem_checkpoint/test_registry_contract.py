"""What every registry promises: the fake that fast tests use, and etcd."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from tandem_checkpoint.registry.errors import Fenced, LeaseLost
from tandem_checkpoint.registry.mirror import mirrored
from tandem_checkpoint.registry.store import Absent, Change, Is, Lease, Present, Put, Registry
from tests.tandem_checkpoint.conftest import Stage

SOON = 10.0
"""Deadline of every wait here, in seconds."""


async def following(changes: AsyncIterator[tuple[Change, ...]]) -> tuple[Change, ...]:
    async with asyncio.timeout(SOON):
        return await anext(changes)


async def following_until(changes: AsyncIterator[tuple[Change, ...]], num_changes: int) -> list[Change]:
    seen: list[Change] = []
    while len(seen) < num_changes:
        seen += await following(changes)
    return seen


async def until_dead(lease: Lease) -> None:
    async with asyncio.timeout(SOON):
        while lease.alive:  # noqa: ASYNC110 - a lease has no event
            await asyncio.sleep(0.05)


async def test_a_key_that_was_never_written_is_none(registry: Registry, prefix: str) -> None:
    assert await registry.get(f"{prefix}a") is None


async def test_a_written_key_is_read_back(registry: Registry, prefix: str) -> None:
    await registry.put(f"{prefix}a", "eins")

    assert await registry.get(f"{prefix}a") == "eins"


async def test_a_value_keeps_every_character(registry: Registry, prefix: str) -> None:
    await registry.put(f"{prefix}a", "ü\n\u0000{}")

    assert await registry.get(f"{prefix}a") == "ü\n\u0000{}"


async def test_a_list_holds_the_prefix_in_key_order_and_nothing_else(registry: Registry, prefix: str) -> None:
    await registry.put(f"{prefix}in/b", "2")
    await registry.put(f"{prefix}in/a", "1")
    await registry.put(f"{prefix}out", "3")

    assert list((await registry.list(f"{prefix}in/")).items()) == [(f"{prefix}in/a", "1"), (f"{prefix}in/b", "2")]


async def test_a_deleted_prefix_is_gone_and_its_neighbours_stay(registry: Registry, prefix: str) -> None:
    await registry.put(f"{prefix}weights/1/layout", "x")
    await registry.put(f"{prefix}weights/10/layout", "y")

    await registry.delete(f"{prefix}weights/1/")

    assert dict(await registry.list(prefix)) == {f"{prefix}weights/10/layout": "y"}


async def test_a_guarded_deletion_deletes_where_the_guard_holds(registry: Registry, prefix: str) -> None:
    await registry.put(f"{prefix}master", "me")
    await registry.put(f"{prefix}weights/1/layout", "x")

    await registry.delete(f"{prefix}weights/1/", [Is(f"{prefix}master", "me")])

    assert dict(await registry.list(prefix)) == {f"{prefix}master": "me"}


async def test_a_fenced_deletion_deletes_nothing(registry: Registry, prefix: str) -> None:
    await registry.put(f"{prefix}master", "somebody newer")
    await registry.put(f"{prefix}weights/1/layout", "x")

    with pytest.raises(Fenced):
        await registry.delete(f"{prefix}weights/1/", [Is(f"{prefix}master", "me")])

    assert await registry.get(f"{prefix}weights/1/layout") == "x"


async def test_deleting_what_is_gone_is_never_fenced(registry: Registry, prefix: str) -> None:
    await registry.delete(f"{prefix}weights/1/", [Is(f"{prefix}master", "me")])


async def test_writing_again_what_is_there_is_never_fenced(registry: Registry, prefix: str) -> None:
    await registry.transact([Absent(f"{prefix}layout")], [Put(f"{prefix}layout", "x")])

    await registry.transact([Absent(f"{prefix}layout")], [Put(f"{prefix}layout", "x")])


async def test_a_transaction_whose_guards_hold_writes_everything(registry: Registry, prefix: str) -> None:
    await registry.put(f"{prefix}master", "me")

    await registry.transact(
        [Is(f"{prefix}master", "me"), Absent(f"{prefix}b")], [Put(f"{prefix}a", "1"), Put(f"{prefix}b", "2")]
    )

    assert dict(await registry.list(prefix)) == {f"{prefix}master": "me", f"{prefix}a": "1", f"{prefix}b": "2"}


async def test_a_fenced_transaction_writes_nothing(registry: Registry, prefix: str) -> None:
    await registry.put(f"{prefix}master", "somebody newer")

    with pytest.raises(Fenced):
        await registry.transact(
            [Is(f"{prefix}master", "me"), Absent(f"{prefix}a")], [Put(f"{prefix}a", "1"), Put(f"{prefix}b", "2")]
        )

    assert dict(await registry.list(prefix)) == {f"{prefix}master": "somebody newer"}


async def test_a_guard_on_a_missing_key_fences(registry: Registry, prefix: str) -> None:
    with pytest.raises(Fenced):
        await registry.transact([Is(f"{prefix}master", "me")], [Put(f"{prefix}a", "1")])


async def test_a_guard_on_a_key_that_shall_be_there_asks_for_no_value(registry: Registry, prefix: str) -> None:
    await registry.put(f"{prefix}shard", "whatever")

    await registry.transact([Present(f"{prefix}shard")], [Put(f"{prefix}published", "1")])
    with pytest.raises(Fenced):
        await registry.transact([Present(f"{prefix}shard"), Present(f"{prefix}gone")], [Put(f"{prefix}published", "2")])

    assert await registry.get(f"{prefix}published") == "1"


async def test_a_create_only_write_meets_the_first_writers_value(registry: Registry, prefix: str) -> None:
    await registry.transact([Absent(f"{prefix}layout")], [Put(f"{prefix}layout", "first")])

    with pytest.raises(Fenced):
        await registry.transact([Absent(f"{prefix}layout")], [Put(f"{prefix}layout", "second")])

    assert await registry.get(f"{prefix}layout") == "first"


async def test_leaving_a_lease_deletes_its_keys_and_no_others(registry: Registry, prefix: str) -> None:
    async with registry.lease(30) as lease:
        await registry.put(f"{prefix}leased", "x", lease=lease.id)
        await registry.put(f"{prefix}free", "y")

    assert dict(await registry.list(prefix)) == {f"{prefix}free": "y"}


async def test_an_expired_lease_takes_its_keys_along(stage: Stage, prefix: str) -> None:
    async with stage.registry.lease(30) as lease:
        await stage.registry.put(f"{prefix}leased", "x", lease=lease.id)

        await stage.expire(lease.id)

        assert await stage.registry.get(f"{prefix}leased") is None


async def test_a_revoked_lease_takes_its_keys_along_at_once(registry: Registry, prefix: str) -> None:
    async with registry.lease(30) as lease:
        await registry.put(f"{prefix}leased", "x", lease=lease.id)

        await lease.revoke()
        await lease.revoke()

        assert not lease.alive
        assert await registry.get(f"{prefix}leased") is None


async def test_a_lease_knows_that_it_has_expired(stage: Stage) -> None:
    async with stage.registry.lease(3) as lease:
        assert lease.alive

        await stage.expire(lease.id)

        await until_dead(lease)


async def test_nothing_can_be_written_under_an_expired_lease(stage: Stage, prefix: str) -> None:
    async with stage.registry.lease(30) as lease:
        await stage.expire(lease.id)

        with pytest.raises(LeaseLost):
            await stage.registry.put(f"{prefix}leased", "x", lease=lease.id)

        assert await stage.registry.get(f"{prefix}leased") is None


async def test_a_key_written_again_under_another_lease_survives_the_first(stage: Stage, prefix: str) -> None:
    async with stage.registry.lease(30) as second:
        async with stage.registry.lease(30) as first:
            await stage.registry.put(f"{prefix}member", "old", lease=first.id)
            await stage.registry.put(f"{prefix}member", "new", lease=second.id)

        assert await stage.registry.get(f"{prefix}member") == "new"


async def test_a_watch_of_nothing_begins_with_an_empty_tuple(registry: Registry, prefix: str) -> None:
    async with aclosing(registry.watch(prefix)) as changes:  # type: ignore[type-var]
        assert await following(changes) == ()


async def test_a_watch_begins_with_what_is_there(registry: Registry, prefix: str) -> None:
    await registry.put(f"{prefix}a", "1")
    await registry.put(f"{prefix}b", "2")

    async with aclosing(registry.watch(prefix)) as changes:  # type: ignore[type-var]
        assert await following(changes) == (Change(f"{prefix}a", "1"), Change(f"{prefix}b", "2"))


async def test_a_watch_goes_on_with_every_change_in_order(registry: Registry, prefix: str) -> None:
    async with aclosing(registry.watch(prefix)) as changes:  # type: ignore[type-var]
        await following(changes)

        await registry.put(f"{prefix}a", "1")
        await registry.put(f"{prefix}a", "2")
        await registry.delete(f"{prefix}a")

        seen = await following_until(changes, num_changes=3)
        assert seen == [Change(f"{prefix}a", "1"), Change(f"{prefix}a", "2"), Change(f"{prefix}a", None)]


async def test_a_watch_shows_a_transaction_as_one_change(registry: Registry, prefix: str) -> None:
    async with aclosing(registry.watch(prefix)) as changes:  # type: ignore[type-var]
        await following(changes)

        await registry.transact([], [Put(f"{prefix}a", "1"), Put(f"{prefix}b", "2")])

        assert await following(changes) == (Change(f"{prefix}a", "1"), Change(f"{prefix}b", "2"))


async def test_a_watch_shows_the_keys_of_an_expired_lease_as_deleted(stage: Stage, prefix: str) -> None:
    async with stage.registry.lease(30) as lease, aclosing(stage.registry.watch(prefix)) as changes:  # type: ignore[type-var]
        await stage.registry.put(f"{prefix}member", "x", lease=lease.id)
        await following(changes)

        await stage.expire(lease.id)

        assert await following(changes) == (Change(f"{prefix}member", None),)


async def test_a_mirror_wakes_whoever_waits_for_a_key(registry: Registry, prefix: str) -> None:
    async with mirrored(registry, prefix) as mirror:
        waiting = asyncio.create_task(mirror.wait(lambda seen: seen.values.get(f"{prefix}published")))

        await registry.put(f"{prefix}published", "7")

        async with asyncio.timeout(SOON):
            assert await waiting == "7"


async def test_a_mirror_forgets_deleted_keys(registry: Registry, prefix: str) -> None:
    await registry.put(f"{prefix}shards/1", "x")
    async with mirrored(registry, prefix) as mirror, asyncio.timeout(SOON):
        await mirror.wait(lambda seen: seen.under(f"{prefix}shards/") or None)

        await registry.delete(f"{prefix}shards/")

        assert await mirror.wait(lambda seen: None if seen.under(f"{prefix}shards/") else "empty") == "empty"
