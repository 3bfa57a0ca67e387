"""The RLJob: what a user applies."""

from typing import Any, Final, Literal

from pydantic import Field, JsonValue, field_validator, model_validator
from pydantic.config import JsonDict

from tandem_api.invariant import Guarded
from tandem_api.job.failure import FailurePolicySpec
from tandem_api.job.immutability import spec_transitions
from tandem_api.job.operations import MAX_SECONDS, CheckpointsSpec, SchedulingSpec, SwitchSpec, Tracker
from tandem_api.job.pods import HybridSpec, RolloutSpec, TrainerSpec
from tandem_api.job.policy import DataSpec, PolicySpec, refuse_repeated_names
from tandem_api.job.recipe import RecipeSpec
from tandem_api.job.relations import SPEC_INVARIANTS
from tandem_api.job.rewards import RewardSpec
from tandem_api.job.status import RLJobStatus
from tandem_api.job.tls import TlsSpec
from tandem_api.resource import Resource

API_VERSION: Final = "tandem.dev/v1alpha1"
NAME_PATTERN = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"
"""A job's Service has the job's name, and a Service's name begins with a letter (RFC 1035)."""
NAMESPACE_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
NAME_LENGTH = 50
"""Longest job name: pod names append `-rollout-1023` and stay DNS labels of 63 characters."""
POD_TEMPLATE_PARTS: Final[JsonDict] = {
    "properties": {
        "metadata": {"description": "Labels and annotations."},
        "spec": {"description": "Fields of a PodSpec."},
    }
}
"""Named for the API server: of fields that its schema does not name it sees no exchange of one for another."""


class RLJobSpec(Guarded):
    """Desired state of a reinforcement-learning job."""

    policy: PolicySpec
    """What is trained."""
    data: DataSpec
    """What it is trained on."""
    rewards: tuple[RewardSpec, ...] = Field(min_length=1, max_length=32)
    """How a response is scored; terms are added by weight."""
    hybrid: HybridSpec = HybridSpec()
    """Pods in which trainer and server take turns."""
    trainer: TrainerSpec = TrainerSpec()
    """The Megatron-Core side."""
    rollout: RolloutSpec = RolloutSpec()
    """The vLLM side."""
    recipe: RecipeSpec = RecipeSpec()
    """The loop's numbers."""
    switch: SwitchSpec = SwitchSpec()
    """The change between phases."""
    checkpoints: CheckpointsSpec = CheckpointsSpec()
    """Durable state."""
    trackers: tuple[Tracker, ...] = Field(default=(Tracker.TENSOR_BOARD,), max_length=8)
    """Who else gets the numbers of each iteration, switch and evaluation; `[]`: nobody."""
    tls: TlsSpec = TlsSpec()
    """How the pods speak to each other."""
    failure_policy: FailurePolicySpec = FailurePolicySpec()
    """What is done about containers and pods that fail."""
    scheduling: SchedulingSpec = SchedulingSpec()
    """Where the pods run."""
    suspend: bool = False
    """Stop the job and delete its pods, but keep its state; false lets it go on from its last checkpoint. The state
    outlives the pods only on the volume of `spec.checkpoints.claimName`, or one that `spec.podTemplate` mounts."""
    active_deadline_seconds: int | None = Field(default=None, ge=1, le=MAX_SECONDS)
    """Seconds from `status.startTime` after which an unfinished job fails; absent means never."""
    ttl_seconds_after_finished: int = Field(default=604_800, ge=0, le=MAX_SECONDS)
    """Seconds from `status.completionTime` after which the job is deleted with all its objects; volumes claimed by
    `spec.checkpoints` stay."""
    pod_template: dict[str, JsonValue] = Field(default={}, max_length=2, json_schema_extra=POD_TEMPLATE_PARTS)
    """Part of a PodTemplate (`metadata`, `spec`) that is merged into every pod: maps by key, containers, volumes and
    environment variables by name, other lists replaced."""

    invariants = SPEC_INVARIANTS
    transitions = spec_transitions()

    @field_validator("rewards")
    @classmethod
    def _names_are_unique(cls, rewards: tuple[RewardSpec, ...]) -> tuple[RewardSpec, ...]:
        refuse_repeated_names([term.name for term in rewards])
        return rewards


class Metadata(Resource):
    """The part of Kubernetes object metadata that Tandem reads."""

    name: str = Field(pattern=NAME_PATTERN, max_length=NAME_LENGTH)
    """Name of the job; its pods and keys are named after it."""
    namespace: str = Field(default="default", pattern=NAMESPACE_PATTERN, max_length=63)
    """Namespace of the job and of all its children."""
    uid: str | None = None
    """Identity given by the API server; owner references need it."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the job."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations of the job."""

    @model_validator(mode="before")
    @classmethod
    def _drop_server_fields(cls, value: Any) -> Any:
        """Ignore what an API server adds (resourceVersion, managedFields, …): metadata is its schema, not ours."""
        if not isinstance(value, dict):
            return value
        return {key: item for key, item in value.items() if key in cls.model_fields}


class RLJob(Resource):
    """One reinforcement-learning job (kind RLJob, short name rlj)."""

    api_version: Literal["tandem.dev/v1alpha1"] = API_VERSION
    """Group and version."""
    kind: Literal["RLJob"] = "RLJob"
    """Kind."""
    metadata: Metadata
    """Name, namespace and labels."""
    spec: RLJobSpec
    """Desired state."""
    status: RLJobStatus | None = None
    """Observed state, written by the operator."""
