"""The place where a job will run, as far as its objects depend on it."""

from dataclasses import dataclass, field


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
