"""One member: what it acts on, what it reports, and how it comes back."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from tandem_api.job import Phase
from tandem_api.registry import FailureReason, MemberState
from tandem_checkpoint.gpu_token import TokenTimeout
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.segments.manifest import BrokenSegment
from tandem_checkpoint.switch.member import MemberEnded
from tandem_checkpoint.switch.side import CrewChanged, GenerationLost
from tandem_checkpoint.transfer.fetch import FetchFailed
from tests.tandem_checkpoint.jobs import POD
from tests.tandem_checkpoint.member_scene import KEYS, Scene, ScriptedSide, running_member

HANGING_SECONDS = 2.0
"""Deadline of an export that hangs: a busy machine needs some time until it begins and a newer word comes."""


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with running_member(ScriptedSide()) as scene:
        yield scene


@pytest.fixture
async def server() -> AsyncIterator[Scene]:
    async with running_member(ScriptedSide(role="rollout")) as scene:
        yield scene


async def test_a_member_registers_under_its_lease_and_reports_what_it_holds(scene: Scene) -> None:
    status = await scene.status(MemberState.IDLE)

    assert (status.incarnation, status.stage, status.device_bytes) == (scene.around.incarnation, "Idle", 4096)
    raw = await scene.registry.get(KEYS.member(POD, "train"))
    assert raw == scene.side.record().model_dump_json()

    scene.registry.expire(scene.around.lease)

    assert KEYS.member(POD, "train") not in await scene.registry.list(KEYS.prefix)


async def test_a_trainer_goes_through_the_stages_of_the_table(scene: Scene) -> None:
    await scene.master_appears()
    await scene.want(1)
    inference = await scene.status(MemberState.IDLE, epoch=1)
    await scene.want(2, Phase.TRAIN)
    training = await scene.status(MemberState.TRAINING, epoch=2)

    assert scene.side.did == ["start", "restore", "drain", "export", "offload", "take", "reload", "train"]
    assert [span.stage for span in inference.stages if not span.waits] == ["drain", "export", "offload"]
    assert [span.stage for span in training.stages if not span.waits] == ["take", "reload", "train"]


async def test_a_server_goes_through_the_stages_of_the_table(server: Scene) -> None:
    await server.master_appears()
    await server.want(1)
    await server.status(MemberState.SERVING, epoch=1)
    await server.want(2, Phase.TRAIN)
    await server.status(MemberState.IDLE, epoch=2)

    assert server.side.did == ["start", "restore", "prepare", "gather", "take", "load", "abort", "stop"]


async def test_what_happens_before_the_word_was_heard_is_told_as_waiting(scene: Scene) -> None:
    await scene.master_appears()
    await scene.want(1, deadline_seconds=300.0)

    status = await scene.status(MemberState.IDLE, epoch=1)

    assert next((span.stage, span.waits) for span in status.stages) == ("word", True)


async def test_nothing_is_done_for_a_dead_master(scene: Scene) -> None:
    await scene.status(MemberState.IDLE)
    await scene.want(1)
    await scene.settled()

    assert scene.side.did == ["start", "restore"]


async def test_what_a_dead_master_wanted_is_done_once_a_new_one_lives(scene: Scene) -> None:
    await scene.want(1)
    await scene.master_appears()

    await scene.status(MemberState.IDLE, epoch=1)


@pytest.mark.parametrize("epoch", [1, 2, 3])
async def test_an_epoch_that_is_not_newer_changes_nothing(scene: Scene, epoch: int) -> None:
    await scene.master_appears()
    await scene.want(3)
    await scene.status(MemberState.IDLE, epoch=3)
    before = list(scene.side.did)

    await scene.want(epoch, Phase.TRAIN)
    await scene.settled()

    assert scene.side.did == before


async def test_epochs_that_were_missed_are_skipped(scene: Scene) -> None:
    await scene.master_appears()
    await scene.want(1)
    await scene.status(MemberState.IDLE, epoch=1)

    await scene.want(7)

    await scene.status(MemberState.IDLE, epoch=7)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BrokenSegment("checksum of model.norm.weight differs from what was registered"), FailureReason.BROKEN_SEGMENT),
        (TokenTimeout("the other container of the pod still holds the devices"), FailureReason.TOKEN),
        (GenerationLost("generation 4 is nowhere"), FailureReason.GENERATION_LOST),
    ],
)
async def test_a_switch_that_fails_is_reported_with_its_cause_and_the_time_it_took(
    scene: Scene, error: Exception, reason: FailureReason
) -> None:
    await scene.master_appears()
    scene.side.errors["export"] = [error]
    await scene.want(1)

    status = await scene.status(MemberState.FAILED, epoch=1)

    assert (status.error, status.reason) == (str(error), reason)
    assert [span.stage for span in status.stages if not span.waits] == ["drain", "export"]
    assert scene.side.did[-1] == "fail"


async def test_after_a_failed_switch_the_next_epoch_is_acted_on(scene: Scene) -> None:
    await scene.master_appears()
    scene.side.errors["export"] = [BrokenSegment("broken")]
    await scene.want(1)
    await scene.status(MemberState.FAILED, epoch=1)

    await scene.want(2)

    await scene.status(MemberState.IDLE, epoch=2)


async def test_a_switch_past_its_deadline_has_failed(scene: Scene) -> None:
    await scene.master_appears()
    scene.side.hanging.add("export")
    await scene.want(1, deadline_seconds=HANGING_SECONDS)

    status = await scene.status(MemberState.FAILED, epoch=1)

    assert (status.error, status.reason) == ("the deadline of the switch has passed", FailureReason.DEADLINE)
    assert scene.side.did[-2:] == ["export given up", "fail"]


async def test_a_member_that_nobody_waits_for_has_its_own_time_when_it_comes_late() -> None:
    async with running_member(ScriptedSide(role="rollout", awaited=False)) as scene:
        await scene.master_appears()
        await scene.want(1, deadline_seconds=-60.0)

        await scene.status(MemberState.SERVING, epoch=1)

        assert scene.side.deadlines[0] > time.time()


async def test_a_newer_word_ends_what_loses_nothing_by_it(server: Scene) -> None:
    await server.master_appears()
    server.side.hanging.add("gather")
    await server.want(1)
    await server.until_did("gather")

    await server.want(2, Phase.TRAIN)

    await server.status(MemberState.IDLE, epoch=2)
    assert server.side.did[2:] == ["prepare", "gather", "gather given up", "abort", "stop"]


async def test_a_newer_word_waits_for_what_must_not_be_cut(scene: Scene) -> None:
    await scene.master_appears()
    scene.side.hanging.add("export")
    await scene.want(1, deadline_seconds=HANGING_SECONDS)
    await scene.until_did("export")

    await scene.want(2, Phase.TRAIN)
    await scene.settled()

    assert scene.side.did[-1] == "export"
    await scene.status(MemberState.TRAINING, epoch=2)


async def test_a_fetch_that_fails_is_told_and_the_next_epoch_is_acted_on() -> None:
    error = FetchFailed("generation 1: a could not be fetched from any pod: toy-hybrid-0: answered 404")
    side = ScriptedSide(role="rollout", awaited=False, errors={"gather": [error]})
    async with running_member(side) as scene:
        await scene.master_appears()
        await scene.want(1)

        status = await scene.status(MemberState.FAILED, epoch=1)
        await scene.want(2)

        assert status.error == str(error)
        await scene.status(MemberState.SERVING, epoch=2)


async def test_a_server_that_ends_on_the_way_is_tried_again_within_the_same_switch(server: Scene) -> None:
    await server.master_appears()
    server.side.errors["load"] = [ChildGone("the server was ended by SIGKILL")]
    await server.want(1)

    await server.status(MemberState.SERVING, epoch=1)

    assert server.side.did[2:] == ["prepare", "gather", "take", "load", "prepare", "gather", "take", "load"]


async def test_a_server_that_ends_while_it_serves_is_replaced(server: Scene) -> None:
    await server.master_appears()
    await server.want(1)
    await server.status(MemberState.SERVING, epoch=1)

    server.side.end_child(ChildGone("a server has ended"))

    await server.until_did("revive")
    await server.status(MemberState.SERVING, epoch=1)


async def test_a_server_that_ends_again_and_again_fails_the_switch(
    server: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tandem_checkpoint.process.backoff.FIRST_SECONDS", 0.02)
    await server.master_appears()
    gone = ChildGone("the server exited with code 1; its log has the cause")
    server.side.errors["load"] = [gone] * 20
    await server.want(1, deadline_seconds=60.0)

    async with asyncio.timeout(30):
        while server.member.status.state is not MemberState.FAILED:  # noqa: ASYNC110 - its epoch does not matter
            await asyncio.sleep(0.05)

    assert server.member.status.reason is FailureReason.CHILD
    assert server.member.status.error == str(gone)


async def test_ranks_that_end_are_started_again_and_the_word_is_acted_on_anew(scene: Scene) -> None:
    await scene.master_appears()
    await scene.want(1)
    await scene.status(MemberState.IDLE, epoch=1)

    scene.side.end_child(ChildGone("trainer rank 1 was ended by SIGSEGV"))

    await scene.until_did("start", times=2)
    await scene.until_did("offload", times=2)
    await scene.status(MemberState.IDLE, epoch=1)


async def test_a_crew_that_changes_is_no_crash_of_ours(scene: Scene) -> None:
    await scene.status(MemberState.IDLE)
    scene.side.errors["start"] = [CrewChanged("the ranks of toy-hybrid-1 have started anew")] * 12

    scene.side.end_child(CrewChanged("the ranks of toy-hybrid-1 have started anew"))

    await scene.until_did("start", times=14)
    await scene.until_did("restore", times=2)


async def test_a_member_whose_lease_is_lost_rejoins_with_another_incarnation_from_the_registry_alone(
    server: Scene,
) -> None:
    await server.master_appears()
    await server.want(1)
    before = await server.status(MemberState.SERVING, epoch=1)
    server.side.did.clear()

    server.registry.expire(server.around.lease)

    await server.until_did("load")
    after = await server.status(MemberState.SERVING, epoch=1)
    assert after.incarnation != before.incarnation
    assert server.side.did == ["leave", "restore", "prepare", "gather", "take", "load"]


async def test_a_member_waits_for_a_registry_that_is_away_before_it_rejoins(scene: Scene) -> None:
    await scene.status(MemberState.IDLE)
    scene.side.did.clear()
    scene.registry.reachable = False
    scene.registry.expire(scene.around.lease)
    await scene.until_did("leave")
    await scene.settled()

    scene.registry.reachable = True

    await scene.until_did("restore")
    assert scene.side.did == ["leave", "restore"]


async def test_a_first_start_that_fails_is_reported_and_ends_the_member() -> None:
    async with running_member(ScriptedSide(errors={"start": [ChildGone("rank 0 exited with code 1")]})) as scene:
        status = await scene.status(MemberState.FAILED)

        assert status.error == "rank 0 exited with code 1"
        with pytest.raises(BaseExceptionGroup) as caught:
            await scene.running
        assert caught.group_contains(MemberEnded, match="rank 0 exited with code 1")
