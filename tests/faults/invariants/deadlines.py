"""Invariant 6: every wait has a deadline and says who is missing."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tandem_api.history import RunEnded, SwitchRecord
from tests.faults.history import Change, Disturbance, History
from tests.faults.invariants.violation import Violation
from tests.faults.values import DesiredValue, StatusValue

GRACE_SECONDS = 15.0
"""Time past a deadline in which the answer to it must be seen: a lease may have to end first."""
SLACK_SECONDS = 5.0
"""How far the deadline of a word may be from when it was written and the job's limit."""
NAMES_SOMEBODY = re.compile(r"[\w.-]+/(train|rollout)\b|registry|shards? |etcd")
UNFIT = re.compile(r"Traceback|internal error|Error\(")
"""What people should never have to read."""


def check_deadlines(history: History) -> list[Violation]:
    """Return words without a fit deadline, deadlines that passed in silence, and failures that name no cause."""
    words = _words(history.changes)
    found = [violation for word in words for violation in _limit(word, history)]
    return found + _silences(words, history) + _speechless(history)


def _words(changes: Sequence[Change]) -> list[tuple[Change, DesiredValue]]:
    return [(change, change.value) for change in changes if isinstance(change.value, DesiredValue)]


def _limit(entry: tuple[Change, DesiredValue], history: History) -> list[Violation]:
    change, word = entry
    seconds = history.job.deadline_seconds(word.phase)
    if _disturbed_seconds(history.disturbances, change.at - seconds, change.at + SLACK_SECONDS) > 0:
        return []  # the word was written late, or by a master whose clock was off
    allowed = seconds + SLACK_SECONDS
    if not 0 < word.deadline - change.at <= allowed:
        text = f"epoch {word.epoch}: its deadline is {word.deadline - change.at:g} s away, allowed are {seconds:g} s"
        return [Violation(6, change.at, text)]
    return []


@dataclass(frozen=True, slots=True)
class Answer:
    """Something that ends the wait for an epoch. `epoch` None: for every one."""

    at: float
    epoch: int | None


def _silences(words: Sequence[tuple[Change, DesiredValue]], history: History) -> list[Violation]:
    """Words whose deadline passed without a newer word, a completed switch, a failure or the end of the run."""
    answers = _answers(history)
    seen_until = max((*(answer.at for answer in answers), *(change.at for change in history.changes)), default=0.0)
    found = []
    for (change, word), following in zip(words, (*words[1:], None), strict=True):
        limit = change.at + history.job.deadline_seconds(word.phase) + GRACE_SECONDS
        limit += _disturbed_seconds(history.disturbances, change.at, limit)
        if following is not None and following[0].at <= limit:
            continue
        answered = any(change.at <= answer.at <= limit and answer.epoch in (None, word.epoch) for answer in answers)
        if not answered and seen_until > limit:
            found.append(Violation(6, limit, f"epoch {word.epoch} ({word.phase}): its deadline passed in silence"))
    return found


def _answers(history: History) -> list[Answer]:
    found = [Answer(session.ended_at, None) for session in history.sessions]
    for entry in history.diary:
        if isinstance(entry.record, SwitchRecord):
            found.append(Answer(entry.seen_at, entry.record.epoch))
        elif isinstance(entry.record, RunEnded):
            found.append(Answer(entry.seen_at, None))
    for change in history.changes:
        if isinstance(change.value, StatusValue) and change.value.state == "Failed":
            found.append(Answer(change.at, change.value.epoch))
    return found


def _disturbed_seconds(disturbances: Sequence[Disturbance], start: float, end: float) -> float:
    """Return how long the campaign itself kept somebody from acting, between two moments."""
    return sum(max(0.0, min(end, one.ended_at) - max(start, one.began_at)) for one in disturbances)


def _speechless(history: History) -> list[Violation]:
    found = []
    for change in history.changes:
        value = change.value
        if isinstance(value, StatusValue) and value.state == "Failed" and not _is_fit(value.error):
            found.append(Violation(6, change.at, f"{change.key}: failed and says {value.error!r}"))
    for entry in history.diary:
        record = entry.record
        if not isinstance(record, RunEnded) or record.result != "Failed":
            continue
        is_late = "took more than" in record.message
        if not _is_fit(record.message) or (is_late and NAMES_SOMEBODY.search(record.message) is None):
            found.append(Violation(6, entry.seen_at, f"the run failed and says {record.message!r}"))
    for session in history.sessions:
        if session.exit_code not in (0, None) and not _is_fit(session.last_words):
            found.append(Violation(6, session.ended_at, f"the command failed and says {session.last_words!r}"))
    return found


def _is_fit(text: str | None) -> bool:
    return bool(text) and UNFIT.search(text or "") is None
