"""Invariant 6 as the checker sees it: every wait has a deadline and says who is missing."""

from dataclasses import replace

import pytest

from tandem_api.history import RunEnded
from tests.faults.history import Disturbance, History, Session
from tests.faults.invariants.deadlines import check_deadlines
from tests.faults.written import (
    MASTER,
    ROLLOUT,
    calm,
    changes,
    entry,
    followed_by,
    status,
    switched,
    with_changes,
    word,
)

WORD = word(1, "Infer", deadline=141.0)
MUCH_LATER = (f"{ROLLOUT}-other", None)


def silent(*, until: float) -> History:
    """Return a history in which a word is said at 101 s, and something else is seen at `until`."""
    history = with_changes(MASTER, WORD)
    return replace(history, changes=(*history.changes, replace(changes(MUCH_LATER)[0], at=until)))


def ended(message: str) -> RunEnded:
    return RunEnded(at=0.0, result="Failed", message=message)


def test_a_calm_history_holds() -> None:
    assert check_deadlines(calm()) == []


@pytest.mark.parametrize("deadline", [0.0, 100.0, 300.0], ids=["none", "past", "far"])
def test_a_word_without_a_fit_deadline_is_found(deadline: float) -> None:
    assert len(check_deadlines(with_changes(MASTER, word(1, "Infer", deadline=deadline)))) == 1


def test_a_word_that_was_written_while_the_campaign_was_in_the_way_is_let_off() -> None:
    history = with_changes(MASTER, word(1, "Infer", deadline=3700.0))

    assert check_deadlines(replace(history, disturbances=(Disturbance("clock", 100.0, 102.0, "master"),))) == []


def test_a_deadline_that_passes_in_silence_is_found() -> None:
    assert check_deadlines(silent(until=150.0)) == []
    assert len(check_deadlines(silent(until=170.0))) == 1


def test_a_deadline_is_put_off_by_what_the_campaign_keeps_away() -> None:
    history = replace(silent(until=170.0), disturbances=(Disturbance("stop etcd", 110.0, 130.0, "etcd"),))

    assert check_deadlines(history) == []


@pytest.mark.parametrize("answer", ["switch", "failure", "run", "command"])
def test_any_answer_breaks_the_silence(answer: str) -> None:
    history = silent(until=170.0)
    answered = {
        "switch": replace(history, diary=(entry(120.0, switched(1)),)),
        "failure": replace(
            history,
            changes=(
                *history.changes[:2],
                *changes(status(ROLLOUT, "Failed", 1, error="no"), begin=120.0),
                *history.changes[2:],
            ),
        ),
        "run": replace(history, diary=(entry(120.0, ended("job-hybrid-0/rollout failed")),)),
        "command": replace(history, sessions=(Session(90.0, 120.0, None),)),
    }

    assert check_deadlines(answered[answer]) == []


def test_an_answer_to_another_epoch_does_not_count() -> None:
    assert len(check_deadlines(replace(silent(until=170.0), diary=(entry(120.0, switched(2)),)))) == 1


@pytest.mark.parametrize("error", [None, "", "Traceback (most recent call last)"])
def test_a_member_that_fails_without_a_cause_is_found(error: str | None) -> None:
    assert len(check_deadlines(followed_by(calm(), status(ROLLOUT, "Failed", 2, error=error)))) == 1


@pytest.mark.parametrize(
    "message",
    ["", "internal error: KeyError: 'x'; see the master's log", "switch 3 took more than 40 s: somebody"],
    ids=["silent", "internal", "nobody named"],
)
def test_a_run_that_fails_without_naming_the_cause_is_found(message: str) -> None:
    assert len(check_deadlines(replace(calm(), diary=(entry(120.0, ended(message)),)))) == 1


def test_a_missed_deadline_that_names_who_is_missing_is_fit() -> None:
    message = "switch 3 took more than 40 s: job-hybrid-0/rollout is Switching at epoch 3"

    assert check_deadlines(replace(calm(), diary=(entry(120.0, ended(message)),))) == []


def test_a_command_that_fails_with_a_stack_trace_is_found() -> None:
    assert len(check_deadlines(replace(calm(), sessions=(Session(90.0, 130.0, 1, "Traceback (most recent"),)))) == 1
