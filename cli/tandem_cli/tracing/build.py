"""A trace out of a history: pods, phases, switches, their stages, and arrows along the critical paths."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count, pairwise

from tandem_api.critical_path import NOTICE
from tandem_api.history import CriticalSegment, MemberStage, PhaseRecord, SwitchRecord
from tandem_cli.report.critical import path_of
from tandem_cli.report.quantity import ARROWS
from tandem_cli.tracing.event import Complete, Event, FlowEnd, FlowStart, Trace
from tandem_cli.tracing.place import CRITICAL_PATH, JOB_PROCESS, OVERLAP_SECONDS, PHASES, SWITCHES, Layout, Place

INSIDE_SECONDS = 1.25 * OVERLAP_SECONDS
"""How far inside of its event an arrow hangs, so that it is not taken for the neighbour's."""
SAME_SECONDS = 1e-6
"""Unix times as floats are rounded to a quarter of a microsecond."""


@dataclass(frozen=True, slots=True)
class _Clock:
    """Turns Unix times into the trace's."""

    began_at: float

    def at(self, unix_seconds: float) -> float:
        """Return a moment in microseconds from the start; what seems to be before that is put there."""
        return round(max(0.0, unix_seconds - self.began_at) * 1e6, 3)


def build_trace(job: str, switches: Sequence[SwitchRecord], phases: Sequence[PhaseRecord]) -> Trace:
    """Return the trace of these switches and phases of a job."""
    stages = [stage for switch in switches for stage in switch.stages]
    layout = Layout(stages)
    timed: list[SwitchRecord | PhaseRecord | MemberStage] = [*switches, *phases, *stages]
    clock = _Clock(min((item.started_at for item in timed), default=0.0))
    arrows = count(1)
    events: list[Event] = list(layout.names(job))
    events += [_phase(phase, clock) for phase in phases]
    for switch in switches:
        events.append(_switch(switch, clock))
        events += _stages(switch, layout, clock)
        events += _critical_path(switch, clock)
        events += _arrows(switch, layout, clock, arrows)
    return Trace(traceEvents=tuple(events), otherData=_about(job, clock, len(switches)))


def _about(job: str, clock: _Clock, num_switches: int) -> Mapping[str, str | int]:
    began = datetime.fromtimestamp(clock.began_at, UTC).isoformat(timespec="microseconds")
    return {"job": job, "began_at": began, "switches": num_switches}


def _phase(phase: PhaseRecord, clock: _Clock) -> Complete:
    begin, end = clock.at(phase.started_at), clock.at(phase.started_at + phase.seconds)
    args = {"epoch": phase.epoch, "iteration": phase.iteration}
    return Complete(
        name=phase.phase, cat="phase", pid=JOB_PROCESS, tid=PHASES, ts=begin, dur=_between(begin, end), args=args
    )


def _switch(switch: SwitchRecord, clock: _Clock) -> Complete:
    path = path_of(switch)
    begin, end = clock.at(switch.started_at), clock.at(switch.started_at + switch.seconds)
    return Complete(
        name=f"{ARROWS[switch.direction]} (epoch {switch.epoch})",
        cat="switch",
        pid=JOB_PROCESS,
        tid=SWITCHES,
        ts=begin,
        dur=_between(begin, end),
        args={
            "epoch": switch.epoch,
            "iteration": switch.iteration,
            "generation": switch.generation,
            "first": switch.first,
            "critical path share": round(path.share, 4),
            "unexplained seconds": round(path.unexplained_seconds, 6),
        },
    )


def _stages(switch: SwitchRecord, layout: Layout, clock: _Clock) -> Iterator[Complete]:
    """Return the stages of a switch; one that another follows on its thread ends where that begins."""
    ordered = sorted(switch.stages, key=lambda stage: (stage.started_at, stage.seconds))
    begins: dict[Place, float] = {}
    for stage in reversed(ordered):
        place = layout.of(stage)
        begin, end = clock.at(stage.started_at), clock.at(stage.started_at + stage.seconds)
        end = min(end, begins.get(place, end))
        begins[place] = begin
        yield Complete(
            name=f"wait for {stage.stage}" if stage.waits else stage.stage,
            cat="wait" if stage.waits else "work",
            pid=place.process,
            tid=place.thread,
            ts=begin,
            dur=_between(begin, end),
            args={"epoch": switch.epoch, "seconds": round(stage.seconds, 6)},
        )


def _critical_path(switch: SwitchRecord, clock: _Clock) -> Iterator[Complete]:
    """Return the segments of a critical path; rounding must not make two of them overlap."""
    following = float("inf")
    for segment in reversed(path_of(switch).segments):
        begin, end = clock.at(segment.started_at), clock.at(segment.started_at + segment.seconds)
        yield Complete(
            name=f"notice of {segment.notice_of}" if segment.notice_of else segment.stage,
            cat="critical path",
            pid=JOB_PROCESS,
            tid=CRITICAL_PATH,
            ts=begin,
            dur=_between(begin, min(end, following)),
            args={"pod": segment.pod, "role": segment.role, "epoch": switch.epoch},
        )
        following = begin


def _arrows(switch: SwitchRecord, layout: Layout, clock: _Clock, numbers: Iterator[int]) -> Iterator[Event]:
    """Return an arrow from each stage of the critical path to the next one; a notice is an arrow, not an end of one."""
    work = [segment for segment in path_of(switch).segments if segment.stage != NOTICE]
    for (cause, effect), number in zip(pairwise(work), numbers, strict=False):
        tail, head = layout.of(_stage_of(cause, switch.stages)), layout.of(_stage_of(effect, switch.stages))
        leaves = cause.started_at + cause.seconds - min(INSIDE_SECONDS, cause.seconds / 2)
        arrives = effect.started_at + min(INSIDE_SECONDS, effect.seconds / 2)
        yield FlowStart(id=number, pid=tail.process, tid=tail.thread, ts=clock.at(leaves))
        yield FlowEnd(id=number, pid=head.process, tid=head.thread, ts=clock.at(arrives))


def _stage_of(segment: CriticalSegment, stages: Iterable[MemberStage]) -> MemberStage:
    """Return the stage that a segment is a part of."""
    own = [
        stage for stage in stages if (stage.pod, stage.role, stage.stage) == (segment.pod, segment.role, segment.stage)
    ]
    began_before = [stage for stage in own if stage.started_at <= segment.started_at + SAME_SECONDS]
    return max(began_before or own, key=lambda stage: stage.started_at)


def _between(begin: float, end: float) -> float:
    return round(max(0.0, end - begin), 3)
