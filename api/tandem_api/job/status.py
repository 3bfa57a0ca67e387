"""Observed state of an RLJob: conditions are the truth, phase is a caption for people."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from tandem_api.resource import Resource

MAX_CONDITIONS = 16
MAX_HANDLED_FAILURES = 32
MAX_SWITCHES = 10
MAX_EVALUATIONS = 64
MANY_SILENT_ITERATIONS = 5
"""Iterations in a row without a gradient in any group after which people are told."""
Word = Annotated[str, Field(max_length=256)]
Time = Annotated[str, Field(max_length=64)]
"""RFC 3339, in UTC."""
Sentence = Annotated[str, Field(max_length=1024)]


class Phase(StrEnum):
    """What the devices are for; the word on the wire of the switch protocol."""

    TRAIN = "Train"
    INFER = "Infer"


class Direction(StrEnum):
    """Which way a switch goes."""

    TRAIN_TO_INFER = "TrainToInfer"
    INFER_TO_TRAIN = "InferToTrain"


class ConditionType(StrEnum):
    """What conditions tell; each is there from the operator's first visit."""

    ADMITTED = "Admitted"
    """The job may have pods: it is valid, not suspended, not over, and its queue lets it."""
    PODS_SCHEDULED = "PodsScheduled"
    """Every pod has a node."""
    ENGINES_READY = "EnginesReady"
    """Every pod's containers are ready."""
    PROGRESSING = "Progressing"
    """The master runs the loop."""
    SUSPENDED = "Suspended"
    """`spec.suspend` is true and no pod is left."""
    COMPLETED = "Completed"
    """All iterations are done."""
    FAILED = "Failed"
    """The job ended without that."""
    REWARD_SIGNAL = "RewardSignal"
    """There is something to learn from: in one of the last iterations, samples of one problem were worth different
    amounts."""


def describe_silence(num_iterations: int) -> str:
    """Return for people that nothing was learned in so many iterations, and what they can do."""
    return (
        f"in each of the last {num_iterations} iterations all samples of every problem were worth the same, so nothing "
        "was learned; look at the responses and their rewards, and for problems that the policy can solve now and then"
    )


class Condition(Resource):
    """One Kubernetes condition."""

    type: ConditionType
    """What it tells."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Word
    """CamelCase cause, for programs."""
    message: Sentence
    """One sentence, for people."""
    observed_generation: int | None = None
    """metadata.generation that this condition was computed from."""
    last_transition_time: Time | None = None
    """RFC 3339 time of the last change of status."""


class RewardStatus(Resource):
    """Reward of the last complete iteration."""

    mean: float
    """Mean over all finished trajectories of the iteration, without the length reward."""


class EvaluationStatus(Resource):
    """The last evaluation of one held-out set."""

    name: Word
    """Name of the set in `spec.data.evaluation`."""
    generation: int = Field(ge=0)
    """Generation that was measured."""
    pass1: float = Field(ge=0, le=1)
    """pass@1: share of samples with full marks, of those that were scored."""
    mean_reward: float
    """Mean reward of the samples, without the length reward."""


class Readiness(Resource):
    """Pods that are ready, of those wanted."""

    ready: int = Field(ge=0)
    """Pods whose engines are registered."""
    desired: int = Field(ge=0)
    """Pods that the spec asks for."""


class ElasticReadiness(Readiness):
    """Readiness of the pods that `kubectl scale` adds and removes."""

    selector: Word | None = None
    """Label selector of these pods, as text: by it an autoscaler finds what it measures."""


class SwitchSummary(Resource):
    """One past switch."""

    epoch: int = Field(ge=1)
    """Number of the switch."""
    direction: Direction
    """Which way."""
    seconds: float = Field(ge=0)
    """From the master's word to the last pod's readiness."""
    slowest_pod: Word
    """Pod that was ready last."""
    slowest_stage: Word
    """Its longest stage."""
    at: Time
    """RFC 3339 time of its start."""


class RLJobStatus(Resource):
    """Observed state of a job."""

    observed_generation: int = Field(default=0, ge=0)
    """metadata.generation last acted on."""
    phase: Word = "Pending"
    """Caption for people, derived from the conditions."""
    conditions: tuple[Condition, ...] = Field(default=(), max_length=MAX_CONDITIONS)
    """The truth, by type."""
    start_time: Time | None = None
    """When the first pods were made, since the last suspension where there was one."""
    completion_time: Time | None = None
    """When the job completed or failed; `spec.ttlSecondsAfterFinished` counts from it."""
    iteration: int = Field(default=0, ge=0)
    """Complete iterations."""
    generation: int = Field(default=0, ge=0)
    """Version of the published weights."""
    epoch: int = Field(default=0, ge=0)
    """Number of phase changes so far."""
    reward: RewardStatus | None = None
    """Reward of the last complete iteration."""
    evaluations: tuple[EvaluationStatus, ...] = Field(default=(), max_length=MAX_EVALUATIONS)
    """The last evaluation of each held-out set."""
    tokens_per_second: float | None = None
    """Sampled tokens over the last Infer phase's duration."""
    hybrid: Readiness | None = None
    """Hybrid pods."""
    elastic: ElasticReadiness | None = None
    """Rollout-only pods."""
    attempt: int = Field(default=0, ge=0)
    """Number of the present gang: all its pods carry it, and each restart of the gang and each suspension adds 1."""
    restarts: int = Field(default=0, ge=0)
    """Restarts so far, of containers, pods and gangs together; `spec.failurePolicy.maxRestarts` bounds them."""
    handled_failures: tuple[Word, ...] = Field(default=(), max_length=MAX_HANDLED_FAILURES)
    """Failures that were answered and can be seen still, so that none is answered twice."""
    switches: tuple[SwitchSummary, ...] = Field(default=(), max_length=MAX_SWITCHES)
    """The last ten switches, newest first."""
    switch_seconds_median: float | None = Field(default=None, ge=0)
    """Median duration of `switches`, in seconds."""
