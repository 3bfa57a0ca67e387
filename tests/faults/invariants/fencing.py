"""Invariant 5: a stale master, member or exporter changes nothing."""

from collections.abc import Mapping

from tests.faults.history import Change, History
from tests.faults.invariants.replay import Step, owner_of, replay
from tests.faults.invariants.violation import Violation
from tests.faults.values import (
    DesiredValue,
    MasterValue,
    MemberValue,
    PublishedValue,
    ShardValue,
    StatusValue,
    Value,
)


def check_fencing(history: History) -> list[Violation]:
    """Return every change that somebody stale has made."""
    found = [
        Violation(5, intrusion.at, f"accepted from somebody stale: {intrusion.what}")
        for intrusion in history.intrusions
        if intrusion.accepted
    ]
    replaced: set[tuple[str, str]] = set()
    for step in replay(history.changes):
        found += [Violation(5, step.change.at, text) for text in _problems(step, replaced)]
        _note_replaced(step, replaced)
    return found


def _problems(step: Step, replaced: set[tuple[str, str]]) -> list[str]:
    change, before = step.change, step.before
    match change.value:
        case MasterValue(incarnation=new):
            return _second_master(before, new)
        case DesiredValue() as word:
            return _masterless(change, before) + _older_word(before, word)
        case PublishedValue():
            return _masterless(change, before)
        case MemberValue(incarnation=new):
            back = (change.key, new) in replaced
            return [f"{change.key}: incarnation {new} is back after it was replaced"] if back else []
        case StatusValue(incarnation=writer):
            pod, role = owner_of(change.key)
            return _foreign(change, before, f"members/{pod}/{role}", writer)
        case ShardValue(incarnation=writer):
            pod = change.key.split("/")[3]
            return _foreign(change, before, f"members/{pod}/train", writer)
    return []


def _second_master(before: Mapping[str, Value], new: str) -> list[str]:
    holder = before.get("master")
    if isinstance(holder, MasterValue) and holder.incarnation != new:
        return [f"master: {new} took the place of {holder.incarnation}, which was still there"]
    return []


def _masterless(change: Change, before: Mapping[str, Value]) -> list[str]:
    return [] if "master" in before else [f"{change.key}: written while there was no master"]


def _older_word(before: Mapping[str, Value], word: DesiredValue) -> list[str]:
    held = before.get("desired")
    if isinstance(held, DesiredValue) and word.epoch < held.epoch:
        return [f"desired: epoch {word.epoch} over epoch {held.epoch}"]
    return []


def _foreign(change: Change, before: Mapping[str, Value], member_key: str, writer: str) -> list[str]:
    member = before.get(member_key)
    if not isinstance(member, MemberValue):
        return [f"{change.key}: written by {writer}, which is not registered"]
    if member.incarnation != writer:
        return [f"{change.key}: written by {writer}, registered is {member.incarnation}"]
    return []


def _note_replaced(step: Step, replaced: set[tuple[str, str]]) -> None:
    """Remember incarnations that another one has taken the place of."""
    value, before = step.change.value, step.before.get(step.change.key)
    if isinstance(value, MemberValue) and isinstance(before, MemberValue) and before.incarnation != value.incarnation:
        replaced.add((step.change.key, before.incarnation))
