"""Pods as the operator sees them: the few facts that decisions depend on, read from the API server's JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tandem_operator.plan.names import LABEL_ROLE
from tandem_operator.plan.revision import ANNOTATION_ATTEMPT, ANNOTATION_SPEC_HASH

Manifest = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ending:
    """A container that ended."""

    container: str
    container_id: str
    """Its runtime's id: one a start of the container."""
    exit_code: int
    reason: str
    """The kubelet's word: `Error`, `OOMKilled`, `Completed`, …"""
    message: str
    ended_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A container that cannot start."""

    container: str
    reason: str
    """The kubelet's word: `ImagePullBackOff`, `CreateContainerConfigError`, …"""
    message: str


@dataclass(frozen=True, slots=True)
class PodView:
    """One pod of a job."""

    name: str
    uid: str
    role: str
    attempt: int
    spec_hash: str
    phase: str
    """Pending, Running, Succeeded, Failed or Unknown."""
    reason: str
    """Why the pod failed as a whole: `Evicted`, `NodeLost`, `Preempting`, …"""
    message: str
    ready: bool
    restarts: int
    """Restarts of all its containers."""
    endings: tuple[Ending, ...]
    """Containers that ended and the last ending of those that were started again."""
    waiting: tuple[Waiting, ...]
    scheduled: bool
    """Whether it has a node."""
    unschedulable: str | None
    """The scheduler's words, while it has found no node."""
    deleted_at: datetime | None
    """When it was asked to go; None while it may stay."""
    grace_seconds: float
    """Time that it has to go."""

    @property
    def is_over(self) -> bool:
        """Return whether none of its containers runs, or will run, again."""
        return self.phase in ("Succeeded", "Failed")


def read_pod(pod: Manifest) -> PodView:
    """Return the view of a pod as the API server tells it."""
    metadata, status = pod["metadata"], pod.get("status") or {}
    annotations = metadata.get("annotations") or {}
    conditions = {item["type"]: item for item in status.get("conditions") or ()}
    containers = tuple(status.get("containerStatuses") or ())
    first_containers = tuple(status.get("initContainerStatuses") or ())
    deleted_at = metadata.get("deletionTimestamp")
    return PodView(
        name=metadata["name"],
        uid=metadata["uid"],
        role=(metadata.get("labels") or {}).get(LABEL_ROLE, ""),
        attempt=_attempt(annotations),
        spec_hash=annotations.get(ANNOTATION_SPEC_HASH, ""),
        phase=status.get("phase", "Pending"),
        reason=_pod_reason(status, conditions),
        message=status.get("message", ""),
        ready=conditions.get("Ready", {}).get("status") == "True",
        restarts=sum(container.get("restartCount", 0) for container in containers),
        endings=tuple(ending for container in containers for ending in _endings(container)),
        waiting=tuple(_waiting((*first_containers, *containers))),
        scheduled=conditions.get("PodScheduled", {}).get("status") == "True",
        unschedulable=_unschedulable(conditions),
        deleted_at=None if deleted_at is None else read_time(deleted_at),
        grace_seconds=float(metadata.get("deletionGracePeriodSeconds") or 0.0),
    )


def is_owned(pod: Manifest, uid: str | None) -> bool:
    """Return whether the RLJob with this uid owns the pod; any pod while the job has no uid."""
    owners = pod["metadata"].get("ownerReferences") or ()
    return uid is None or any(owner.get("uid") == uid for owner in owners)


def read_time(text: str) -> datetime:
    """Return an RFC 3339 time of the API server, with its zone; one without a zone is in UTC."""
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def write_time(moment: datetime) -> str:
    """Return an RFC 3339 time in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _attempt(annotations: Mapping[str, str]) -> int:
    text = annotations.get(ANNOTATION_ATTEMPT, "")
    return int(text) if text.isdecimal() else 0


def _pod_reason(status: Manifest, conditions: Mapping[str, Manifest]) -> str:
    """Return why the pod ended as a whole; a disruption says it in a condition of its own (KEP-3329)."""
    target = conditions.get("DisruptionTarget", {})
    if target.get("status") == "True":
        return str(target.get("reason", ""))
    return str(status.get("reason", ""))


def _endings(container: Manifest) -> Sequence[Ending]:
    name, num_starts = container["name"], container.get("restartCount", 0)
    found = []
    for state, start in ((container.get("state"), num_starts), (container.get("lastState"), num_starts - 1)):
        ended = (state or {}).get("terminated")
        if ended is not None:
            found.append(
                Ending(
                    container=name,
                    container_id=ended.get("containerID") or f"{name}#{start}",
                    exit_code=ended["exitCode"],
                    reason=ended.get("reason", ""),
                    message=ended.get("message", ""),
                    ended_at=None if ended.get("finishedAt") is None else read_time(ended["finishedAt"]),
                )
            )
    return found


def _waiting(containers: Sequence[Manifest]) -> Sequence[Waiting]:
    states = ((container["name"], (container.get("state") or {}).get("waiting")) for container in containers)
    return [
        Waiting(name, state.get("reason", ""), state.get("message", ""))
        for name, state in states
        if state is not None and state.get("reason") not in (None, "ContainerCreating", "PodInitializing")
    ]


def _unschedulable(conditions: Mapping[str, Manifest]) -> str | None:
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("status") == "False":
        return str(scheduled.get("message") or scheduled.get("reason") or "no node found")
    return None
