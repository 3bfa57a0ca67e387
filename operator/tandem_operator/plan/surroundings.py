"""The place where a job will run, as far as its objects depend on it."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the planner must be told about the place where the job will run."""

    etcd_endpoints: tuple[str, ...]
    """`host:port` of the registry."""
    token: str = field(repr=False)
    """Bearer token of the job's HTTP APIs."""
    shared_memory_bytes: int
    """Size of both weight segments of a pod, for the in-memory volume where the spec names none."""
