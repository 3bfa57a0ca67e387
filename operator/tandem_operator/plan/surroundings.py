"""The place where a job will run, as far as its objects depend on it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue


@dataclass(frozen=True, slots=True)
class Assignment:
    """Nodes that a queue has given the pods of a role."""

    node_labels: tuple[tuple[str, str], ...] = ()
    """Labels that the nodes carry."""
    tolerations: tuple[Mapping[str, JsonValue], ...] = ()
    """Taints of theirs that the pods must bear."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The permission of a queue; nothing where no queue is asked for, or where it does not choose nodes."""

    id: str = ""
    """Differs between two permissions."""
    assignments: Mapping[str, Assignment] = field(default_factory=dict)
    """By the role of the pods."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the planner must be told about the place where the job will run."""

    etcd_endpoints: tuple[str, ...]
    """`host:port` of the registry."""
    token: str = field(repr=False)
    """Bearer token of the job's HTTP APIs."""
    shared_memory_bytes: int | None = None
    """Size of both weight segments of a pod, for the in-memory volume where the spec names none. None: not known, and
    the volume is bounded by the pod's memory alone."""
    attempt: int = 0
    """How often all pods of the job have been started anew so far."""
    master_image: str | None = None
    """Image of the master; None: the one of this release."""
    monitoring_namespaces: tuple[str, ...] = ()
    """Namespaces whose pods may reach the job's HTTP APIs, for metrics: the operator's own, Prometheus'."""
    gang_api: str | None = None
    """apiVersion of the PodGroup that `spec.scheduling.gang` asks for; None where the cluster does not serve it."""
    priority: int = 0
    """Value of the job's PriorityClass, by which a queue orders jobs."""
    etcd_secret: str | None = None
    """Secret in the job's namespace that says who the job is to the registry; None: it asks nobody."""
    admission: Admission = field(default_factory=Admission)
    """What the queue said with its permission."""
