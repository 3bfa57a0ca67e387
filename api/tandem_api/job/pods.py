"""The pods of a job: who shares which devices, with which images and how split."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue
from pydantic_core import PydanticKnownError

from tandem_api.invariant import Guarded, Invariant
from tandem_api.job.text import Image, ObjectName, QualifiedName, Quantity, amount
from tandem_api.resource import Resource

DEVICE_CLASS = "gpu.nvidia.com"
GPU_RESOURCE = "nvidia.com/gpu"
"""Extended resource of NVIDIA's device plugin."""
MAX_DEVICES_PER_CLAIM = 32
"""An allocation of resource.k8s.io/v1 holds no more (AllocationResultsMaxSize)."""
MAX_PODS = 1024
"""Most pods of a kind: names append `-rollout-1023` and stay DNS labels."""
MAX_RESOURCES = 32
MAX_TOKENS = 1 << 30
MAX_ITERATIONS = 1_000_000


class GpuSharing(StrEnum):
    """How the two containers of a hybrid pod come to see the same devices."""

    DRA = "DRA"
    """One ResourceClaim of dynamic resource allocation, used by both containers."""
    VISIBLE_ALL = "VisibleAll"
    """The trainer requests the devices, the server sees all of the node's by environment."""
    NONE = "None"
    """No device is requested: a CPU run."""


Selector = Annotated[str, Field(min_length=1, max_length=4096)]


class GpuSpec(Guarded):
    """The devices of a pod."""

    sharing: GpuSharing = GpuSharing.DRA
    """Mechanism that gives both containers the same devices."""
    device_class_name: ObjectName = DEVICE_CLASS
    """DeviceClass of the claim; used with DRA only."""
    selectors: tuple[Selector, ...] = Field(default=(), max_length=16)
    """CEL expressions over a device that each allocated device must satisfy; used with DRA only."""

    invariants = (
        Invariant(
            field="selectors",
            cel="self.sharing == 'DRA' || self.selectors.size() == 0",
            holds=lambda gpu: gpu.sharing is GpuSharing.DRA or not gpu.selectors,
            message="select the devices of a claim, and only sharing DRA makes one; remove them or use DRA",
        ),
        Invariant(
            field="deviceClassName",
            cel=f"self.sharing == 'DRA' || self.deviceClassName == '{DEVICE_CLASS}'",
            holds=lambda gpu: gpu.sharing is GpuSharing.DRA or gpu.device_class_name == DEVICE_CLASS,
            message="is the class of a claim, and only sharing DRA makes one; remove it or use DRA",
        ),
    )


class RdmaSpec(Guarded):
    """Host channel adapters of a pod, for the transfer of weights between pods."""

    resource_name: QualifiedName = "rdma/hca"
    """Extended resource that the device plugin offers."""
    count: int = Field(default=1, ge=1, le=64)
    """Adapters that each trainer and each server container requests. It may then lock memory, which the adapters need
    to reach it."""
    host_network: bool = False
    """Run hybrid and rollout-only pods in their nodes' network, where the adapters are to be seen: then one a node."""
    network: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Secondary network of hybrid and rollout-only pods: the value of their annotation k8s.v1.cni.cncf.io/networks."""

    invariants = (
        Invariant(
            field="network",
            cel="!self.hostNetwork || !has(self.network)",
            holds=lambda rdma: not (rdma.host_network and rdma.network),
            message="is not there for a pod in its node's network; remove it or set hostNetwork: false",
        ),
    )


class ResourceRequirements(Guarded):
    """Kubernetes resource requests and limits of one container."""

    requests: dict[str, Quantity] = Field(default={}, max_length=MAX_RESOURCES)
    """Amounts the scheduler reserves."""
    limits: dict[str, Quantity] = Field(default={}, max_length=MAX_RESOURCES)
    """Amounts the container may not exceed."""

    invariants = (
        Invariant(
            field="requests",
            cel="self.requests.all(name, !(name in self.limits)"
            " || quantity(self.requests[name]).compareTo(quantity(self.limits[name])) <= 0)",
            holds=lambda resources: all(
                amount(text) <= amount(resources.limits.get(name, text)) for name, text in resources.requests.items()
            ),
            message="are more than limits for one name; lower the request or raise the limit",
        ),
    )

    @property
    def names(self) -> frozenset[str]:
        """The resources that are requested or limited."""
        return frozenset((*self.requests, *self.limits))


class HybridSpec(Guarded):
    """Pods in which the trainer and the server take turns on the same devices (report, section 2.6.3)."""

    replicas: int = Field(default=1, ge=1, le=MAX_PODS)
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

    invariants = (
        Invariant(
            field="gpusPerPod",
            cel=f"self.gpu.sharing != 'DRA' || self.gpusPerPod <= {MAX_DEVICES_PER_CLAIM}",
            holds=lambda hybrid: (
                hybrid.gpu.sharing is not GpuSharing.DRA or hybrid.gpus_per_pod <= MAX_DEVICES_PER_CLAIM
            ),
            message=f"is more than one ResourceClaim holds; use at most {MAX_DEVICES_PER_CLAIM}, or sharing VisibleAll",
        ),
        Invariant(
            field="rdma",
            cel="self.gpu.sharing != 'None' || !has(self.rdma)",
            holds=lambda hybrid: hybrid.gpu.sharing is not GpuSharing.NONE or hybrid.rdma is None,
            message="moves the weights of GPUs, and gpu.sharing None has none; remove it, or use DRA or VisibleAll",
        ),
    )

    @property
    def num_ranks(self) -> int:
        """Trainer ranks of the job."""
        return self.replicas * self.gpus_per_pod


class TrainerParallelism(Guarded):
    """Split of the trainer, in Megatron-Core's words; what remains of the ranks of all pods is data parallel. Where the
    ranks of a pod can hold the whole model, they do; else a model spans pods."""

    tensor: int = Field(default=1, ge=1, le=64)
    """Ranks that share each layer's matrices. The policy's heads must divide by it."""
    pipeline: int = Field(default=1, ge=1, le=64)
    """Stages that share the layers."""
    virtual_pipeline: int = Field(default=1, ge=1, le=64)
    """Chunks of layers on each stage: more of them shorten the wait for the first micro-batch."""
    context: int = Field(default=1, ge=1, le=64)
    """Ranks that share each sequence. Needs the attention of Transformer Engine, which this release does not use."""
    expert: int = Field(default=1, ge=1, le=64)
    """Ranks that share the experts of each layer, whole ones each. They train on different samples."""
    expert_tensor: int = Field(default=1, ge=1, le=64)
    """Ranks that share each expert's matrices."""
    first_stage_layers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Layers of the first stage where stages are uneven; the other stages share the rest evenly."""
    last_stage_layers: Annotated[int, Field(ge=1, le=1024)] | None = None
    """Layers of the last stage, likewise."""

    invariants = (
        Invariant(
            field="context",
            cel="self.context == 1",
            holds=lambda split: split.context == 1,
            message="needs the attention of Transformer Engine, which this release does not use; set 1, and cut long "
            "sequences' memory by tensor",
        ),
        Invariant(
            field="virtualPipeline",
            cel="self.virtualPipeline == 1 || self.pipeline > 1",
            holds=lambda split: split.virtual_pipeline == 1 or split.pipeline > 1,
            message="are the chunks of a stage, and there is one stage only; remove it or raise pipeline",
        ),
        Invariant(
            field="firstStageLayers",
            cel="!has(self.firstStageLayers) || self.pipeline > 1",
            holds=lambda split: split.first_stage_layers is None or split.pipeline > 1,
            message="makes stages uneven, and there is one stage only; remove it or raise pipeline",
        ),
        Invariant(
            field="lastStageLayers",
            cel="!has(self.lastStageLayers) || self.pipeline > 1",
            holds=lambda split: split.last_stage_layers is None or split.pipeline > 1,
            message="makes stages uneven, and there is one stage only; remove it or raise pipeline",
        ),
    )

    @property
    def is_whole(self) -> bool:
        """Whether each rank holds all weights."""
        return self.tensor * self.pipeline * self.expert * self.expert_tensor == 1

    @property
    def ranks_of_replica(self) -> int:
        """Ranks that hold the model together and are given the same samples."""
        return self.tensor * self.pipeline * self.context


class Schedule(StrEnum):
    """Course of the learning rate over a run, after its warm-up."""

    CONSTANT = "Constant"
    """The learning rate itself, to the end."""
    LINEAR = "Linear"
    """Down to `endShare` of it in a straight line."""
    COSINE = "Cosine"
    """Down to `endShare` of it by half a cosine (arXiv:1608.03983): slowly at first and at the end."""


Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSpec(Guarded):
    """Adam with decoupled weight decay, as Megatron-Core builds it."""

    learning_rate: float = Field(default=1.0e-6, gt=0, le=1)
    """Step size. With the optimizer reset each iteration the first steps are sign-like: choose about a tenth of
    what an optimizer with memory takes (the report names no figure)."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Decay of the first and second moment."""
    epsilon: float = Field(default=1.0e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of the weight matrices, a factor of the learning rate. Norms and biases do not decay."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient; a larger one is scaled down."""
    schedule: Schedule = Schedule.CONSTANT
    """Course of the learning rate over `spec.recipe.iterations`; within an iteration it goes on step by step."""
    warmup_iterations: int = Field(default=0, ge=0, le=MAX_ITERATIONS)
    """Iterations at the start over which the learning rate rises in a straight line; the last step of them has all of
    it. Less than `spec.recipe.iterations`. Adam's first steps after each reset stay sign-like at any time: the warm-up
    is of the run, not of the iteration."""
    end_share: float = Field(default=0.0, ge=0, le=1)
    """Linear and Cosine: what is left of the learning rate at the end of the last iteration, as a share of it."""

    invariants = (
        Invariant(
            field="endShare",
            cel="self.schedule != 'Constant' || self.endShare == 0.0",
            holds=lambda optimizer: optimizer.schedule is not Schedule.CONSTANT or optimizer.end_share == 0,
            message="is where a schedule ends, and schedule Constant has no end; remove it or use Linear or Cosine",
        ),
    )


class TrainerSpec(Resource):
    """The Megatron-Core container."""

    image: Image = "tandem/trainer:0.1"
    """Container image."""
    parallelism: TrainerParallelism = TrainerParallelism()
    """Split of the model over the ranks."""
    micro_batch_tokens: int = Field(default=16384, ge=1, le=MAX_TOKENS)
    """Most tokens that one rank passes forward and backward at once: samples lie end to end in rows of so many, without
    padding. A longer sample is a row of its own."""
    optimizer: OptimizerSpec = OptimizerSpec()
    """The optimizer and its numbers."""


def _integer(value: object) -> object:
    """Return an integer as it is; a choice of integers would take true for 1."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise PydanticKnownError("int_type")
    return value


ServerSplit = Literal[1, 2, 4, 8]
"""Devices that one server may take."""


class RolloutParallelism(Resource):
    """Split of one server."""

    tensor: Annotated[ServerSplit, BeforeValidator(_integer)] = 1
    """Devices that share each layer's matrices. The policy's heads must divide by it."""
    pipeline: int = Field(default=1, ge=1, le=64)
    """Stages that share the layers, each on `tensor` devices."""

    @property
    def num_devices(self) -> int:
        """Devices of one server."""
        return self.tensor * self.pipeline


class ElasticSpec(Guarded):
    """Rollout-only pods, which join and leave while the job runs."""

    replicas: int = Field(default=0, ge=0, le=MAX_PODS)
    """Number of rollout-only pods; `kubectl scale` writes it."""
    min_replicas: int = Field(default=0, ge=0, le=MAX_PODS)
    """Fewest that `replicas` may be set to."""
    max_replicas: int = Field(default=MAX_PODS, ge=0, le=MAX_PODS)
    """Most that `replicas` may be set to."""
    gpus_per_pod: int = Field(default=8, ge=1, le=64)
    """Devices a pod."""

    invariants = (
        Invariant(
            field="minReplicas",
            cel="self.minReplicas <= self.maxReplicas",
            holds=lambda elastic: elastic.min_replicas <= elastic.max_replicas,
            message="is more than maxReplicas; lower it or raise maxReplicas",
        ),
        Invariant(
            field="replicas",
            cel="self.replicas >= self.minReplicas || self.minReplicas > self.maxReplicas",
            holds=lambda elastic: (
                elastic.replicas >= elastic.min_replicas or elastic.min_replicas > elastic.max_replicas
            ),
            message="is less than minReplicas; raise it or lower minReplicas",
        ),
        Invariant(
            field="replicas",
            cel="self.replicas <= self.maxReplicas || self.minReplicas > self.maxReplicas",
            holds=lambda elastic: (
                elastic.replicas <= elastic.max_replicas or elastic.min_replicas > elastic.max_replicas
            ),
            message="is more than maxReplicas; lower it or raise maxReplicas",
        ),
    )


class RolloutSpec(Resource):
    """The vLLM container."""

    image: Image = "tandem/rollout:0.1"
    """Container image."""
    parallelism: RolloutParallelism = RolloutParallelism()
    """Split of one server; `gpusPerPod / (tensor * pipeline)` servers run in a pod."""
    engine_args: dict[str, JsonValue] = Field(default={}, max_length=128)
    """vLLM's own engine arguments by their Python names, passed on as they are."""
    deterministic: bool = False
    """A job that is killed and resumed samples, trains and ends bit for bit as one that was not: a server works on one
    sequence at a time and keeps no prefix cache, whatever engineArgs say, and every response is a request with a seed
    of its own, of which all counts or nothing. Many times slower: for tests, and to look into a difference."""
    resources: ResourceRequirements = ResourceRequirements()
    """Requests and limits of the server container."""
    elastic: ElasticSpec = ElasticSpec()
    """Rollout-only pods beside the hybrid ones."""
