"""What is known of a running job, and how it grows with each thing heard."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from tandem_api.history import Record, RunEnded
from tandem_api.registry import Desired, Keys, MemberState, MemberStatus, Progress, Role
from tandem_cli.report.history import History, extend

Member = tuple[str, Role]
"""Pod and role."""


@dataclass(frozen=True, slots=True)
class LiveState:
    """A job as seen from outside, at one moment."""

    job: str
    """Name of the job."""
    started_at: float
    """Unix time in seconds at which this run was started."""
    expected_members: int
    """Engines that the job will have: one a container of each pod."""
    iterations: int
    """Iterations of the recipe."""
    rollout_only: frozenset[str] = frozenset()
    """Pods that no switch waits for."""
    desired: Desired | None = None
    """The master's last word."""
    members: frozenset[Member] = frozenset()
    """Engines that are registered."""
    statuses: Mapping[Member, MemberStatus] = field(default_factory=dict)
    """How far each engine is."""
    progress: Progress | None = None
    """How the master says it is doing."""
    history: History = field(default_factory=History)
    """Iterations so far, those of earlier runs included, and the newest switches: a part of what is on disk."""

    @property
    def complete_iterations(self) -> int:
        """Iterations that are behind the job."""
        recorded = self.history.iterations[-1].iteration if self.history.iterations else 0
        return max(recorded, self.progress.iteration if self.progress else 0)

    @property
    def generation(self) -> int:
        """Generation published last."""
        recorded = self.history.generation or 0
        return max(recorded, self.progress.generation if self.progress else 0)

    @property
    def is_switching(self) -> bool:
        """Whether a member has not yet arrived in the phase that the master asked for."""
        if self.desired is None:
            return False
        statuses = self.awaited.values()
        return not statuses or any(not _has_arrived(status, self.desired.epoch) for status in statuses)

    @property
    def awaited(self) -> Mapping[Member, MemberStatus]:
        """How far the engines are that a switch waits for."""
        return {member: status for member, status in self.statuses.items() if member[0] not in self.rollout_only}

    @property
    def error(self) -> str | None:
        """Why the job failed, as its master said, else as its last record says."""
        if self.progress and self.progress.error:
            return self.progress.error
        if self.ended is not None and self.ended.result == "Failed":
            return self.ended.message or "no cause was recorded"
        return None

    @property
    def ended(self) -> RunEnded | None:
        """How this run ended; the end of an earlier run, read back by a resumed one, does not count."""
        ended = self.history.ended
        return ended if ended is not None and ended.at >= self.started_at else None


def with_key(state: LiveState, keys: Keys, key: str, value: bytes | None) -> LiveState:
    """Return the state after one key of the registry got a value, or None when it was deleted or its lease ended.

    Raises: pydantic.ValidationError: the value is not what the key holds.
    """
    if key == keys.desired:
        return with_desired(state, _parsed(Desired, value))
    if key == keys.progress:
        return with_progress(state, _parsed(Progress, value))
    if (member := _member_of(key, keys.members)) is not None:
        return with_member(state, member, is_registered=value is not None)
    if (member := _member_of(key, keys.statuses)) is not None:
        return with_status(state, member, _parsed(MemberStatus, value))
    return state


def with_desired(state: LiveState, desired: Desired | None) -> LiveState:
    """Return the state after the master said what every member shall become."""
    return replace(state, desired=desired)


def with_progress(state: LiveState, progress: Progress | None) -> LiveState:
    """Return the state after the master said how it is doing; its last word outlives it, to tell why it went."""
    return state if progress is None else replace(state, progress=progress)


def with_member(state: LiveState, member: Member, *, is_registered: bool) -> LiveState:
    """Return the state after an engine came or went."""
    members = state.members | {member} if is_registered else state.members - {member}
    return replace(state, members=members)


def with_status(state: LiveState, member: Member, status: MemberStatus | None) -> LiveState:
    """Return the state after an engine said how far it is, or lost its lease."""
    others = {known: state.statuses[known] for known in state.statuses if known != member}
    return replace(state, statuses=others if status is None else {**others, member: status})


def with_records(state: LiveState, records: Iterable[Record]) -> LiveState:
    """Return the state after the master wrote records. Of the switches that were told before only the last of each
    direction stays, and no phase does: a run may be long, and nothing here asks for them again.
    """
    told = {switch.direction: switch for switch in state.history.switches}
    last = tuple(sorted(told.values(), key=lambda switch: switch.started_at))
    return with_history(state, extend(replace(state.history, switches=last, phases=()), records))


def with_history(state: LiveState, history: History) -> LiveState:
    """Return the state with a history that was read anew."""
    return replace(state, history=history)


def _has_arrived(status: MemberStatus, epoch: int) -> bool:
    return status.epoch >= epoch and status.state not in (MemberState.SWITCHING, MemberState.STARTING)


_Value = TypeVar("_Value", Desired, Progress, MemberStatus)


def _parsed(model: type[_Value], value: bytes | None) -> _Value | None:
    return None if value is None else model.model_validate_json(value)


def _member_of(key: str, prefix: str) -> Member | None:
    """Return the member that a key below a prefix belongs to; None for any other key."""
    if not key.startswith(prefix):
        return None
    pod, _, role = key.removeprefix(prefix).rpartition("/")
    if role == "train":
        return pod, "train"
    return (pod, "rollout") if role == "rollout" else None
