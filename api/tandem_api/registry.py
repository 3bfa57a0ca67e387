"""Keys and values of the registry (etcd): metadata only, one prefix a job.

A value is the JSON of its model. Who writes what, and under which lease, is stated at each model.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import Field

from tandem_api.job.status import MAX_EVALUATIONS, EvaluationStatus, Phase, SwitchSummary
from tandem_api.resource import Resource

Role = Literal["train", "rollout"]
Scheme = Literal["http", "https"]
"""How the HTTP APIs of a pod are spoken to."""


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
    def weights(self) -> str:
        return f"{self.prefix}weights/"

    @property
    def published(self) -> str:
        return f"{self.weights}published"

    def member(self, pod: str, role: Role) -> str:
        return f"{self.members}{pod}/{role}"

    def status(self, pod: str, role: Role) -> str:
        return f"{self.statuses}{pod}/{role}"

    def layout(self, generation: int) -> str:
        return f"{self.weights}{generation}/layout"

    def shards(self, generation: int) -> str:
        return f"{self.weights}{generation}/shards/"

    def shard(self, generation: int, pod: str, index: int) -> str:
        return f"{self.shards(generation)}{pod}/{index}"

    def copies(self, generation: int) -> str:
        return f"{self.prefix}copies/{generation}/"

    def copy(self, generation: int, pod: str) -> str:
        return f"{self.copies(generation)}{pod}/rollout"


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
    lineage: str = ""
    """Which run of generations the number belongs to: a job that goes back to a checkpoint gives the numbers after it
    again, to other weights, under another lineage."""


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
    scheme: Scheme = "http"
    """How that API, and the pod's servers, are spoken to."""
    servers: tuple[str, ...] = ()
    """Rollout: base URLs of this pod's servers; they answer in Infer phases only."""
    rendezvous_port: int | None = None
    """Train: port on which rank 0 of this pod would gather the ranks of the job."""
    num_ranks: int = Field(default=0, ge=0)
    """Train: ranks of this pod."""
    shares: tuple[int, ...] = ()
    """Train: numbers of the shares of a batch that its ranks are given, one a data-parallel rank. Ranks that hold the
    model together are given the same one; where they are of several pods, each of these pods is."""
    is_whole: bool = True
    """Train: whether its ranks hold all of the model by themselves."""
    ranks_life: str = ""
    """Train: random id of this life of the pod's ranks. Where it changes, the ranks of all other pods start anew: a
    group of torch.distributed cannot take a new rank in."""
    crew: str = ""
    """Train: the lives of all pods' ranks that this pod's ranks are to meet; those of another crew are gone by then."""

    @property
    def url(self) -> str:
        """Return the base URL of the shim's HTTP API."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.scheme}://{host}:{self.port}"


class CopyRecord(Resource):
    """`copies/<g>/<pod>/rollout`: a rollout-only pod has fetched all of a generation and gives it on. Lease: the
    member's. Written by the member, and read by pods that fetch; no switch waits for it or acts on it."""

    incarnation: str
    """Incarnation of the writer."""
    digest: str
    """SHA-256 over the pieces with their checksums (tandem_checkpoint.transfer.plan): only where a trainer has
    registered the very same ones does the copy count."""


class StageSpan(Resource):
    """How long one member spent in one stage of a switch, or waited for another one's."""

    stage: str
    """Work: one of drain, export, offload, prepare, verify, fetch, start, load, ready (to Infer), abort, stop, reload,
    ready (to Train); of the master: announce, publish, confirm. Waiting: what for, see `waits`."""
    waits: bool = False
    """True where the member did nothing but wait: `word` (for the master's word, from the switch's start), `shards`
    (this pod's, or for a rollout-only pod any pod's), `published` (the master's), `token` (the other container's)."""
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


class FailureReason(StrEnum):
    """Why a member is Failed: the kinds that somebody acts on or counts."""

    DEADLINE = "DeadlinePassed"
    TOKEN = "TokenTimeout"
    CHILD = "ChildGone"
    REFUSED = "CommandRefused"
    BROKEN_SEGMENT = "BrokenSegment"
    SEGMENT = "SegmentError"
    FETCH = "FetchFailed"
    REGISTRY = "RegistryError"
    GENERATION_LOST = "GenerationLost"
    """The trainer holds other weights than the word names, and neither segment nor checkpoint has those."""
    SELF_TEST = "SelfTestFailed"
    """Trainer and server hold other weights than each other after a hand-over: the job ends."""


class MemberStatus(Resource):
    """`status/<pod>/<role>`: how far a member is. Lease: the member's. Written by the member."""

    incarnation: str
    """Incarnation of the writer."""
    epoch: int = Field(ge=0)
    """Epoch that the state belongs to."""
    state: MemberState
    """Where the member is."""
    stage: str = ""
    """The same in the words of the switch protocol: Draining, Exporting, Loading ..."""
    generation: int | None = None
    """Generation that it holds."""
    lineage: str = ""
    """Lineage of that generation; empty where it came from a checkpoint."""
    stages: tuple[StageSpan, ...] = ()
    """Stages of this epoch so far."""
    device_bytes: int | None = None
    """Device memory that the member holds; 0 proves that the devices are free."""
    equal_tensors: int | None = None
    """Rollout: tensors that trainer and servers hold alike, in an epoch whose hand-over was tested; None in others."""
    error: str | None = None
    """Why the state is Failed, for people."""
    reason: FailureReason | None = None
    """The same as a kind."""


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
    evaluations: tuple[EvaluationStatus, ...] = Field(default=(), max_length=MAX_EVALUATIONS)
    """The last evaluation of each held-out set."""
    silent_iterations: int = Field(default=0, ge=0)
    """Newest iterations in a row in which groups became complete, and no group had a gradient: the samples of each
    problem were all worth the same."""
    switches: tuple[SwitchSummary, ...] = Field(default=(), max_length=10)
    """The last ten switches, newest first."""
    self_test: str = ""
    """What the last self-test found, in words; empty before there was one."""
    error: str | None = None
    """Why the job failed, for people."""
