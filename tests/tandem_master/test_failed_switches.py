"""Why a switch of the whole job has failed, as its counter says it."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tandem_api.job.operations import SwitchSpec
from tandem_api.job.status import Direction
from tandem_api.metrics import Interruption, SwitchReason
from tandem_api.registry import FailureReason, Keys
from tandem_master.errors import GenerationLost, SwitchError
from tandem_master.journal import open_journal
from tandem_master.mastership import elected
from tandem_master.members import hybrid_members
from tandem_master.phases import Parties, Switcher
from tandem_master.watched import watched
from tests.fakes.registry import FakeRegistry
from tests.tandem_master.cast import Script, on_stage

KEYS = Keys("default", "toy")
PODS = ("toy-hybrid-0",)
PORT = 9
AMPLE_SECONDS = 10.0
SHORT_SECONDS = 2


async def failures_of(state: Path, script: Script, seconds: float) -> Sequence[tuple[Direction, SwitchReason]]:
    """Return what is heard of a change to inference that members spoil by a script."""
    registry, heard = FakeRegistry(), list[tuple[Direction, SwitchReason]]()
    spec = SwitchSpec(train_to_infer_deadline_seconds=seconds)

    def hear(direction: Direction, reason: SwitchReason) -> None:
        heard.append((direction, reason))

    with open_journal(state) as journal:
        async with (
            elected(registry, KEYS, "toy-master") as mastership,
            watched(registry, [KEYS.prefix]) as members,
            on_stage(registry, KEYS, PODS, PORT, script),
        ):
            parties = Parties(registry, KEYS, mastership, members, hybrid_members(PODS), journal, failed=hear)
            with pytest.raises((SwitchError, GenerationLost)):
                await Switcher(parties, spec, last_epoch=0, lineage="ours").to_infer(0, 1)
    return heard


@pytest.mark.parametrize(
    ("script", "seconds", "reason"),
    [
        (Script(losses=frozenset({"train/1"})), AMPLE_SECONDS, FailureReason.GENERATION_LOST),
        (Script(failures={"rollout/1": "exit 137"}), AMPLE_SECONDS, Interruption.OTHER),
        (Script(silences=frozenset({"train/1"})), SHORT_SECONDS, FailureReason.DEADLINE),
        (Script(departures=frozenset({"rollout/1"})), SHORT_SECONDS, Interruption.MEMBER_GONE),
    ],
    ids=["what its member says", "a member that gives no reason", "too late", "a member that has gone"],
)
async def test_a_switch_that_failed_is_told_once_with_its_reason(
    tmp_path: Path, script: Script, seconds: float, reason: SwitchReason
) -> None:
    assert await failures_of(tmp_path, script, seconds) == [(Direction.TRAIN_TO_INFER, reason)]
