"""When a switch is complete and when it has failed: pure judgements over what members report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from tandem_api.job.status import Direction, Phase
from tandem_api.registry import Desired, MemberState, MemberStatus, Role
from tandem_api.weights import Layout
from tandem_master.errors import SwitchError
from tandem_master.members import MemberId, Membership

TARGETS: Mapping[tuple[Phase, Role], MemberState] = {
    (Phase.INFER, "rollout"): MemberState.SERVING,
    (Phase.INFER, "train"): MemberState.IDLE,
    (Phase.TRAIN, "rollout"): MemberState.IDLE,
    (Phase.TRAIN, "train"): MemberState.TRAINING,
}
"""State in which each role has done its part of the change into a phase."""


@dataclass(frozen=True, slots=True)
class Crew:
    """The members that a switch waits for, with the incarnations they had when it began."""

    incarnations: Mapping[MemberId, str]


def direction_of(desired: Desired) -> Direction:
    """Return which way the change into `desired` goes."""
    return Direction.TRAIN_TO_INFER if desired.phase is Phase.INFER else Direction.INFER_TO_TRAIN


def switch_name(desired: Desired) -> str:
    """Return how people call this switch."""
    return f"switch {desired.epoch} ({direction_of(desired)}, generation {desired.generation})"


def gather_crew(membership: Membership, wanted: Sequence[MemberId], desired: Desired) -> Crew:
    """Return the crew of the change into `desired`. Errors: SwitchError names a member that has gone."""
    for member in wanted:
        if member not in membership.records:
            raise SwitchError(f"{switch_name(desired)}: {member} has gone; look at that container's log")
    return Crew({member: membership.records[member].incarnation for member in wanted})


def pending_members(membership: Membership, crew: Crew, desired: Desired) -> tuple[MemberId, ...]:
    """Return who has not yet done its part; empty when the switch is complete.

    Errors: SwitchError where a member reports Failed at this epoch, has gone or has started anew, or holds another
    generation than the one it should.
    """
    for member, incarnation in crew.incarnations.items():
        _check_present(membership, member, incarnation, desired)
    return tuple(
        member for member in crew.incarnations if not _is_ready(membership.statuses.get(member), member, desired)
    )


def describe_pending(membership: Membership, pending: Sequence[MemberId]) -> str:
    """Return who is missing and how far each is, for a missed deadline."""
    parts = []
    for member in pending:
        status = membership.statuses.get(member)
        state = f"{status.state} at epoch {status.epoch}" if status else "silent"
        parts.append(f"{member} is {state}" + (f" ({status.error})" if status and status.error else ""))
    return ", ".join(parts)


def missing_shards(values: Mapping[str, str], layout_key: str, shards_prefix: str) -> tuple[str, ...] | None:
    """Return the shards `<pod>/<index>` that the layout in `values` names and that are not registered there.

    None where the layout itself is missing. Errors: SwitchError where it cannot be read.
    """
    text = values.get(layout_key)
    if text is None:
        return None
    try:
        layout = Layout.model_validate_json(text)
    except ValidationError as error:
        raise SwitchError(f"{layout_key}: {error.errors()[0]['msg']}; is the engine of another version?") from error
    return tuple(shard for shard in layout.shards if f"{shards_prefix}{shard}" not in values)


def _check_present(membership: Membership, member: MemberId, incarnation: str, desired: Desired) -> None:
    record = membership.records.get(member)
    if record is None:
        raise SwitchError(f"{switch_name(desired)}: {member} has gone; look at that container's log")
    if record.incarnation != incarnation:
        raise SwitchError(f"{switch_name(desired)}: {member} was started anew meanwhile; look at that container's log")


def _is_ready(status: MemberStatus | None, member: MemberId, desired: Desired) -> bool:
    if status is None or status.epoch != desired.epoch:
        return False
    if status.state is MemberState.FAILED:
        raise SwitchError(f"{switch_name(desired)}: {member} failed: {status.error or 'it gave no reason'}")
    target = TARGETS[desired.phase, member.role]
    if status.state is not target:
        return False
    holds = status.generation
    if target is MemberState.SERVING and holds is not None and holds != desired.generation:
        raise SwitchError(
            f"{switch_name(desired)}: {member} serves generation {holds}; restart the job from a checkpoint"
        )
    return True
