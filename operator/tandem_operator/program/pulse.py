"""The event loop's heartbeat, and what it last knew of itself: written by the loop, read by the probes' own thread."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What this replica does at the moment."""

    STARTING = "starting"
    STANDBY = "standby"
    LEADER = "leader"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look of the operator at itself."""

    role: Role = Role.STARTING
    synced: bool = False
    """Whether jobs and their children have been listed."""
    progress_age_seconds: float = 0.0
    """Time since the funnels last got anywhere."""
    watch_age_seconds: float = 0.0
    """Silence of the quietest watch."""


@dataclass(frozen=True, slots=True)
class PulseLimits:
    """What still counts as alive."""

    beat_seconds: float = 30.0
    progress_seconds: float = 300.0
    watch_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Answer to a probe."""

    good: bool
    words: str


class Pulse:
    """Holds the last heartbeat. `beat` belongs to the loop; everything else may be called from any thread."""

    def __init__(self, limits: PulseLimits = PulseLimits(), clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._last = (clock(), Vitals())

    def beat(self, vitals: Vitals) -> None:
        """Take one heartbeat."""
        self._last = (self._clock(), vitals)  # one assignment: a reader sees the old pair or the new one

    @property
    def vitals(self) -> Vitals:
        return self._last[1]

    def age_seconds(self) -> float:
        """Return the time since the last heartbeat."""
        return self._clock() - self._last[0]

    def alive(self) -> Verdict:
        """Return whether the process is worth keeping: its loop turns, and where it leads it gets somewhere."""
        limits, vitals, age_seconds = self._limits, self.vitals, self.age_seconds()
        if age_seconds > limits.beat_seconds:
            return Verdict(False, f"the event loop has stood still for {age_seconds:.0f} s")
        if vitals.role is Role.LEADER and vitals.progress_age_seconds > limits.progress_seconds:
            return Verdict(False, f"no funnel has moved for {vitals.progress_age_seconds:.0f} s")
        if vitals.role is Role.LEADER and vitals.watch_age_seconds > limits.watch_seconds:
            return Verdict(False, f"a watch has been silent for {vitals.watch_age_seconds:.0f} s")
        return Verdict(True, f"{vitals.role}")

    def ready(self) -> Verdict:
        """Return whether the replica does its part: it leads with full caches, or it stands by."""
        match self.vitals:
            case Vitals(role=Role.LEADER, synced=True) | Vitals(role=Role.STANDBY):
                return Verdict(True, f"{self.vitals.role}")
            case Vitals(role=Role.LEADER):
                return Verdict(False, "leader: jobs and pods are still being listed")
            case vitals:
                return Verdict(False, f"{vitals.role}")
