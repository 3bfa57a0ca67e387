"""Names, labels and buckets of the metrics that master and engines share. Labels take only the values listed here."""

from enum import StrEnum
from typing import Final

from tandem_api.registry import FailureReason

SWITCH_HISTOGRAM: Final = "tandem_phase_switch_duration_seconds"
"""Labels: direction, stage."""
SWITCH_HELP: Final = (
    "Duration of a switch by stage; `total`: the whole switch, at the master; `member`: one member's part in it."
)
SWITCH_BUCKETS_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.063, 0.08, 0.1, 0.125, 0.16, 0.2, 0.25, 0.315, 0.4),
    *(0.5, 0.63, 0.8, 1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0),
    *(5.0, 6.3, 8.0, 10.0, 12.5, 16.0, 20.0, 25.0, 31.5, 40.0),
    *(50.0, 63.0, 80.0, 100.0, 125.0, 160.0, 200.0, 250.0, 300.0),
)
"""Ten a decade from 0.05 to 300 s, so that a quantile is right within a quarter; five below, for stages of a few ms."""
TOTAL: Final = "total"
MEMBER: Final = "member"
OTHER: Final = "other"
"""Stage that no version before this one knew."""
STAGES: Final = frozenset(
    {"announce", "publish", "confirm"}
    | {"word", "shards", "published", "token"}
    | {"drain", "export", "offload", "prepare", "verify", "fetch", "start", "load", "ready"}
    | {"abort", "stop", "reload"}
)
"""What a StageSpan's `stage` can be."""


class SwitchResult(StrEnum):
    """How a switch ended."""

    DONE = "Done"
    FAILED = "Failed"
    OVERTAKEN = "Overtaken"
    """A newer word came before its end."""


class Interruption(StrEnum):
    """What ends a switch without anybody's being Failed; with FailureReason, all values of the label `reason`."""

    NONE = ""
    """Nothing: it is done, or was overtaken."""
    LEASE_LOST = "LeaseLost"
    """The registry dropped the member in the middle of it."""
    MEMBER_GONE = "MemberGone"
    """The master missed a member, or found another incarnation of it."""
    OTHER = "Other"
    """None of the kinds that are known: a bug of ours."""


SwitchReason = FailureReason | Interruption


class Wait(StrEnum):
    """What was waited for past a deadline (invariant 6)."""

    SWITCH = "switch"
    """The end of a whole switch."""
    TOKEN = "token"
    FETCH = "fetch"
    ABORT = "abort"
    START = "start"


class Activity(StrEnum):
    """What the time of a member or of a job goes to."""

    TRAIN = "Train"
    INFER = "Infer"
    SWITCHING = "Switching"
    IDLE = "Idle"
    """None of them: before the first switch, after a failure, or while the pod's other container works."""


WAIT_OF_REASON: Final = {FailureReason.DEADLINE: Wait.SWITCH, FailureReason.TOKEN: Wait.TOKEN}
"""Reasons that are missed deadlines themselves."""


def stage_label(stage: str) -> str:
    """Return the label of a stage: itself, or `other` for one that is not known."""
    return stage if stage in STAGES else OTHER
