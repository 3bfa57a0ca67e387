"""Invariant 7 as the checker sees it: a switch is idempotent per epoch."""

from dataclasses import replace

from tests.faults.history import RunningProcess, Session
from tests.faults.invariants.epochs import check_epochs
from tests.faults.written import (
    RANK,
    ROLLOUT,
    TRAIN,
    calm,
    entry,
    followed_by,
    sample,
    started,
    status,
    switched,
    word,
)


def test_a_calm_history_holds() -> None:
    assert check_epochs(calm()) == []


def test_a_word_that_is_said_again_is_harmless() -> None:
    assert check_epochs(followed_by(calm(), word(2, "Train", deadline=151.0))) == []


def test_an_epoch_that_is_given_another_meaning_is_found() -> None:
    assert len(check_epochs(followed_by(calm(), word(2, "Infer")))) == 1


def test_an_epoch_that_nobody_announced_is_found() -> None:
    assert len(check_epochs(followed_by(calm(), status(TRAIN, "Switching", 9)))) == 1


def test_a_word_of_an_earlier_session_announces_nothing() -> None:
    history = followed_by(calm(), ("desired", None), status(TRAIN, "Switching", 2, incarnation="t2"))
    second = Session(history.changes[-2].at, history.changes[-1].at, None)

    assert check_epochs(history) == []
    assert len(check_epochs(replace(history, sessions=(second,)))) == 1


def test_a_member_that_goes_through_an_epoch_again_is_found() -> None:
    assert len(check_epochs(followed_by(calm(), status(TRAIN, "Switching", 2)))) == 1


def test_a_member_that_mends_what_has_ended_may_go_through_it_again() -> None:
    history = followed_by(calm(), status(ROLLOUT, "Switching", 2))
    server = RunningProcess("server", 8)
    ends = (sample(115.6, processes=(RANK, server)), sample(115.7, processes=(RANK,)))

    assert len(check_epochs(history)) == 1
    assert check_epochs(replace(history, samples=ends)) == []


def test_a_member_that_starts_anew_may_go_through_it_again() -> None:
    steps = (status(TRAIN, "Starting", 0), status(TRAIN, "Idle", 0), status(TRAIN, "Switching", 2))

    assert check_epochs(followed_by(calm(), *steps)) == []


def test_a_member_that_goes_back_an_epoch_is_found() -> None:
    assert len(check_epochs(followed_by(calm(), status(TRAIN, "Idle", 1)))) == 1


def test_a_switch_that_is_recorded_twice_is_found() -> None:
    assert len(check_epochs(replace(calm(), diary=(*calm().diary, entry(118.0, switched(2)))))) == 1


def test_another_start_counts_its_epochs_anew() -> None:
    diary = (*calm().diary, entry(118.0, started(1)), entry(119.0, switched(1)))

    assert check_epochs(replace(calm(), diary=diary)) == []
