"""Invariant 5 as the checker sees it: somebody stale changes nothing."""

from dataclasses import replace

import pytest

from tests.faults.history import Intrusion
from tests.faults.invariants.fencing import check_fencing
from tests.faults.values import MasterValue, MemberValue, Value
from tests.faults.written import (
    MASTER,
    POD,
    PUBLISHED,
    SERVERS,
    TRAIN,
    TRAINER,
    calm,
    followed_by,
    shard,
    status,
    with_changes,
    word,
)

SECOND = ("master", MasterValue(incarnation="m2"))


def test_a_calm_history_holds() -> None:
    assert check_fencing(calm()) == []


def test_a_refused_intrusion_is_none_and_an_accepted_one_is_found() -> None:
    refused, accepted = (replace(calm(), intrusions=(Intrusion(1.0, "desired", took),)) for took in (False, True))

    assert check_fencing(refused) == []
    assert len(check_fencing(accepted)) == 1


@pytest.mark.parametrize(
    "planted",
    [
        SECOND,
        word(1, "Infer"),
        shard(incarnation="t0"),
        status(TRAIN, "Idle", 2, incarnation="t0"),
    ],
    ids=["second master", "older word", "foreign shard", "foreign status"],
)
def test_a_write_of_somebody_stale_is_found(planted: tuple[str, Value]) -> None:
    assert len(check_fencing(followed_by(calm(), planted))) == 1


@pytest.mark.parametrize("planted", [word(3, "Infer"), PUBLISHED], ids=["desired", "published"])
def test_a_masters_write_without_a_master_is_found(planted: tuple[str, Value]) -> None:
    assert len(check_fencing(followed_by(calm(), ("master", None), planted))) == 1


def test_the_next_master_may_come_once_the_first_has_gone() -> None:
    assert check_fencing(followed_by(calm(), ("master", None), SECOND, word(3, "Infer"))) == []


def test_a_member_that_is_not_registered_may_not_report() -> None:
    history = followed_by(calm(), (TRAINER[0], None), status(TRAIN, "Idle", 2))

    assert len(check_fencing(history)) == 1


def test_an_incarnation_that_was_replaced_may_not_come_back() -> None:
    key = f"members/{POD}/train"
    second = followed_by(calm(), (key, MemberValue(incarnation="t2")))

    assert check_fencing(second) == []
    assert len(check_fencing(followed_by(second, TRAINER))) == 1


def test_an_empty_registry_begins_anew() -> None:
    history = with_changes(MASTER, TRAINER, SERVERS, word(7, "Infer"))
    later = [replace(change, life=2, at=change.at + 50) for change in with_changes(SECOND, word(1, "Infer")).changes]

    assert check_fencing(replace(history, changes=(*history.changes, *later))) == []
