"""The engine's configuration and the bodies of its HTTP API."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from tandem_api.job.spec import RLJobSpec
from tandem_api.job.status import Phase
from tandem_api.registry import MemberState
from tandem_api.resource import Resource
from tandem_api.weights import BoxFingerprint, Shard

ENGINE_PORT_TRAIN = 8701
ENGINE_PORT_ROLLOUT = 8702
METRICS_PORT = 8703
"""Port of the master's metrics."""
SERVER_PORT = 8000
"""Port of a pod's first server; the next one follows."""
RENDEZVOUS_PORT = 29500
"""Port on which rank 0 gathers the ranks of torch.distributed."""


class JobConfig(Resource):
    """What every container of a job reads at its start: the content of the job's ConfigMap."""

    namespace: str
    """Namespace of the job."""
    name: str
    """Name of the job."""
    spec: RLJobSpec
    """The job as applied."""
    hybrid_pods: tuple[str, ...]
    """Names of the hybrid pods, by ordinal."""
    rollout_pods: tuple[str, ...] = ()
    """Names of the rollout-only pods."""
    device: str
    """`cuda` or `cpu`: the device seam that trainer and server use."""


class Sample(Resource):
    """One trajectory as the trainer sees it."""

    token_ids: tuple[int, ...]
    """Prompt and response, int64 [T]."""
    first_loss_token: int = Field(ge=1)
    """Index of the first token that takes part in the loss; everything after it does."""
    sampled_logprobs: tuple[float, ...]
    """Log-probability at sampling of each token in the loss, nats [T - first_loss_token]."""
    num_old_tokens: int = Field(default=0, ge=0)
    """How many tokens at the start of the loss older generations sampled: server and trainer are not compared there."""
    advantage: float
    """What its tokens are credited with: the reward over the group's baseline, as the objective has it."""


class TrainRequest(Resource):
    """POST /v1/train: the batch of one iteration for the ranks of one pod."""

    epoch: int = Field(ge=1)
    """Epoch of the Train phase; a member in another epoch refuses (409)."""
    generation: int = Field(ge=0)
    """Generation that sampled the batch and that is trained from."""
    max_logprob_difference: float = Field(gt=0)
    """Refuse to train (422) when trainer and server disagree by more, in nats."""
    steps: tuple[tuple[tuple[Sample, ...], ...], ...]
    """Samples by optimizer step, then by share of the pod: its data-parallel ranks. Without a step the weights stay as
    they are, and count as the next generation."""
    samples_per_step: tuple[int, ...]
    """Samples of each step over all ranks of the job: what the loss is divided by."""


class StepMetrics(Resource):
    """One optimizer step."""

    loss: float
    """Mean surrogate loss of the step over all ranks."""
    gradient_norm: float
    """Norm of the whole gradient before clipping."""
    learning_rate: float = Field(default=0.0, ge=0)
    """Learning rate that it was taken with."""


class TrainResponse(Resource):
    """What a Train phase did."""

    max_abs_logprob_difference: float
    """max |logprob(server) - logprob(trainer)| over the sampled tokens of the current generation, nats."""
    num_logprobs: int = Field(default=0, ge=0)
    """Sampled tokens of which both were compared, over all ranks, before the first step."""
    kl: float
    """Mean of L_old - L over the samples of the last step, before that step, nats: how far the steps before it moved
    the policy; 0 with one step."""
    steps: tuple[StepMetrics, ...]
    """The optimizer steps."""
    num_tokens: int = Field(ge=0)
    """Tokens passed forward, padding excluded, over all ranks."""
    seconds: float = Field(ge=0)
    """Time in the trainer."""
    export_seconds: float = Field(default=0.0, ge=0)
    """Time to write the new generation into the pod's segment, before the answer."""


class SaveStep(StrEnum):
    """Steps of saving. Where a model is shared, one rank prepares, then all write, then one commits."""

    ALL = "all"
    """From ranks of one pod that hold all weights, each or together."""
    PREPARE = "prepare"
    WRITE = "write"
    COMMIT = "commit"


class SaveRequest(Resource):
    """POST /v1/save: write the current weights as a Hugging Face folder. Allowed in every state."""

    path: str
    """Folder to make, as the container sees it. Written aside and renamed."""
    generation: int | None = Field(default=None, ge=0)
    """Generation that is wanted; a trainer that holds another one refuses (409). Absent: whatever it holds."""
    step: SaveStep = SaveStep.ALL
    """What to do of it. Where a model spans pods, one prepares the folder, then all write, then one commits."""


class SaveResponse(Resource):
    """Where the weights are."""

    path: str
    """The folder."""
    num_bytes: int
    """Size of the weight files."""


class CheckpointStep(StrEnum):
    """Steps of a checkpoint, in this order. The job waits for the first one only."""

    BEGIN = "Begin"
    """At all trainers at once, while they train: fix what is to be written."""
    PREPARE = "Prepare"
    """At the first one: make the files, aside."""
    WRITE = "Write"
    """At all of them: answered once this pod's part is on disk."""
    COMMIT = "Commit"
    """At the first one: put the whole folder in its place."""


class CheckpointRequest(Resource):
    """POST /v1/checkpoints: a step of writing a generation, and the optimizer's state where that is kept, while the job
    goes on. Answer: SaveResponse."""

    path: str
    """Folder to make, as the containers see it."""
    generation: int = Field(ge=0)
    """Generation that it holds; a trainer that holds another one refuses to begin (409)."""
    step: CheckpointStep
    """What to do."""


class MemberPhase(Resource):
    """GET /v1/phase: what this member is in the middle of, and how far it is with that."""

    epoch: int = Field(ge=0)
    """Epoch that the member acts on; 0 before the master's first word."""
    phase: Phase | None
    """What that epoch is for; null before the first word."""
    generation: int | None
    """Generation that the member serves, trains from or holds; null where that is none."""
    state: MemberState
    """Where the member is."""
    since: float
    """Unix time, in seconds, at which it came into this state."""
    deadline: float | None
    """Unix time, in seconds, at which the running switch counts as failed; null where none is running."""
    published: int | None = None
    """Newest generation that the master has published, as this member knows; null where that is none."""


class HeldWeights(Resource):
    """GET /v1/weights/{generation}: what this pod's segments hold of a generation; 404 where that is nothing.

    GET /v1/weights/{generation}/segment answers the bytes themselves, those of a Range header (206) or all of them.
    """

    generation: int = Field(ge=0)
    """Version of the weights."""
    segment_bytes: int = Field(ge=0)
    """Size of the whole segment."""
    shards: tuple[Shard, ...]
    """What each rank of the pod wrote, with the checksum of each piece."""


class WeightsSummary(Resource):
    """One generation in one of this pod's segments."""

    generation: int = Field(ge=0)
    """Version of the weights."""
    segment: str
    """File name of the segment in the pod's shared volume."""
    segment_bytes: int = Field(ge=0)
    """Size of the whole segment."""
    num_bytes: int = Field(ge=0)
    """Bytes of tensors in it, padding left out."""
    num_shards: int = Field(ge=0)
    """Ranks that wrote it."""
    is_published: bool
    """Whether the master has published this generation."""


class WeightsList(Resource):
    """GET /v1/weights: the generations that this pod's segments hold, oldest first: at most as many as segments."""

    weights: tuple[WeightsSummary, ...]
    """What is held."""


class PublishedWeights(Resource):
    """POST /v1/weights/{generation}/publish: what a trainer has exported and registered."""

    generation: int = Field(ge=0)
    """Version of the weights."""
    num_shards: int = Field(ge=0)
    """Shards of this pod that are registered now."""
    num_bytes: int = Field(ge=0)
    """Bytes of tensors in them."""
    is_complete: bool
    """Whether the shards of all pods are registered: then the master can publish the generation."""


class WeightFingerprints(Resource):
    """GET /v1/weights/{generation}/fingerprints: what the ranks of this trainer hold, for the self-test."""

    generation: int = Field(ge=0)
    """Version of the weights."""
    boxes: tuple[BoxFingerprint, ...]
    """What each rank holds, one rank after another; boxes that several hold come several times."""
    folder: str = ""
    """Folder that the ranks have loaded these weights from; empty where that was none, or is not looked at."""
    folder_boxes: tuple[BoxFingerprint, ...] = ()
    """Its tensors, in the format that is handed over."""


class FetchedWeights(Resource):
    """POST /v1/weights/{generation}/fetch: what a rollout-only pod has brought into its segment."""

    generation: int = Field(ge=0)
    """Version of the weights."""
    num_bytes: int = Field(ge=0)
    """Bytes that came over the network; 0 where the generation was here already."""
    sources: tuple[str, ...]
    """Pods that gave them."""
    seconds: float = Field(ge=0)
    """Time that it took."""


class ByteRuns(Resource):
    """Equal runs of bytes in a segment, at regular distances."""

    offset_bytes: int = Field(ge=0)
    """Place of the first byte."""
    run_bytes: int = Field(ge=1)
    """Size of each run."""
    num_runs: int = Field(default=1, ge=1)
    """How many there are."""
    stride_bytes: int = Field(default=0, ge=0)
    """From the start of one run to that of the next; 0 where there is one only."""


class SegmentRuns(Resource):
    """POST /v1/weights/{generation}/runs: which bytes of the segment are wanted, in which order."""

    runs: tuple[ByteRuns, ...] = Field(min_length=1, max_length=1024)
    """They come one behind the other."""


class SegmentAddress(Resource):
    """Where a generation's bytes lie in the memory of an engine that lends it for one-sided reads."""

    session: str
    """Host and port of the engine's end of Mooncake."""
    protocol: Literal["tcp", "rdma"]
    """What it is reached by."""
    segment_address: int = Field(ge=0)
    """Address of the segment's first byte in the engine's memory."""
    segment_bytes: int = Field(ge=0)
    """Size of the segment."""
    witness_address: int = Field(ge=0)
    """Address of the witness."""
    witness: str
    """Random bytes that this start of the engine has drawn, in hexadecimal. Read with every batch, they tell that the
    addresses are not those of an earlier start."""


class PieceMismatch(Resource):
    """A piece whose bytes are not those that were registered."""

    tensor: str
    """Hugging Face on-disk name."""
    start: tuple[int, ...]
    """First index of the box on each axis."""
    stop: tuple[int, ...]
    """One past the last index of the box on each axis."""
    offset_bytes: int = Field(ge=0)
    """Place of its first byte in the segment."""
    num_bytes: int = Field(ge=0)
    """Size."""
    registered_xxh3: int = Field(ge=0)
    """Checksum as the exporter registered it."""
    found_xxh3: int = Field(ge=0)
    """Checksum of the bytes that are there."""


class VerifiedWeights(Resource):
    """POST /v1/weights/{generation}/verify: every byte of the generation read again, and every checksum compared."""

    generation: int = Field(ge=0)
    """Version of the weights."""
    is_intact: bool
    """Whether every piece is as it was registered."""
    mismatches: tuple[PieceMismatch, ...]
    """The pieces that are not, by their place in the segment."""
    num_pieces: int = Field(ge=0)
    """Pieces that were compared."""
    num_bytes: int = Field(ge=0)
    """Bytes that were read."""
    seconds: float = Field(ge=0)
    """Time that it took."""


class Alive(Resource):
    """GET /healthz."""

    status: Literal["alive"] = "alive"
    """The event loop answers."""


class Readiness(Resource):
    """GET /readyz: 200 where the member can be asked for something, 503 while it starts and after it has failed."""

    state: MemberState
    """Where the member is."""


class FieldProblem(Resource):
    """One mistake in a request."""

    pointer: str
    """JSON Pointer (RFC 6901) into the body, as #/maxLogprobDifference; for a parameter its place and name."""
    detail: str
    """What is wrong with it."""


class ProblemDetails(Resource):
    """A structured error (RFC 9457), sent as application/problem+json."""

    type: str = "about:blank"
    """Kind of the problem: a name that stays the same; absent where the status says it all."""
    title: str
    """The kind in words, the same each time."""
    status: int
    """HTTP status."""
    detail: str
    """What is wrong here and how to mend it."""
    errors: tuple[FieldProblem, ...] = ()
    """Every mistake in the request, for a request that cannot be read."""
