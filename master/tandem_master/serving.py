"""Which servers answer in an Infer phase, at each moment: rollout-only pods come and go while it runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tandem_api.registry import Desired, Keys, MemberState, MemberStatus
from tandem_master.members import Membership, read_membership
from tandem_master.watched import WatchedKeys

Servers = Mapping[str, str]
"""Base URL of each server, with the incarnation of the engine that runs it."""
WAITING = frozenset({"Gathering", "Taking", "Loading"})
"""Stages in which a pod's servers take connections, and answer nothing before they have the epoch's weights. They are
states of the engine's switch protocol.
"""


@dataclass(frozen=True, slots=True)
class Serving:
    """The servers of the phase that `desired` led into."""

    members: WatchedKeys
    keys: Keys
    desired: Desired

    def servers(self) -> Servers:
        """Return who serves now."""
        return self._of(self.members.values)

    def equal_tensors(self) -> int | None:
        """Return how many tensors a self-test has found equal in this epoch; None where none was made."""
        statuses = read_membership(self.members.values, self.keys).statuses.values()
        found = [status.equal_tensors for status in statuses if status.epoch == self.desired.epoch]
        return min((number for number in found if number is not None), default=None)

    async def changed(self, known: Servers) -> Servers:
        """Return who serves as soon as that is not what is `known`. No deadline: the phase's end is the caller's."""

        def other(values: Mapping[str, str]) -> Servers | None:
            now = self._of(values)
            return None if now == known else now

        return await self.members.until(other)

    def registered(self) -> tuple[str, ...]:
        """Return the servers of all pods, by pod, whatever these do."""
        records = read_membership(self.members.values, self.keys).records
        return tuple(
            server for _, record in sorted(records.items(), key=lambda item: item[0]) for server in record.servers
        )

    async def change_in_waiting(self, known: Servers) -> Servers:
        """Return who waits for this epoch's weights, or serves already, as soon as that is not what is `known`."""

        def other(values: Mapping[str, str]) -> Servers | None:
            membership = read_membership(values, self.keys)
            now = self._chosen(membership, self._waits)
            return None if now == known else {**now}

        return await self.members.until(other)

    def _of(self, values: Mapping[str, str]) -> Servers:
        """Return the servers of members that are in this epoch and hold this generation, by pod."""
        return self._chosen(read_membership(values, self.keys), self._serves)

    def _chosen(self, membership: Membership, accept: Callable[[MemberStatus], bool]) -> Servers:
        return {
            server: status.incarnation
            for member, status in sorted(membership.statuses.items(), key=lambda item: item[0])
            if member.role == "rollout" and status.epoch == self.desired.epoch and accept(status)
            for server in membership.records[member].servers
        }

    def _serves(self, status: MemberStatus) -> bool:
        return status.state is MemberState.SERVING and status.generation in (None, self.desired.generation)

    def _waits(self, status: MemberStatus) -> bool:
        return self._serves(status) or (status.state is MemberState.SWITCHING and status.stage in WAITING)
