"""Which servers answer in an Infer phase, at each moment: rollout-only pods come and go while it runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from tandem_api.registry import Desired, Keys, MemberState
from tandem_master.members import read_membership
from tandem_master.watched import WatchedKeys

Servers = Mapping[str, str]
"""Base URL of each server, with the incarnation of the engine that runs it."""


@dataclass(frozen=True, slots=True)
class Serving:
    """The servers of the phase that `desired` led into."""

    members: WatchedKeys
    keys: Keys
    desired: Desired

    def servers(self) -> Servers:
        """Return who serves now."""
        return self._of(self.members.values)

    async def changed(self, known: Servers) -> Servers:
        """Return who serves as soon as that is not what is `known`. No deadline: the phase's end is the caller's."""

        def other(values: Mapping[str, str]) -> Servers | None:
            now = self._of(values)
            return None if now == known else now

        return await self.members.until(other)

    def _of(self, values: Mapping[str, str]) -> Servers:
        """Return the servers of members that are in this epoch and hold this generation, by pod."""
        membership = read_membership(values, self.keys)
        return {
            server: status.incarnation
            for member, status in sorted(membership.statuses.items(), key=lambda item: item[0])
            if member.role == "rollout"
            and status.state is MemberState.SERVING
            and status.epoch == self.desired.epoch
            and status.generation in (None, self.desired.generation)
            for server in membership.records[member].servers
        }
