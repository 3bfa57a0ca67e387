"""What a typical switch took so long for: the critical path of the median switch, in rows."""

from collections.abc import Iterable
from dataclasses import dataclass

from tandem_api.critical_path import critical_path
from tandem_api.history import CriticalPath, CriticalSegment, SwitchRecord
from tandem_api.job.status import Direction
from tandem_cli.report.quantity import plural_text
from tandem_cli.report.stages import steady

LEAST_SHARE = 0.01
"""Segments that took less of a switch are summed in one row."""
_CAPTIONS = {"train": "trainer", "rollout": "server"}


@dataclass(frozen=True, slots=True)
class PathRow:
    """One row: a segment, several short ones together, or what is unexplained."""

    what: str
    """Stage, `notice of` what, `3 shorter steps`, or `unexplained`."""
    where: str
    """Pod and container; empty where there is not one."""
    seconds: float


def path_of(switch: SwitchRecord) -> CriticalPath:
    """Return the critical path of a switch; of one that was recorded without, it is worked out from the stages."""
    if switch.critical_path is not None:
        return switch.critical_path
    return critical_path(switch.stages, switch.started_at, switch.seconds)


def median_switch(switches: Iterable[SwitchRecord], direction: Direction) -> SwitchRecord | None:
    """Return the switch of the median duration (the lower of two), first ones left out; None where there is none."""
    ordered = sorted(steady(switches, direction), key=lambda switch: switch.seconds)
    return ordered[(len(ordered) - 1) // 2] if ordered else None


def path_rows(switch: SwitchRecord, job: str) -> tuple[PathRow, ...]:
    """Return the critical path of a switch in order of time, then its short segments, then what is unexplained."""
    path = path_of(switch)
    least_seconds = LEAST_SHARE * switch.seconds
    long = [segment for segment in path.segments if segment.seconds >= least_seconds]
    short = [segment.seconds for segment in path.segments if segment.seconds < least_seconds]
    rows = [PathRow(_what(segment), _where(segment, job), segment.seconds) for segment in long]
    if short:
        rows.append(PathRow(plural_text(len(short), "shorter step"), "", sum(short)))
    return (*rows, PathRow("unexplained", "", path.unexplained_seconds))


def short_pod(pod: str, job: str) -> str:
    """Return the name of a pod without its job's."""
    return pod.removeprefix(f"{job}-")


def _what(segment: CriticalSegment) -> str:
    return f"notice of {segment.notice_of}" if segment.notice_of else segment.stage


def _where(segment: CriticalSegment, job: str) -> str:
    if segment.role == "master":
        return "master"
    return f"{short_pod(segment.pod, job)} {_CAPTIONS[segment.role]}"
