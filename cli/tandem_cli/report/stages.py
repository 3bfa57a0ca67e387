"""Stages of switches: how long the slowest member of each took, and statistics over switches."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil
from statistics import median

from tandem_api.history import SwitchRecord
from tandem_api.job.status import Direction

STAGES: Mapping[Direction, tuple[str, ...]] = {
    Direction.TRAIN_TO_INFER: (
        *("drain", "export", "offload"),
        *("prepare", "verify", "fetch", "start", "load", "ready"),
    ),
    Direction.INFER_TO_TRAIN: ("abort", "stop", "reload", "ready"),
}
"""Stages of each direction in the order of the protocol."""


@dataclass(frozen=True, slots=True)
class StageStatistics:
    """One stage over the switches of one direction; times are those of its slowest member, in seconds."""

    direction: Direction
    stage: str
    num_switches: int
    median_seconds: float
    p90_seconds: float
    max_seconds: float


def steady(switches: Iterable[SwitchRecord], direction: Direction) -> tuple[SwitchRecord, ...]:
    """Return the switches that medians are taken over: those of a direction, first ones left out."""
    return tuple(switch for switch in switches if switch.direction == direction and not switch.first)


def slowest_seconds(switch: SwitchRecord) -> dict[str, float]:
    """Return how long the slowest member spent in each stage of a switch, in the order of the protocol.

    A member that went through a stage more than once is counted with the sum. Waits are left out, since they are for
    others' stages, and so is what the master does: the critical path has both.
    """
    by_member: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for span in switch.stages:
        if not span.waits and span.role != "master":
            by_member[span.stage, span.pod, span.role] += span.seconds
    slowest: dict[str, float] = {}
    for (stage, _, _), seconds in by_member.items():
        slowest[stage] = max(slowest.get(stage, 0.0), seconds)
    return {stage: slowest[stage] for stage in _in_order(switch.direction, slowest)}


def stage_statistics(switches: Iterable[SwitchRecord]) -> tuple[StageStatistics, ...]:
    """Return the statistics of all stages that took place, by direction and in the order of the protocol."""
    everything = tuple(switches)
    return tuple(
        _statistics(direction, stage, seconds)
        for direction in Direction
        for stage, seconds in _seconds_by_stage(steady(everything, direction), direction).items()
    )


def quantile(values: Iterable[float], fraction: float) -> float:
    """Return the smallest value that at least a fraction (0 to 1) of the values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, ceil(fraction * len(ordered)) - 1)]


def _seconds_by_stage(switches: tuple[SwitchRecord, ...], direction: Direction) -> dict[str, list[float]]:
    seconds: defaultdict[str, list[float]] = defaultdict(list)
    for switch in switches:
        for stage, slowest in slowest_seconds(switch).items():
            seconds[stage].append(slowest)
    return {stage: seconds[stage] for stage in _in_order(direction, seconds)}


def _statistics(direction: Direction, stage: str, seconds: list[float]) -> StageStatistics:
    return StageStatistics(
        direction=direction,
        stage=stage,
        num_switches=len(seconds),
        median_seconds=median(seconds),
        p90_seconds=quantile(seconds, 0.9),
        max_seconds=max(seconds),
    )


def _in_order(direction: Direction, stages: Iterable[str]) -> list[str]:
    """Return stage names in the order of the protocol, names it does not know last."""
    known = STAGES[direction]
    return sorted(stages, key=lambda stage: (known.index(stage) if stage in known else len(known), stage))
