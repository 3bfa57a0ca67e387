"""Where things stand in a trace: which process and which thread a member's stages go to."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from tandem_api.history import MemberRole, MemberStage
from tandem_cli.report.timeline import natural_order
from tandem_cli.tracing.event import Metadata, Name, SortIndex

JOB_PROCESS = 1
"""Process of what is about the whole job."""
PHASES, SWITCHES, CRITICAL_PATH = 1, 2, 3
"""Its threads."""
_JOB_THREADS = {PHASES: "phases", SWITCHES: "switches", CRITICAL_PATH: "critical path"}
_ROLES: Mapping[MemberRole, str] = {"master": "master", "train": "trainer", "rollout": "server"}
THREADS_PER_ROLE = 100
OVERLAP_SECONDS = 2e-4
"""Stages of one member that overlap by less are one after the other: their ends and starts are by different clocks."""


@dataclass(frozen=True, slots=True)
class Place:
    """One thread of a trace."""

    process: int
    thread: int


class Layout:
    """Gives every stage a thread of its member's on which nothing else is going on."""

    def __init__(self, stages: Iterable[MemberStage]) -> None:
        by_member: defaultdict[tuple[str, MemberRole], list[MemberStage]] = defaultdict(list)
        for stage in stages:
            by_member[stage.pod, stage.role].append(stage)
        pods = sorted(
            {pod for pod, _ in by_member}, key=lambda pod: (not _is_master(pod, by_member), natural_order(pod))
        )
        self._processes = {pod: JOB_PROCESS + 1 + index for index, pod in enumerate(pods)}
        self._places: dict[MemberStage, Place] = {}
        self._threads: dict[Place, str] = {}
        for (pod, role), of_member in by_member.items():
            self._spread(self._processes[pod], role, of_member)

    def of(self, stage: MemberStage) -> Place:
        """Return the thread of a stage."""
        return self._places[stage]

    def names(self, job: str) -> Iterator[Metadata]:
        """Return the names of all processes and threads, and the order that they stand in."""
        processes = {JOB_PROCESS: job, **{process: pod for pod, process in self._processes.items()}}
        threads = {Place(JOB_PROCESS, thread): name for thread, name in _JOB_THREADS.items()} | self._threads
        for process, name in processes.items():
            yield Metadata(name="process_name", pid=process, tid=0, args=Name(name=name))
            yield Metadata(name="process_sort_index", pid=process, tid=0, args=SortIndex(sort_index=process))
        for place, name in threads.items():
            at = {"pid": place.process, "tid": place.thread}
            yield Metadata(name="thread_name", args=Name(name=name), **at)
            yield Metadata(name="thread_sort_index", args=SortIndex(sort_index=place.thread), **at)

    def _spread(self, process: int, role: MemberRole, stages: list[MemberStage]) -> None:
        """Put the stages of one member on as few threads as they need: several where it did two things at once."""
        ends: list[float] = []
        first = 1 + THREADS_PER_ROLE * list(_ROLES).index(role)
        for stage in sorted(stages, key=lambda stage: (stage.started_at, stage.seconds)):
            free = (index for index, end in enumerate(ends) if end <= stage.started_at + OVERLAP_SECONDS)
            index = next(free, len(ends))
            ends[index : index + 1] = [stage.started_at + stage.seconds]
            place = Place(process, first + index)
            self._places[stage] = place
            self._threads[place] = _ROLES[role] + (f" ({index + 1})" if index else "")


def _is_master(pod: str, members: Iterable[tuple[str, MemberRole]]) -> bool:
    return (pod, "master") in members
