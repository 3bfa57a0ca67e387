"""The seam between a member and what it switches: the trainer's side or the server's side."""

from dataclasses import dataclass
from typing import Protocol

from tandem_api.registry import Desired, MemberRecord, MemberState, Role
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.registry.store import Registry
from tandem_checkpoint.settings import Settings
from tandem_checkpoint.switch.stopwatch import Stopwatch


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a side may use of its member."""

    settings: Settings
    registry: Registry
    mirror: Mirror
    lease: int
    incarnation: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """Where a switch has led."""

    state: MemberState
    generation: int | None
    device_bytes: int | None = None


class Side(Protocol):
    """One container's part in the switch. Every method is safe to repeat for the same epoch."""

    @property
    def role(self) -> Role: ...

    @property
    def awaited(self) -> bool:
        """Whether the master waits for this member. One that it does not wait for may come late, and is overtaken."""
        ...

    def record(self) -> MemberRecord:
        """Return what the member registers."""
        ...

    async def start(self) -> Outcome:
        """Bring up what lives as long as the member, and return where that leaves it."""
        ...

    async def to_infer(self, desired: Desired, stopwatch: Stopwatch) -> Outcome:
        """Switch from training to inference."""
        ...

    async def to_train(self, desired: Desired, stopwatch: Stopwatch) -> Outcome:
        """Switch from inference to training."""
        ...

    async def first_end(self) -> str:
        """Return, once a process ends that the member cannot do without, how it ended."""
        ...

    async def close(self) -> None:
        """End every process of this side and give the devices back."""
        ...
