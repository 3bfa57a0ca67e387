"""When a switch is complete and when it has failed: pure judgements over what members report."""

from collections.abc import Mapping, Sequence

from pydantic import ValidationError

from tandem_api.job.status import Direction, Phase
from tandem_api.registry import Desired, FailureReason, Keys, MemberState, MemberStatus, Role
from tandem_api.weights import Layout, Shard
from tandem_master.errors import Disagreement, GenerationLost, MasterError, SwitchError
from tandem_master.members import MemberId, Membership

TARGETS: Mapping[tuple[Phase, Role], MemberState] = {
    (Phase.INFER, "rollout"): MemberState.SERVING,
    (Phase.INFER, "train"): MemberState.IDLE,
    (Phase.TRAIN, "rollout"): MemberState.IDLE,
    (Phase.TRAIN, "train"): MemberState.TRAINING,
}
"""State in which each role has done its part of the change into a phase."""
ERRORS: Mapping[FailureReason | None, type[MasterError]] = {
    FailureReason.GENERATION_LOST: GenerationLost,
    FailureReason.SELF_TEST: Disagreement,
}
"""What another try does not mend; all else is a SwitchError."""


def direction_of(desired: Desired) -> Direction:
    """Return which way the change into `desired` goes."""
    return Direction.TRAIN_TO_INFER if desired.phase is Phase.INFER else Direction.INFER_TO_TRAIN


def switch_name(desired: Desired) -> str:
    """Return how people call this switch."""
    return f"switch {desired.epoch} ({direction_of(desired)}, generation {desired.generation})"


def pending_members(membership: Membership, wanted: Sequence[MemberId], desired: Desired) -> tuple[MemberId, ...]:
    """Return who has not yet done its part; empty when the switch is complete.

    A member that has gone, or was started anew, is waited for like any other: it rejoins from the registry alone.
    Errors: SwitchError where a member reports Failed at this epoch or holds another generation than the one it should;
    GenerationLost where no trainer can have that generation any more; Disagreement where a self-test has failed.
    """
    return tuple(member for member in wanted if not _is_ready(membership.statuses.get(member), member, desired))


def describe_pending(membership: Membership, pending: Sequence[MemberId]) -> str:
    """Return who is missing and how far each is, for a missed deadline."""
    parts = []
    for member in pending:
        status = membership.statuses.get(member)
        silent = "silent" if member in membership.records else "gone: look at that container's log"
        state = f"{status.stage or status.state} at epoch {status.epoch}" if status else silent
        parts.append(f"{member} is {state}" + (f" ({status.error})" if status and status.error else ""))
    return ", ".join(parts)


def missing_shards(values: Mapping[str, str], keys: Keys, desired: Desired) -> tuple[str, ...] | None:
    """Return the shards `<pod>/<index>` of the word's generation and lineage that are not registered in `values`.

    None where the layout itself is missing, or is another lineage's. Errors: SwitchError where it cannot be read.
    """
    layout_key, prefix = keys.layout(desired.generation), keys.shards(desired.generation)
    text = values.get(layout_key)
    if text is None:
        return None
    try:
        layout = Layout.model_validate_json(text)
        lineages = {
            name: Shard.model_validate_json(values[f"{prefix}{name}"]).lineage
            for name in layout.shards
            if f"{prefix}{name}" in values
        }
    except ValidationError as error:
        raise SwitchError(f"{layout_key}: {error.errors()[0]['msg']}; is the engine of another version?") from error
    if layout.lineage != desired.lineage:
        return None
    return tuple(shard for shard in layout.shards if lineages.get(shard) != desired.lineage)


def _is_ready(status: MemberStatus | None, member: MemberId, desired: Desired) -> bool:
    if status is None or status.epoch != desired.epoch:
        return False
    if status.state is MemberState.FAILED:
        text = f"{switch_name(desired)}: {member} failed: {status.error or 'it gave no reason'}"
        raise ERRORS.get(status.reason, SwitchError)(text)
    target = TARGETS[desired.phase, member.role]
    if status.state is not target:
        return False
    holds = status.generation
    if target is MemberState.SERVING and holds is not None and holds != desired.generation:
        raise SwitchError(
            f"{switch_name(desired)}: {member} serves generation {holds}; restart the job from a checkpoint"
        )
    return True
