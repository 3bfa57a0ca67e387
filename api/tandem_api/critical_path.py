"""The critical path of a switch: the chain of stages, over all pods, that it took as long as.

The walk goes backwards from the end of the switch. A stage was preceded by what ended last before it in the same
member. A wait was ended by somebody else: the walk goes on there, and the time from that end to the end of the wait is
a segment of its own, a `notice`. So every moment of the switch is on one segment, or on none: then nobody measured it.

Each pod has its own clock. A hand-over between pods takes up what they differ by: a cause that seems to end after the
wait that it ended is cut off there, one that ends too early makes the notice longer. No segment is negative, and none
overlaps another.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from tandem_api.history import CriticalPath, CriticalSegment, MemberRole, MemberStage

NOTICE: Final = "notice"
MASTER: Final = "master"
SKEW_SECONDS: Final = 0.05
"""By how much clocks of two pods may differ before a later stage is taken for the cause of an earlier wait's end."""
OWN_CLOCK_SECONDS: Final = 0.001
"""The same within a member: a span's duration is by another clock than its start."""
RELEASES: Final = frozenset({"offload", "stop"})
"""Stages that give the token back."""


@dataclass(frozen=True, slots=True)
class _Span:
    """A stage of a member; times in seconds from the start of the switch."""

    pod: str
    role: MemberRole
    stage: str
    waits: bool
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class _Step:
    """A stretch that the walk has explained; times as in _Span."""

    span: _Span
    notice_of: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class _HandOver:
    """What a stage had to wait for, and the stages that can have ended this."""

    notice_of: str
    causes: Collection[_Span]


def critical_path(stages: Iterable[MemberStage], started_at: float, seconds: float) -> CriticalPath:
    """Return the critical path of a switch, whatever order its stages come in.

    `started_at`: Unix time of the start by the master's clock, seconds. `seconds`: duration of the whole switch.
    """
    spans = frozenset(_span(stage, started_at) for stage in stages)
    steps = sorted(_walk(spans, seconds), key=lambda step: (step.start, step.end))
    explained_seconds = min(seconds, sum(step.end - step.start for step in steps))
    return CriticalPath(
        segments=tuple(_segment(step, started_at) for step in steps),
        unexplained_seconds=seconds - explained_seconds,
        share=explained_seconds / seconds if seconds else 1.0,
    )


def _span(stage: MemberStage, started_at: float) -> _Span:
    start = stage.started_at - started_at
    return _Span(stage.pod, stage.role, stage.stage, stage.waits, start, start + stage.seconds)


def _segment(step: _Step, started_at: float) -> CriticalSegment:
    return CriticalSegment(
        pod=step.span.pod,
        role=step.span.role,
        stage=NOTICE if step.notice_of else step.span.stage,
        notice_of=step.notice_of,
        started_at=started_at + step.start,
        seconds=step.end - step.start,
    )


def _walk(spans: frozenset[_Span], seconds: float) -> list[_Step]:
    """Return what is explained, from the end of the switch to its start."""
    steps: list[_Step] = []
    left, until = set(spans), seconds
    span = _last_of_all(spans)
    while span is not None and until > 0:
        left.discard(span)
        until = min(until, span.end)
        hand_over = _hand_over(span, left)
        cause = _ended_by(span, hand_over.causes) if hand_over else None
        if not span.waits:
            until = _explain(steps, span, "", span.start, until)
        if hand_over is None or cause is None:
            span = _before(span, left)
        elif span.waits and cause.end < span.start:
            # It was over before anybody waited for it: the wait was to notice that, and came after its own work.
            until = _explain(steps, span, hand_over.notice_of, span.start, until)
            span = _before(span, left)
        else:
            until = _explain(steps, span, hand_over.notice_of, cause.end, until)
            span = cause
    return steps


def _explain(steps: list[_Step], span: _Span, notice_of: str, start: float, until: float) -> float:
    """Add a step from `start` to `until`, cut at the switch's start, left out if empty; return where it begins."""
    start = max(0.0, start)
    if start >= until:
        return until
    steps.append(_Step(span, notice_of, start, until))
    return start


def _last_of_all(spans: Collection[_Span]) -> _Span | None:
    """Return what the switch ended with: the master's confirmation, or without one the last stage of any member."""
    confirmations = [span for span in spans if span.role == MASTER and span.stage == "confirm"]
    return max(confirmations or spans, key=_by_end, default=None)


def _before(span: _Span, left: Collection[_Span]) -> _Span | None:
    """Return what ended last, in the same member, before a stage began."""
    latest = span.start + OWN_CLOCK_SECONDS
    own = [other for other in left if (other.pod, other.role) == (span.pod, span.role) and other.end <= latest]
    return max(own, key=_by_end, default=None)


def _ended_by(span: _Span, causes: Collection[_Span]) -> _Span | None:
    """Return which of the causes ended a wait, or let the master's stage begin; None where none can have."""
    moment = span.end if span.waits else span.start
    in_time = [cause for cause in causes if cause.end <= moment + SKEW_SECONDS]
    if in_time:
        return max(in_time, key=_by_end)
    # The clocks differ by more than they should, or the stage was never seen to end.
    return min((cause for cause in causes if cause.start < moment), key=_by_end, default=None)


def _hand_over(span: _Span, left: Collection[_Span]) -> _HandOver | None:
    """Return whom a stage depended on; None for a stage that only follows another one of its own member."""
    match (span.role == MASTER, span.waits, span.stage):
        case (True, False, "publish"):
            return _HandOver("shards", _exports(left))
        case (True, False, "confirm"):
            return _HandOver("status", [other for other in left if other.role != MASTER])
        case (False, True, "word"):
            return _HandOver("word", _of_master(left, "announce"))
        case (False, True, "published"):
            return _HandOver("published", _of_master(left, "publish"))
        case (False, True, "shards"):
            own = [other for other in _exports(left) if other.pod == span.pod]
            return _HandOver("shards", own or _exports(left))
        case (False, True, "token"):
            return _HandOver("token", [other for other in left if _gives_token_to(span, other)])
        case _:
            return None


def _exports(spans: Iterable[_Span]) -> list[_Span]:
    return [span for span in spans if span.stage == "export" and not span.waits]


def _of_master(spans: Iterable[_Span], stage: str) -> list[_Span]:
    return [span for span in spans if span.role == MASTER and span.stage == stage]


def _gives_token_to(taker: _Span, other: _Span) -> bool:
    return other.pod == taker.pod and other.role != taker.role and other.stage in RELEASES and not other.waits


def _by_end(span: _Span) -> tuple[float, bool, float, str, str, str]:
    """Return an order in which the later end is greater; every two different spans differ in it."""
    return (span.end, not span.waits, -span.start, span.pod, span.role, span.stage)
