"""What is to be done about a job, in the order in which it is done."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from tandem_api.job.status import RLJobStatus

Manifest = Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Note:
    """One Kubernetes Event about the job."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Removal:
    """A pod that is to go, with its own grace period."""

    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Decision:
    """One step. The status is written first where it counts something; all else can be done again without harm."""

    status: RLJobStatus
    status_first: bool = False
    """The status is written, and nothing else is done before it has been seen again."""
    apply: tuple[Manifest, ...] = ()
    """Children by server-side apply, each with its hash."""
    create: tuple[Manifest, ...] = ()
    """Secret and pods, created unless they exist."""
    master: Manifest | None = None
    """The master pod, created after all of `create` exist."""
    remove: tuple[Removal, ...] = ()
    notes: tuple[Note, ...] = ()
    delete_job: bool = False
    """The RLJob has outlived its time to live."""
    wake_after_seconds: float | None = None
    """When to look again though nothing has changed."""
