"""What a side must offer for its routes to answer; one that it does not offer answers 404, not-offered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from tandem_api.engine import (
    CheckpointRequest,
    FetchedWeights,
    MemberPhase,
    PublishedWeights,
    SaveRequest,
    SaveResponse,
    SegmentAddress,
    TrainRequest,
    TrainResponse,
    VerifiedWeights,
    WeightFingerprints,
)
from tandem_api.registry import MemberStatus
from tandem_checkpoint.conflict import Conflict
from tandem_checkpoint.transfer.exports import Held

__all__ = [
    "Capabilities",
    "Conflict",
    "Fetcher",
    "Lender",
    "NotOffered",
    "PhaseTeller",
    "Publisher",
    "Trainer",
    "WeightStore",
]


class NotOffered(Exception):  # noqa: N818 - what has happened, not whose mistake it is
    """This member does not do what was asked; the message says who does."""


class Trainer(Protocol):
    """Trains and saves."""

    async def train(self, request: TrainRequest) -> TrainResponse:
        """Train one batch. Errors: WrongPhase, CommandRefused, ChildGone."""
        ...

    async def save(self, request: SaveRequest) -> SaveResponse:
        """Write the current weights to disk. Errors: WrongPhase, ChildGone."""
        ...

    async def checkpoint(self, request: CheckpointRequest) -> SaveResponse:
        """Take a step of a checkpoint. Errors: WrongPhase, Conflict, NotSaved, ChildGone, TimeoutError."""
        ...


class Publisher(Protocol):
    """Writes generations for others: a trainer."""

    async def publish(self, generation: int) -> PublishedWeights:
        """Export and register a generation, again or for the first time: harmless to repeat.

        Errors: Conflict or WrongPhase where the trainer does not hold it, RegistryUnreachable, LeaseLost, ChildGone.
        """
        ...

    async def fingerprints(self, generation: int) -> WeightFingerprints:
        """Return what the ranks hold of each tensor. Errors: Conflict where that is another generation, ChildGone."""
        ...


class Fetcher(Protocol):
    """Brings generations that other pods have written into this pod: a rollout-only pod."""

    async def fetch(self, generation: int) -> FetchedWeights:
        """Bring a published generation here ahead of time: harmless to repeat.

        Errors: Conflict where its segment is bound or the generation is not published, FetchFailed.
        """
        ...


class WeightStore(Protocol):
    """Knows what this pod's segments hold; see tandem_checkpoint.transfer.exports.Exports."""

    def get(self, generation: int) -> Held:
        """Return what is held of a generation. Errors: NotHeld."""
        ...

    def list(self) -> tuple[Held, ...]:
        """Return everything that is held, by generation."""
        ...

    async def verify(self, generation: int) -> VerifiedWeights:
        """Read a generation's bytes again and compare every checksum. Errors: NotHeld."""
        ...


class Lender(Protocol):
    """Lets other pods read this pod's segments one-sidedly; see tandem_checkpoint.transfer.mooncake.Lender."""

    def address(self, held: Held) -> SegmentAddress:
        """Return where a generation's bytes lie. Errors: MooncakeMissing, SegmentError."""
        ...


class PhaseTeller(Protocol):
    """Knows what the member is in the middle of."""

    def phase(self) -> MemberPhase: ...


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Everything that one member offers."""

    status: Callable[[], MemberStatus]
    """What it last reported to the registry."""
    trainer: Trainer | None = None
    weights: WeightStore | None = None
    phase: PhaseTeller | None = None
    publisher: Publisher | None = None
    fetcher: Fetcher | None = None
    metrics: Callable[[], bytes] | None = None
    """Prometheus' text format."""
    lender: Lender | None = None
