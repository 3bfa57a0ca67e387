"""Switches made up from durations: what every member of every pod did, by a clock that may be wrong."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tandem_api.critical_path import critical_path
from tandem_api.history import MemberRole, MemberStage, SwitchRecord
from tandem_api.job.status import Direction

STARTED_AT = 1_760_000_000.0
MASTER_POD = "job-master"


@dataclass(slots=True)
class Switch:
    """Collects stages; all times are seconds from the start of the switch, by the one true clock."""

    skews: Mapping[str, float] = field(default_factory=dict)
    """By how many seconds the clock of a pod is ahead."""
    stages: list[MemberStage] = field(default_factory=list)

    def work(self, pod: str, role: MemberRole, stage: str, start: float, end: float) -> float:
        """Add a stage; return its end."""
        return self._add(pod, role, stage, start, end, waits=False)

    def wait(self, pod: str, role: MemberRole, stage: str, start: float, end: float) -> float:
        """Add a wait; return its end."""
        return self._add(pod, role, stage, start, end, waits=True)

    def word(self, pod: str, role: MemberRole, end: float) -> float:
        """Add the wait for the master's word, which begins by the master's clock and ends by the pod's own."""
        seconds = max(0.0, end + self.skews.get(pod, 0.0))
        self.stages.append(
            MemberStage(pod=pod, role=role, stage="word", waits=True, started_at=STARTED_AT, seconds=seconds)
        )
        return end

    def _add(self, pod: str, role: MemberRole, stage: str, start: float, end: float, *, waits: bool) -> float:
        at = STARTED_AT + start + self.skews.get(pod, 0.0)
        self.stages.append(
            MemberStage(pod=pod, role=role, stage=stage, waits=waits, started_at=at, seconds=max(0.0, end - start))
        )
        return end


def switch_record(
    stages: tuple[MemberStage, ...], seconds: float, direction: Direction, **changes: object
) -> SwitchRecord:
    """Return the master's record of a switch, with its critical path; `changes`: other fields than usual."""
    record = SwitchRecord(
        epoch=1,
        iteration=1,
        generation=0,
        direction=direction,
        started_at=STARTED_AT,
        seconds=seconds,
        stages=stages,
        critical_path=critical_path(stages, STARTED_AT, seconds),
    )
    return record.model_copy(update=changes)


@dataclass(frozen=True, slots=True)
class PodTimes:
    """How long one hybrid pod takes for each of its stages, seconds."""

    drain: float = 0.02
    export: float = 0.1
    offload: float = 0.05
    prepare: float = 0.04
    verify: float = 0.01
    start: float = 0.6
    load: float = 0.02
    ready: float = 0.2
    abort: float = 0.03
    stop: float = 0.1
    reload: float = 0.15
    notice: float = 0.003
    """From anything that happens in the registry to this pod's knowing it."""


@dataclass(frozen=True, slots=True)
class MasterTimes:
    """The same for the master."""

    announce: float = 0.004
    publish: float = 0.005
    confirm: float = 0.002
    notice: float = 0.003


def to_infer(
    pods: Sequence[PodTimes], master: MasterTimes | None = None, skews: Mapping[str, float] | None = None
) -> tuple[tuple[MemberStage, ...], float]:
    """Return the stages of a complete change to inference of hybrid pods `hybrid-0` and on, and its duration."""
    times = master or MasterTimes()
    switch = Switch(skews or {})
    word = switch.work(MASTER_POD, "master", "announce", 0.0, times.announce)
    exported = [_export(switch, f"hybrid-{index}", pod, word) for index, pod in enumerate(pods)]
    seen = max(end for end, _ in exported) + times.notice
    published = switch.work(MASTER_POD, "master", "publish", seen, seen + times.publish)
    ready = [
        _serve(switch, f"hybrid-{index}", pod, word, exports, published)
        for index, (pod, exports) in enumerate(zip(pods, exported, strict=True))
    ]
    seconds = _confirm(switch, times, ready)
    return tuple(switch.stages), seconds


def to_train(
    pods: Sequence[PodTimes], master: MasterTimes | None = None, skews: Mapping[str, float] | None = None
) -> tuple[tuple[MemberStage, ...], float]:
    """Return the stages of a complete change to training, and its duration."""
    times = master or MasterTimes()
    switch = Switch(skews or {})
    word = switch.work(MASTER_POD, "master", "announce", 0.0, times.announce)
    ready = [_give_back(switch, f"hybrid-{index}", pod, word) for index, pod in enumerate(pods)]
    seconds = _confirm(switch, times, ready)
    return tuple(switch.stages), seconds


def _export(switch: Switch, pod: str, times: PodTimes, word: float) -> tuple[float, float]:
    """Return when the pod's weights are exported and when its devices are free."""
    at = switch.word(pod, "train", word + times.notice)
    at = switch.work(pod, "train", "drain", at, at + times.drain)
    exported = switch.work(pod, "train", "export", at, at + times.export)
    return exported, switch.work(pod, "train", "offload", exported, exported + times.offload)


def _serve(
    switch: Switch, pod: str, times: PodTimes, word: float, exports: tuple[float, float], published: float
) -> float:
    exported, freed = exports
    at = switch.word(pod, "rollout", word + times.notice)
    at = switch.work(pod, "rollout", "prepare", at, at + times.prepare)
    at = switch.wait(pod, "rollout", "shards", at, max(at, exported + times.notice))
    at = switch.work(pod, "rollout", "verify", at, at + times.verify)
    at = switch.wait(pod, "rollout", "published", at, max(at, published + times.notice))
    at = switch.wait(pod, "rollout", "token", at, max(at, freed + times.notice))
    at = switch.work(pod, "rollout", "start", at, at + times.start)
    at = switch.work(pod, "rollout", "load", at, at + times.load)
    return switch.work(pod, "rollout", "ready", at, at + times.ready)


def _give_back(switch: Switch, pod: str, times: PodTimes, word: float) -> float:
    at = switch.word(pod, "rollout", word + times.notice)
    at = switch.work(pod, "rollout", "abort", at, at + times.abort)
    freed = switch.work(pod, "rollout", "stop", at, at + times.stop)
    at = switch.word(pod, "train", word + times.notice)
    at = switch.wait(pod, "train", "token", at, max(at, freed + times.notice))
    return switch.work(pod, "train", "reload", at, at + times.reload)


def _confirm(switch: Switch, times: MasterTimes, ready: Sequence[float]) -> float:
    seen = max(ready) + times.notice
    return switch.work(MASTER_POD, "master", "confirm", seen, seen + times.confirm)
