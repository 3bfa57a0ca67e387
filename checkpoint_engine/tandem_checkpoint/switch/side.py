"""The seam between a member and what it switches: the trainer's side or the server's side."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tandem_api.registry import Desired, MemberRecord, Role
from tandem_checkpoint.metrics import EngineMetrics
from tandem_checkpoint.process.child import ChildGone
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.registry.store import Registry
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.protocol import Action
from tandem_checkpoint.transfer.mooncake import Session

Act = Callable[[Desired, Stopwatch], Awaitable[None]]
"""What a side does for one action of the protocol. Safe to repeat for the same word."""
Announce = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Surroundings:
    """What a side may use of its member. Lease and incarnation change when the member rejoins."""

    settings: Settings
    registry: Registry
    mirror: Mirror
    lease: int = 0
    incarnation: str = ""
    metrics: EngineMetrics = field(default_factory=EngineMetrics)
    mooncake: Session | None = None
    """For one-sided reads between pods; None: they read by HTTP."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a side holds, as `status` tells it."""

    generation: int | None = None
    lineage: str = ""
    device_bytes: int | None = None
    """0 proves that the devices are free."""
    equal_tensors: int | None = None
    """What a self-test has found equal in this epoch."""


class GenerationLost(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """The weights that a word names are neither in the ranks, nor in a segment, nor in a checkpoint."""


class CrewChanged(ChildGone):
    """The ranks of another pod have started anew, and ours can do nothing without them."""


class Side(Protocol):
    """One container's part in the switch."""

    @property
    def role(self) -> Role: ...

    @property
    def awaited(self) -> bool:
        """Whether the master waits for this member. One that it does not wait for has its own time."""
        ...

    @property
    def held(self) -> Held: ...

    @property
    def acts(self) -> Mapping[Action, Act]:
        """What to do for each action of the switch that takes work."""
        ...

    def record(self) -> MemberRecord:
        """Return what the member registers."""
        ...

    async def start(self, announce: Announce) -> None:
        """Bring up what lives as long as the member; after a child has ended, once more.

        `announce` writes the member's record again, where it has changed.
        """
        ...

    async def fail(self) -> None:
        """Leave nothing half done after a switch that failed: a server frees the devices, a trainer keeps its
        weights.
        """
        ...

    async def leave(self) -> None:
        """Stop serving and training: the registry has dropped this member."""
        ...

    async def restore(self) -> None:
        """Register again what the new incarnation still holds."""
        ...

    async def first_end(self) -> ChildGone:
        """Return, once a process has ended that the member cannot do without, how it ended."""
        ...

    async def close(self) -> None:
        """End every process of this side and give the devices back."""
        ...
