"""Folding what is heard into what is known."""

from dataclasses import replace

import pytest
from pydantic import ValidationError

from tandem_api.history import Record
from tandem_api.job.status import Direction, Phase
from tandem_api.registry import Desired, Keys, MemberState, MemberStatus, Progress
from tandem_cli.live.state import (
    LiveState,
    Member,
    with_desired,
    with_history,
    with_key,
    with_member,
    with_progress,
    with_records,
    with_status,
)
from tandem_cli.live.wording import late_members_text
from tests.tandem_cli.fake_history import JOB, STARTED_AT, fake_history, fake_records

KEYS = Keys("default", JOB)
NEW = LiveState(job=JOB, started_at=STARTED_AT, expected_members=2, iterations=40)
INFER = Desired(epoch=3, phase=Phase.INFER, generation=1, iteration=2, deadline=STARTED_AT + 60)
PROGRESS = Progress(activity="sampling", iteration=4, iterations=40, generation=4)
TRAINER: Member = ("hybrid-0", "train")


def status(epoch: int, state: MemberState, error: str | None = None) -> MemberStatus:
    return MemberStatus(incarnation="a", epoch=epoch, state=state, error=error)


def test_each_key_of_the_registry_finds_its_place() -> None:
    value = status(3, MemberState.IDLE)

    state = with_key(NEW, KEYS, KEYS.desired, INFER.model_dump_json().encode())
    state = with_key(state, KEYS, KEYS.progress, PROGRESS.model_dump_json().encode())
    state = with_key(state, KEYS, KEYS.member("hybrid-0", "train"), b"{}")
    state = with_key(state, KEYS, KEYS.status("hybrid-0", "train"), value.model_dump_json().encode())

    assert (state.desired, state.progress) == (INFER, PROGRESS)
    assert state.members == {TRAINER}
    assert state.statuses == {TRAINER: value}


def test_a_lease_that_ends_takes_the_member_away() -> None:
    state = with_status(with_member(NEW, TRAINER, is_registered=True), TRAINER, status(1, MemberState.IDLE))

    state = with_key(state, KEYS, KEYS.member("hybrid-0", "train"), None)
    state = with_key(state, KEYS, KEYS.status("hybrid-0", "train"), None)

    assert state.members == frozenset()
    assert state.statuses == {}


def test_a_rollout_only_pod_on_its_way_is_no_switch() -> None:
    state = replace(NEW, rollout_only=frozenset({"rollout-0"}))
    state = with_status(with_desired(state, INFER), TRAINER, status(3, MemberState.IDLE))

    state = with_status(state, ("rollout-0", "rollout"), status(3, MemberState.SWITCHING))

    assert not state.is_switching
    assert late_members_text(state) == ""


def test_the_last_progress_outlives_its_master() -> None:
    state = with_progress(NEW, PROGRESS)

    assert with_key(state, KEYS, KEYS.progress, None).progress == PROGRESS


@pytest.mark.parametrize("key", [KEYS.master, KEYS.published, KEYS.members + "hybrid-0/other", "/elsewhere"])
def test_other_keys_change_nothing(key: str) -> None:
    assert with_key(NEW, KEYS, key, b"whatever") == NEW


def test_a_value_that_is_not_what_its_key_holds_is_refused() -> None:
    with pytest.raises(ValidationError):
        with_key(NEW, KEYS, KEYS.desired, b"{}")


def test_a_switch_goes_on_until_every_member_has_arrived() -> None:
    asked = with_desired(NEW, INFER)
    on_the_way = with_status(asked, TRAINER, status(3, MemberState.SWITCHING))
    arrived = with_status(asked, TRAINER, status(3, MemberState.IDLE))

    assert not NEW.is_switching
    assert asked.is_switching
    assert with_status(asked, TRAINER, status(2, MemberState.TRAINING)).is_switching
    assert on_the_way.is_switching
    assert not arrived.is_switching


def test_iteration_and_generation_are_the_newest_that_anyone_told() -> None:
    recorded = with_history(NEW, fake_history(iterations=3))

    assert (recorded.complete_iterations, recorded.generation) == (3, 3)
    assert with_progress(recorded, PROGRESS).complete_iterations == 4


def test_records_are_added_as_they_come() -> None:
    records: tuple[Record, ...] = fake_records(iterations=2)
    whole = fake_history(iterations=2)

    history = with_records(with_records(NEW, records[:4]), records[4:]).history

    assert (history.runs, history.iterations) == (whole.runs, whole.iterations)
    assert history.switches[-1] == whole.switches[-1]


def test_a_long_run_keeps_two_switches_that_were_told_before_and_no_phase() -> None:
    told = with_records(NEW, fake_records(iterations=9))
    newest = fake_history(iterations=9).switches[-2:]

    later = with_records(told, fake_records(iterations=1)[:1]).history

    assert later.switches == newest
    assert {switch.direction for switch in newest} == set(Direction)
    assert later.phases == ()


def test_the_end_of_an_earlier_run_is_not_the_end_of_this_one() -> None:
    failed = fake_history(iterations=1, result="Failed", message="out of memory")
    resumed = LiveState(job=JOB, started_at=STARTED_AT + 900, expected_members=2, iterations=40, history=failed)

    assert with_history(NEW, failed).error == "out of memory"
    assert resumed.error is None
