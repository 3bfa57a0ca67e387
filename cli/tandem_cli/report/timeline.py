"""The run as a Gantt: one lane a member, with its phases and its stages of switches, on a clock without pauses."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from tandem_api.history import MemberStage, PhaseRecord, SwitchRecord
from tandem_api.job.status import Phase
from tandem_api.registry import Role
from tandem_cli.report.history import History, Run

_ROLE_OF_PHASE: dict[Phase, Role] = {Phase.TRAIN: "train", Phase.INFER: "rollout"}
ROLE_CAPTIONS: dict[Role, str] = {"train": "trainer", "rollout": "server"}
"""What the container of a role is called in front of people."""
Member = tuple[str, Role]
"""Pod and role."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds of run time: the time between a run's end and the resumption is cut out."""

    runs: tuple[Run, ...]

    def at(self, unix_seconds: float) -> float:
        """Return the run time of a moment; one between two runs is put at the seam."""
        elapsed = 0.0
        for index, run in enumerate(self.runs):
            following = self.runs[index + 1].started.at if index + 1 < len(self.runs) else None
            if following is None or unix_seconds < following:
                past_end = following is not None and unix_seconds > run.until
                return elapsed + (run.seconds if past_end else max(0.0, unix_seconds - run.started.at))
            elapsed += run.seconds
        return elapsed

    @property
    def seams(self) -> tuple[float, ...]:
        """Run times at which the job was resumed."""
        return tuple(self.at(run.started.at) for run in self.runs[1:])

    @property
    def end(self) -> float:
        """Run time of the last thing that is known."""
        return sum(run.seconds for run in self.runs)


@dataclass(frozen=True, slots=True)
class Bar:
    """One stretch of one member's time."""

    kind: Literal["phase", "stage"]
    label: str
    """Name of the phase or of the stage."""
    start_seconds: float
    """Run time."""
    seconds: float
    epoch: int
    generation: int | None


@dataclass(frozen=True, slots=True)
class Lane:
    """All bars of one member, in order of time."""

    pod: str
    role: Role
    bars: tuple[Bar, ...]

    @property
    def caption(self) -> str:
        return f"{self.pod} {ROLE_CAPTIONS[self.role]}"


def clock_of(history: History) -> Clock:
    """Return the clock of a history."""
    return Clock(history.runs)


def lanes(history: History) -> tuple[Lane, ...]:
    """Return the lanes of all members that took part in a switch, by pod (in natural order), trainers first.

    Who waits holds no device: waits are gaps. The master has no lane.
    """
    clock = clock_of(history)
    bars: defaultdict[Member, list[Bar]] = defaultdict(list)
    for switch in history.switches:
        for span in switch.stages:
            if span.role != "master" and not span.waits:
                bars[span.pod, span.role].append(_stage_bar(clock, switch, span))
    by_epoch: defaultdict[int, list[SwitchRecord]] = defaultdict(list)
    for switch in history.switches:
        by_epoch[switch.epoch].append(switch)
    for phase in history.phases:
        switch_into = _switch_into(phase, by_epoch[phase.epoch])
        bar = _phase_bar(clock, phase, switch_into)
        for member in _members_of(phase, switch_into, bars):
            bars[member].append(bar)
    return tuple(
        Lane(pod, role, tuple(sorted(bars[pod, role], key=lambda bar: bar.start_seconds)))
        for pod, role in sorted(bars, key=lambda member: (natural_order(member[0]), member[1] != "train"))
    )


def natural_order(name: str) -> tuple[tuple[str, int], ...]:
    """Return a sort key by which hybrid-2 comes before hybrid-10."""
    return tuple((text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name))


def _stage_bar(clock: Clock, switch: SwitchRecord, span: MemberStage) -> Bar:
    return Bar(
        kind="stage",
        label=span.stage,
        start_seconds=clock.at(span.started_at),
        seconds=span.seconds,
        epoch=switch.epoch,
        generation=switch.generation,
    )


def _phase_bar(clock: Clock, phase: PhaseRecord, switch_into: SwitchRecord | None) -> Bar:
    return Bar(
        kind="phase",
        label=phase.phase.value,
        start_seconds=clock.at(phase.started_at),
        seconds=phase.seconds,
        epoch=phase.epoch,
        generation=switch_into.generation if switch_into else None,
    )


def _switch_into(phase: PhaseRecord, switches: Sequence[SwitchRecord]) -> SwitchRecord | None:
    """Return the switch that a phase followed; a resumed run may have used an epoch again, so time decides."""
    earlier = [switch for switch in switches if switch.started_at <= phase.started_at]
    return earlier[-1] if earlier else None


def _members_of(phase: PhaseRecord, switch_into: SwitchRecord | None, known: Iterable[Member]) -> list[Member]:
    """Return the members that worked in a phase: those that switched into it, so that a late pod has no past."""
    role = _ROLE_OF_PHASE[phase.phase]
    stages = switch_into.stages if switch_into else ()
    switched = {(span.pod, span.role) for span in stages if span.role == role}
    candidates = [member for member in known if member[1] == role]
    return [member for member in candidates if member in switched] if switched else candidates
