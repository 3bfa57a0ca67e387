"""Invariant 7: a switch is idempotent per epoch; to say a word again is harmless."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from tandem_api.history import RunStarted, SwitchRecord
from tests.faults.history import Change, DeviceSample, History
from tests.faults.invariants.replay import owner_of, replay
from tests.faults.invariants.violation import Violation
from tests.faults.values import DesiredValue, StatusValue

RESTING = frozenset({"Serving", "Training", "Idle"})
"""States in which a member has done what the word asked for."""
NOTICE_SECONDS = 2.0
"""How long before a member acts on the end of a process the campaign may have seen it, or after."""


def check_epochs(history: History) -> list[Violation]:
    """Return epochs that mean two things, that nobody announced, or that a member went through twice."""
    return _two_meanings(history) + _unannounced(history) + _twice(history) + _recorded_twice(history)


def _two_meanings(history: History) -> list[Violation]:
    found = []
    for step in replay(history.changes):
        value, before = step.change.value, step.before.get("desired")
        if not isinstance(value, DesiredValue) or not isinstance(before, DesiredValue):
            continue
        if value.epoch == before.epoch and value != before:
            found.append(Violation(7, step.change.at, f"epoch {value.epoch} is given another meaning"))
    return found


def _unannounced(history: History) -> list[Violation]:
    """A member in an epoch that no word of this session has named; an etcd that lost its data does not unsay a word."""
    found = []
    named = {0}
    starts = sorted(session.started_at for session in history.sessions)
    for change in history.changes:
        while starts and starts[0] <= change.at:
            named = {0}
            starts.pop(0)
        if isinstance(change.value, DesiredValue):
            named.add(change.value.epoch)
        elif isinstance(change.value, StatusValue) and change.value.epoch not in named:
            found.append(
                Violation(7, change.at, f"{change.key}: in epoch {change.value.epoch}, which nobody announced")
            )
    return found


@dataclass(slots=True)
class MemberPath:
    """How far one incarnation of a member is."""

    incarnation: str = ""
    epoch: int = 0
    done_at: float | None = None
    """When it reported to have done what the epoch asks for; None while it has not."""


def _twice(history: History) -> list[Violation]:
    """A member that starts the switch of an epoch again although nothing of it has ended; or goes back an epoch."""
    found = []
    paths: dict[str, MemberPath] = {}
    for change in history.changes:
        value = change.value
        if not isinstance(value, StatusValue):
            continue
        path = paths.setdefault(change.key, MemberPath())
        if value.incarnation != path.incarnation or value.epoch == 0 or value.state == "Starting":
            paths[change.key] = MemberPath(value.incarnation, value.epoch)
            continue
        if value.epoch < path.epoch:
            found.append(Violation(7, change.at, f"{change.key}: from epoch {path.epoch} back to {value.epoch}"))
        if value.epoch != path.epoch:
            path.epoch, path.done_at = value.epoch, None
        if value.state == "Switching" and path.done_at is not None:
            if not _something_ended(history.samples, change, path.done_at):
                found.append(Violation(7, change.at, f"{change.key}: goes through epoch {value.epoch} again"))
            path.done_at = None
        elif value.state in RESTING:
            path.done_at = change.at
    return found


def _something_ended(samples: Sequence[DeviceSample], change: Change, since: float) -> bool:
    """Tell whether a process of the member's pod ended after `since`: a member then mends what it lost."""
    pod, _ = owner_of(change.key)
    ours = [
        set(sample.processes)
        for sample in samples
        if sample.pod == pod and since - NOTICE_SECONDS <= sample.at <= change.at + NOTICE_SECONDS
    ]
    return any(earlier - later for earlier, later in pairwise(ours))


def _recorded_twice(history: History) -> list[Violation]:
    """The epochs of the recorded switches of one start grow."""
    found = []
    newest = 0
    for entry in history.diary:
        if isinstance(entry.record, RunStarted):
            newest = 0
        elif isinstance(entry.record, SwitchRecord):
            if entry.record.epoch <= newest:
                text = f"switch {entry.record.epoch} is recorded after switch {newest}"
                found.append(Violation(7, entry.seen_at, text))
            newest = entry.record.epoch
    return found
