"""The switch protocol as a table: what it promises whatever happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tandem_api.registry import MemberState, Role
from tandem_checkpoint.switch.protocol import (
    INTERRUPTIBLE,
    RESTING,
    TABLES,
    TO_INFER,
    TO_TRAIN,
    Action,
    Event,
    ProtocolError,
    State,
    Transition,
    next_transition,
    public_state,
    stages_of,
)

ROLES: tuple[Role, ...] = ("train", "rollout")
EVERY_STATE = [(role, state) for role in ROLES for state in sorted({state for state, _ in TABLES[role]})]
WORDS = (Event.INFER, Event.TRAIN)


def follow(role: Role, state: State, events: list[Event]) -> list[Transition]:
    """Return what a list of events leads to, from a state on."""
    rows = []
    for event in events:
        rows.append(next_transition(TABLES[role], state, event))
        state = rows[-1].state
    return rows


@pytest.mark.parametrize("role", ROLES)
def test_the_way_to_inference_is_gone_stage_by_stage(role: Role) -> None:
    rows = follow(role, State.IDLE, [Event.INFER, *[Event.DONE] * (len(TO_INFER[role]) - 1)])

    assert [(row.action, row.state) for row in rows] == list(TO_INFER[role])


@pytest.mark.parametrize("role", ROLES)
def test_the_way_to_training_is_gone_stage_by_stage(role: Role) -> None:
    rows = follow(role, State.IDLE, [Event.TRAIN, *[Event.DONE] * (len(TO_TRAIN[role]) - 1)])

    assert [(row.action, row.state) for row in rows] == list(TO_TRAIN[role])


@pytest.mark.parametrize(("role", "state"), EVERY_STATE)
def test_a_stale_word_changes_nothing_in_any_state(role: Role, state: State) -> None:
    assert TABLES[role][state, Event.STALE] == Transition(Action.KEEP_ON, state)


@pytest.mark.parametrize(("role", "state"), EVERY_STATE)
def test_a_member_can_be_told_to_go_in_any_state(role: Role, state: State) -> None:
    assert TABLES[role][state, Event.TERMINATED] == Transition(Action.END, State.ENDED)


@pytest.mark.parametrize(("role", "state"), EVERY_STATE)
def test_a_lost_lease_leads_to_a_new_registration_from_any_state(role: Role, state: State) -> None:
    action = TABLES[role][state, Event.LEASE_LOST].action

    assert action is (Action.RESTART if state is State.STARTING else Action.REJOIN)


@pytest.mark.parametrize(("role", "state"), EVERY_STATE)
def test_a_word_is_acted_on_or_looked_at_again_in_every_state(role: Role, state: State) -> None:
    at_once = state in RESTING[role] | INTERRUPTIBLE[role]
    rows = [TABLES[role][state, word] for word in WORDS]

    assert [row.action is Action.KEEP_ON for row in rows] == [not at_once] * 2
    assert all(at_once or row.state is state for row in rows)


@pytest.mark.parametrize(("role", "stage"), [(role, stage) for role in ROLES for stage in sorted(stages_of(role))])
def test_every_stage_ends_by_its_deadline(role: Role, stage: State) -> None:
    assert TABLES[role][stage, Event.DEADLINE] == Transition(Action.FAIL, State.FAILED)
    assert TABLES[role][stage, Event.ERROR] == Transition(Action.FAIL, State.FAILED)


@pytest.mark.parametrize("role", ROLES)
def test_a_failed_member_acts_on_the_next_word(role: Role) -> None:
    assert [TABLES[role][State.FAILED, word] for word in WORDS] == [TABLES[role][State.IDLE, word] for word in WORDS]


@pytest.mark.parametrize("role", ROLES)
def test_a_pair_that_is_not_in_the_table_raises(role: Role) -> None:
    with pytest.raises(ProtocolError, match="event done cannot come in state Idle"):
        next_transition(TABLES[role], State.IDLE, Event.DONE)


@pytest.mark.parametrize("role", ROLES)
def test_nothing_leads_out_of_the_end(role: Role) -> None:
    assert all(state is not State.ENDED for state, _ in TABLES[role])


@given(role=st.sampled_from(ROLES), choices=st.lists(st.integers(min_value=0), max_size=40))
def test_from_wherever_events_lead_a_switch_can_complete(role: Role, choices: list[int]) -> None:
    """Any walk through the table that has not ended can go on to both ends of a switch by words and successes."""
    state = State.STARTING
    for choice in choices:
        possible = sorted(event for known, event in TABLES[role] if known is state and event is not Event.TERMINATED)
        state = TABLES[role][state, possible[choice % len(possible)]].state if possible else state

    assert state is State.ENDED or _completes(role, state)


def _completes(role: Role, state: State) -> bool:
    for word, target in ((Event.INFER, TO_INFER[role][-1][1]), (Event.TRAIN, TO_TRAIN[role][-1][1])):
        at_rest = _rested(role, state)
        rows = follow(role, at_rest, [word])
        if _rested(role, rows[-1].state) is not target:
            return False
    return True


def _rested(role: Role, state: State) -> State:
    """Return where a member rests after every running action has succeeded."""
    steps = 0
    while state not in RESTING[role]:
        state, steps = TABLES[role][state, Event.DONE].state, steps + 1
        assert steps < len(State)
    return state


@pytest.mark.parametrize(
    ("state", "public"),
    [
        (State.STARTING, MemberState.STARTING),
        (State.EXPORTING, MemberState.SWITCHING),
        (State.REVIVING, MemberState.SWITCHING),
        (State.SERVING, MemberState.SERVING),
        (State.ENDED, MemberState.FAILED),
    ],
)
def test_others_see_a_state_in_few_words(state: State, public: MemberState) -> None:
    assert public_state(state) is public
