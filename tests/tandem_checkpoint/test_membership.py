"""A member's place in the registry."""

import asyncio
from pathlib import Path

from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.switch.membership import Membership
from tandem_checkpoint.switch.side import Surroundings
from tests.fakes.registry import FakeRegistry
from tests.tandem_checkpoint.jobs import POD, job_config, settings_of
from tests.tandem_checkpoint.member_scene import KEYS, SOON, ScriptedSide


async def test_a_member_has_joined_only_once_its_own_copy_of_the_registry_shows_it() -> None:
    registry, mirror = FakeRegistry(), Mirror()
    around = Surroundings(settings_of(job_config(Path("/policy")), Path("/shared")), registry, mirror)
    joining = asyncio.create_task(Membership(ScriptedSide(around=around), around).join())
    async with asyncio.timeout(SOON):
        while await registry.get(KEYS.member(POD, "train")) is None:  # noqa: ASYNC110 - a fake tells nobody
            await asyncio.sleep(0)
    await asyncio.sleep(0.05)

    assert not joining.done()

    following = asyncio.create_task(mirror.follow(registry, KEYS.prefix))
    async with asyncio.timeout(SOON):
        await joining
    following.cancel()
    assert KEYS.member(POD, "train") in mirror.values


async def test_a_copy_that_shows_the_incarnation_before_is_not_new_enough() -> None:
    registry, mirror = FakeRegistry(), Mirror()
    around = Surroundings(settings_of(job_config(Path("/policy")), Path("/shared")), registry, mirror)
    membership = Membership(ScriptedSide(around=around), around)
    following = asyncio.create_task(mirror.follow(registry, KEYS.prefix))
    async with asyncio.timeout(SOON):
        await membership.join()
    following.cancel()
    before = mirror.values[KEYS.member(POD, "train")]

    joining = asyncio.create_task(membership.join())
    await asyncio.sleep(0.05)

    assert await registry.get(KEYS.member(POD, "train")) != before
    assert not joining.done()
    joining.cancel()
