"""The engine's configuration and the bodies of its HTTP API."""

from pydantic import Field

from tandem_api.job.spec import RLJobSpec
from tandem_api.resource import Resource
from tandem_api.weights import Shard

ENGINE_PORT_TRAIN = 8701
ENGINE_PORT_ROLLOUT = 8702
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
    advantage: float
    """Reward minus the mean reward of its group."""


class TrainRequest(Resource):
    """POST /v1/train: the batch of one iteration for the ranks of one pod."""

    epoch: int = Field(ge=1)
    """Epoch of the Train phase; a member in another epoch refuses (409)."""
    generation: int = Field(ge=0)
    """Generation that sampled the batch and that is trained from."""
    max_logprob_difference: float = Field(gt=0)
    """Refuse to train (422) when trainer and server disagree by more, in nats."""
    steps: tuple[tuple[tuple[Sample, ...], ...], ...]
    """Samples by optimizer step, then by local rank."""
    samples_per_step: tuple[int, ...]
    """Samples of each step over all ranks of the job: what the loss is divided by."""


class StepMetrics(Resource):
    """One optimizer step."""

    loss: float
    """Mean surrogate loss of the step over all ranks."""
    gradient_norm: float
    """Norm of the whole gradient before clipping."""


class TrainResponse(Resource):
    """What a Train phase did."""

    max_abs_logprob_difference: float
    """max |logprob(server) - logprob(trainer)| over the sampled tokens of the current generation, nats."""
    kl: float
    """Mean of L_old - L over the samples of the last step, before that step, nats: how far the steps before it moved
    the policy; 0 with one step."""
    steps: tuple[StepMetrics, ...]
    """The optimizer steps."""
    num_tokens: int = Field(ge=0)
    """Tokens passed forward, padding excluded, over all ranks."""
    seconds: float = Field(ge=0)
    """Time in the trainer."""


class SaveRequest(Resource):
    """POST /v1/save: write the current weights as a Hugging Face folder. Allowed in every state."""

    path: str
    """Folder to make, as the container sees it. Written aside and renamed."""


class SaveResponse(Resource):
    """Where the weights are."""

    path: str
    """The folder."""
    num_bytes: int
    """Size of the weight files."""


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


class ProblemDetails(Resource):
    """A structured error (RFC 9457)."""

    type: str = "about:blank"
    """Kind of the problem."""
    title: str
    """The kind in words."""
    status: int
    """HTTP status."""
    detail: str
    """What is wrong here and how to mend it."""
