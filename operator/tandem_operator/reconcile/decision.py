"""What is to be done about a job, in the order in which it is done."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from tandem_api.job.status import RLJobStatus
from tandem_operator.kube.resources import ResourceKind

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
class Child:
    """A child that is no pod."""

    kind: ResourceKind
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
    discard: tuple[Child, ...] = ()
    """Children that stand for pods which are not wanted any more: in a queue, in a gang."""
    report: tuple[tuple[Child, Manifest], ...] = ()
    """Merge patches of the status of children of others' kinds; each names the version that it is about."""
    notes: tuple[Note, ...] = ()
    ended: Literal["Completed", "Failed"] | None = None
    """Whether the job is over; nothing is left but to clean up."""
    delete_job: bool = False
    """The RLJob has outlived its time to live."""
    wake_after_seconds: float | None = None
    """When to look again though nothing has changed."""
