"""The pods of a job: who shares which devices, with which images and how split."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field, JsonValue

from tandem_api.resource import Resource

QUANTITY = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti|P|Pi)?$"
Quantity = Annotated[str, Field(pattern=QUANTITY)]


class GpuSharing(StrEnum):
    """How the two containers of a hybrid pod come to see the same devices."""

    DRA = "DRA"
    """One ResourceClaim of dynamic resource allocation, used by both containers."""
    VISIBLE_ALL = "VisibleAll"
    """The trainer requests the devices, the server sees all of the node's by environment."""
    NONE = "None"
    """No device is requested: a CPU run."""


class GpuSpec(Resource):
    """The devices of a pod."""

    sharing: GpuSharing = GpuSharing.DRA
    """Mechanism that gives both containers the same devices."""
    device_class_name: str = "gpu.nvidia.com"
    """DeviceClass of the claim; used with DRA only."""
    selectors: tuple[str, ...] = ()
    """CEL expressions over a device that each allocated device must satisfy; used with DRA only."""


class RdmaSpec(Resource):
    """Host channel adapters of a pod, for the transfer of weights between pods."""

    resource_name: str = "rdma/hca"
    """Extended resource that the device plugin offers."""
    count: int = Field(default=1, ge=1)
    """Adapters a pod."""


class ResourceRequirements(Resource):
    """Kubernetes resource requests and limits of one container."""

    requests: dict[str, Quantity] = Field(default_factory=dict)
    """Amounts the scheduler reserves."""
    limits: dict[str, Quantity] = Field(default_factory=dict)
    """Amounts the container may not exceed."""


class HybridSpec(Resource):
    """Pods in which the trainer and the server take turns on the same devices (report, section 2.6.3)."""

    replicas: int = Field(default=1, ge=1, le=1024)
    """Number of hybrid pods."""
    gpus_per_pod: int = Field(default=8, ge=1, le=64)
    """Devices a pod: as many trainer ranks run in it. With sharing None they are CPU processes."""
    gpu: GpuSpec = GpuSpec()
    """How the devices are requested and shared."""
    shared_memory: Quantity | None = None
    """Size of the in-memory volume that holds both weight segments of a pod; worked out from the policy when absent."""
    rdma: RdmaSpec | None = None
    """RDMA adapters; absent means that weights cross pods by TCP."""
    resources: ResourceRequirements = ResourceRequirements()
    """Requests and limits of the trainer container; the server container lives on the same devices."""


class TrainerParallelism(Resource):
    """Split of the trainer; what remains of the ranks is data parallel."""

    tensor: int = Field(default=1, ge=1, le=1)
    """Ranks that share each layer's matrices. This release trains with data parallelism only."""
    pipeline: int = Field(default=1, ge=1, le=1)
    """Stages that share the layers. This release trains with data parallelism only."""


class Schedule(StrEnum):
    """Course of the learning rate over a run."""

    CONSTANT = "Constant"


class OptimizerSpec(Resource):
    """Adam with decoupled weight decay, as Megatron-Core builds it."""

    learning_rate: float = Field(default=1.0e-6, gt=0)
    """Step size. With the optimizer reset each iteration the first steps are sign-like: choose about a tenth of
    what an optimizer with memory takes (the report names no figure)."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Decay of the first and second moment."""
    epsilon: float = Field(default=1.0e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of the weight matrices, a factor of the learning rate."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient; a larger one is scaled down."""
    schedule: Schedule = Schedule.CONSTANT
    """Course of the learning rate."""


class TrainerSpec(Resource):
    """The Megatron-Core container."""

    image: str = "tandem/trainer:0.1"
    """Container image."""
    parallelism: TrainerParallelism = TrainerParallelism()
    """Split of the model over the ranks."""
    micro_batch_tokens: int = Field(default=16384, ge=1)
    """Most tokens, padding included, that one rank passes forward and backward at once."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer and its numbers."""


class RolloutParallelism(Resource):
    """Split of one server."""

    tensor: int = Field(default=1, ge=1, le=1)
    """Devices that share each layer's matrices. This release serves with one device a server."""


class ElasticSpec(Resource):
    """Rollout-only pods, which join and leave while the job runs."""

    replicas: int = Field(default=0, ge=0, le=1024)
    """Number of rollout-only pods; `kubectl scale` writes it."""
    gpus_per_pod: int = Field(default=8, ge=1, le=64)
    """Devices a pod."""


class RolloutSpec(Resource):
    """The vLLM container."""

    image: str = "tandem/rollout:0.1"
    """Container image."""
    parallelism: RolloutParallelism = RolloutParallelism()
    """Split of one server; as many servers run in a pod as its devices hold."""
    engine_args: dict[str, JsonValue] = Field(default_factory=dict)
    """vLLM's own engine arguments by their Python names, passed on as they are."""
    resources: ResourceRequirements = ResourceRequirements()
    """Requests and limits of the server container."""
    elastic: ElasticSpec = ElasticSpec()
    """Rollout-only pods beside the hybrid ones."""
