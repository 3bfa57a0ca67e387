"""Who takes part in a job, and how far each is: the registry's member and status keys as types."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from tandem_api.registry import Keys, MemberRecord, MemberStatus, Role
from tandem_master.errors import MembersError
from tandem_master.watched import WatchedKeys

NAMED = 3
"""Missing members that are named."""
MOST_KEYS = 4096
"""Keys whose values are remembered: all members are read again and again while a switch runs, but few have changed."""
T = TypeVar("T", MemberRecord, MemberStatus)
_records: dict[str, tuple[str, MemberRecord]] = {}
_statuses: dict[str, tuple[str, MemberStatus]] = {}


@dataclass(frozen=True, slots=True, order=True)
class MemberId:
    """One shim of one pod."""

    pod: str
    role: Role

    def __str__(self) -> str:
        return f"{self.pod}/{self.role}"


@dataclass(frozen=True, slots=True)
class Membership:
    """The members at one moment. A status counts only where the registered incarnation wrote it."""

    records: Mapping[MemberId, MemberRecord]
    statuses: Mapping[MemberId, MemberStatus]


def read_membership(values: Mapping[str, str], keys: Keys) -> Membership:
    """Return the members in `values` (key to JSON). Errors: MembersError names the key that cannot be read."""
    records: dict[MemberId, MemberRecord] = {}
    statuses: dict[MemberId, MemberStatus] = {}
    for key, value in values.items():
        if key.startswith(keys.members):
            records[_member_id(key, keys.members)] = _record(key, value)
        elif key.startswith(keys.statuses):
            statuses[_member_id(key, keys.statuses)] = _status(key, value)
    current = {
        member: status
        for member, status in statuses.items()
        if member in records and records[member].incarnation == status.incarnation
    }
    return Membership(records, current)


def hybrid_members(pods: Sequence[str]) -> tuple[MemberId, ...]:
    """Return the members that a job cannot do without, by pod: trainer, then server."""
    roles: tuple[Role, Role] = ("train", "rollout")
    return tuple(MemberId(pod, role) for pod in pods for role in roles)


async def wait_for_members(
    watched: WatchedKeys, keys: Keys, wanted: Sequence[MemberId], attempt: int, tell: Callable[[str], None]
) -> Membership:
    """Return the membership once every `wanted` member is registered. Errors: MembersError, as read_membership.

    Members of another attempt do not count: they are dead, and their leases will tell. `tell` hears who is missing. A
    pod may wait for its devices for hours, and an engine that cannot start ends by itself: the deadline of this wait is
    spec.activeDeadlineSeconds, which the operator keeps.
    """

    def complete(values: Mapping[str, str]) -> Membership | None:
        membership = read_membership(values, keys)
        here = {member for member, record in membership.records.items() if record.attempt == attempt}
        missing = [str(member) for member in wanted if member not in here]
        if not missing:
            return membership
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        tell(f"waiting for {', '.join(missing[:NAMED])}{more}")
        return None

    return await watched.until(complete)


def _member_id(key: str, prefix: str) -> MemberId:
    pod, _, role = key.removeprefix(prefix).partition("/")
    if role == "train":
        return MemberId(pod, "train")
    if role == "rollout":
        return MemberId(pod, "rollout")
    raise MembersError(f"{key}: not a member's key; remove it from the registry")


def _record(key: str, value: str) -> MemberRecord:
    return _parsed(_records, MemberRecord, key, value)


def _status(key: str, value: str) -> MemberStatus:
    return _parsed(_statuses, MemberStatus, key, value)


def _parsed(known: dict[str, tuple[str, T]], kind: type[T], key: str, value: str) -> T:
    """Return what a key holds, parsed once for each new value; older values are not kept."""
    before = known.get(key)
    if before is not None and before[0] == value:
        return before[1]
    try:
        answer = kind.model_validate_json(value)
    except ValidationError as error:
        raise MembersError(f"{key}: {error.errors()[0]['msg']}; is the engine of another version?") from error
    if len(known) >= MOST_KEYS:
        known.clear()
    known[key] = (value, answer)
    return answer
