"""Keys and values of the registry (etcd): metadata only, one prefix a job.

A value is the JSON of its model. Who writes what, and under which lease, is stated at each model.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import Field

from tandem_api.job.status import Phase, SwitchSummary
from tandem_api.resource import Resource

Role = Literal["train", "rollout"]


@dataclass(frozen=True, slots=True)
class Keys:
    """Names of all keys of one job."""

    namespace: str
    job: str

    @property
    def prefix(self) -> str:
        return f"/tandem/v1/{self.namespace}/{self.job}/"

    @property
    def master(self) -> str:
        return f"{self.prefix}master"

    @property
    def desired(self) -> str:
        return f"{self.prefix}desired"

    @property
    def progress(self) -> str:
        return f"{self.prefix}progress"

    @property
    def members(self) -> str:
        return f"{self.prefix}members/"

    @property
    def statuses(self) -> str:
        return f"{self.prefix}status/"

    @property
    def published(self) -> str:
        return f"{self.prefix}weights/published"

    def member(self, pod: str, role: Role) -> str:
        return f"{self.members}{pod}/{role}"

    def status(self, pod: str, role: Role) -> str:
        return f"{self.statuses}{pod}/{role}"

    def layout(self, generation: int) -> str:
        return f"{self.prefix}weights/{generation}/layout"

    def shards(self, generation: int) -> str:
        return f"{self.prefix}weights/{generation}/shards/"

    def shard(self, generation: int, pod: str, index: int) -> str:
        return f"{self.shards(generation)}{pod}/{index}"


class MasterRecord(Resource):
    """`master`: the one master. Lease: the master's. Written by transaction, only where the key is absent."""

    incarnation: str
    """Random id of this start of the process."""
    pod: str
    """Pod that the master runs in."""


class Desired(Resource):
    """`desired`: what every member shall become. No lease. Written by the master, guarded by its own `master` key."""

    epoch: int = Field(ge=1)
    """Grows by one at each phase change; a member acts only on a newer one than its own."""
    phase: Phase
    """What the devices are for."""
    generation: int = Field(ge=0)
    """Infer: the generation to serve. Train: the generation that is trained from."""
    iteration: int = Field(ge=0)
    """Iteration that the phase belongs to."""
    deadline: float
    """Unix time, in seconds, at which the switch counts as failed."""


class MemberRecord(Resource):
    """`members/<pod>/<role>`: one shim. Lease: the member's. Written by the member."""

    incarnation: str
    """Random id of this start of the shim."""
    attempt: int = Field(default=0, ge=0)
    """How often all pods of the job had been started anew before this one: that of a pod of the same name that was
    killed may still be here for as long as its lease."""
    role: Role
    """Which container."""
    address: str
    """Address of the pod."""
    port: int
    """Port of the shim's HTTP API on that address."""
    servers: tuple[str, ...] = ()
    """Rollout: base URLs of this pod's servers; they answer in Infer phases only."""
    rendezvous_port: int | None = None
    """Train: port on which rank 0 of this pod would gather the ranks of the job."""
    num_ranks: int = Field(default=0, ge=0)
    """Train: ranks of this pod."""


class StageSpan(Resource):
    """How long one member spent in one stage of a switch."""

    stage: str
    """One of drain, export, offload, fetch, start, load, ready (to Infer), abort, stop, reload, ready (to Train)."""
    started_at: float
    """Unix time in seconds."""
    seconds: float = Field(ge=0)
    """Duration."""


class MemberState(StrEnum):
    """Where a member is; a rollout member serves in Serving, a trainer trains in Training."""

    STARTING = "Starting"
    IDLE = "Idle"
    SWITCHING = "Switching"
    SERVING = "Serving"
    TRAINING = "Training"
    FAILED = "Failed"


class MemberStatus(Resource):
    """`status/<pod>/<role>`: how far a member is. Lease: the member's. Written by the member."""

    incarnation: str
    """Incarnation of the writer."""
    epoch: int = Field(ge=0)
    """Epoch that the state belongs to."""
    state: MemberState
    """Where the member is."""
    generation: int | None = None
    """Generation that it holds."""
    stages: tuple[StageSpan, ...] = ()
    """Stages of this epoch so far."""
    device_bytes: int | None = None
    """Device memory that the member holds; 0 proves that the devices are free."""
    error: str | None = None
    """Why the state is Failed, for people."""


class Progress(Resource):
    """`progress`: how the job is doing, for the operator and the command line. Lease: the master's."""

    activity: str
    """What the master is doing, in words."""
    iteration: int = Field(ge=0)
    """Complete iterations."""
    iterations: int = Field(ge=1)
    """Iterations of the recipe."""
    generation: int = Field(ge=0)
    """Published generation."""
    completed_trajectories: int = Field(default=0, ge=0)
    """Finished in this Infer phase."""
    wanted_trajectories: int = Field(default=0, ge=0)
    """Asked for in this Infer phase."""
    unfinished_trajectories: int = Field(default=0, ge=0)
    """Carried over to the next iteration."""
    phase: Phase | None = None
    """What the devices are for; None before the first switch has ended."""
    epoch: int = Field(default=0, ge=0)
    """Switches begun so far."""
    reward: float | None = None
    """Mean reward of the last complete iteration, without the length reward."""
    tokens_per_second: float | None = None
    """Tokens sampled a second in its Infer phase."""
    switches: tuple[SwitchSummary, ...] = Field(default=(), max_length=10)
    """The last ten switches, newest first."""
    error: str | None = None
    """Why the job failed, for people."""
