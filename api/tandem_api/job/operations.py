"""How a job is switched, kept and bounded in time."""

from enum import StrEnum

from pydantic import Field

from tandem_api.job.text import Label, ObjectName, QualifiedName
from tandem_api.resource import Resource

MAX_SECONDS = 10 * 366 * 86_400
"""Longest span of time in a job: ten years."""


class SwitchStrategy(StrEnum):
    """What happens to the server between two Infer phases."""

    RESTART = "Restart"
    """Killed and forked again from the zygote: frees everything, the report's way (section 2.6.3)."""
    SLEEP = "Sleep"
    """Put to sleep (vLLM's level 2: weights and KV cache are dropped), woken and updated in place. CUDA only: for
    engines whose start, with graphs and communicators, takes longer than that."""
    RESIDENT = "Resident"
    """Stays, paused, while the trainer trains; weights are updated in place. For CPUs, or devices with room for
    both."""


class SwitchSpec(Resource):
    """The change between training and inference."""

    strategy: SwitchStrategy = SwitchStrategy.RESTART
    """What happens to the server between two Infer phases."""
    train_to_infer_deadline_seconds: float = Field(default=300.0, gt=0, le=MAX_SECONDS)
    """Time in which all pods must serve the new generation; then the job fails and names who is missing."""
    infer_to_train_deadline_seconds: float = Field(default=120.0, gt=0, le=MAX_SECONDS)
    """Time in which all trainers must hold the devices again; then the job fails and names who is missing."""
    max_logprob_difference: float | None = Field(default=None, gt=0)
    """Largest difference, in nats, between the log-probability of a sampled token as vLLM gave it and as the trainer
    computes it with the same generation; more stops the job before it trains on a broken hand-over.
    Absent: 1e-4 with Float32, 1.0 with BFloat16, 5.0 where the policy is served in FP8."""


class EvaluationMetric(StrEnum):
    """What a held-out set says of a policy."""

    PASS_1 = "Pass1"
    """pass@1: the share of samples with full marks."""
    PASS_K = "PassK"
    """pass@k for k = samplesPerProblem: the share of problems that one of k samples solves."""
    MEAN_REWARD = "MeanReward"
    """Mean reward of the samples, without the length reward."""


class BestSpec(Resource):
    """Which policy is the best."""

    evaluation: Label | None = None
    """Name of the set in `spec.data.evaluation` that decides; absent: the first one."""
    metric: EvaluationMetric = EvaluationMetric.PASS_1
    """What of it: the largest wins, of equal ones the earliest."""


class CheckpointsSpec(Resource):
    """Durable state of the job: replay buffer, metrics, checkpoints, final policy."""

    claim_name: ObjectName | None = None
    """PersistentVolumeClaim, mounted in the master and in all trainers; `tandem up` uses the run folder."""
    every_iterations: int = Field(default=10, ge=1, le=1_000_000)
    """Iterations between two checkpoints, which are written while the job goes on; a stop writes one in any case."""
    keep_last: int = Field(default=3, ge=1, le=1_000)
    """Newest checkpoints kept; older ones are removed after a newer one is complete."""
    keep_every: int = Field(default=0, ge=0, le=1_000_000)
    """Iterations between two checkpoints that are kept for good: the first one at or after each multiple. 0: none."""
    keep_best: BestSpec | None = None
    """Keep the checkpoint of the policy that did best on held-out problems, under `checkpoints/best`, until a better
    one comes. Each generation that the set measures gets a checkpoint. The initial policy never counts as the best: it
    is where it came from. Absent: none is kept for that."""


class Tracker(StrEnum):
    """Who else gets the numbers of a run, beside `metrics.jsonl`: files in the state folder, no server."""

    TENSOR_BOARD = "TensorBoard"
    """Event files in `tensorboard/`."""
    MLFLOW = "MLflow"
    """An experiment named after the job, in MLflow's file store in `mlruns/`."""


class GangProvider(StrEnum):
    """Who sees to it that the pods of a job are placed all or none."""

    NONE = "None"
    """Nobody: pods that fit are placed and wait for the others."""
    NATIVE = "Native"
    """Kubernetes' own scheduler, by a PodGroup (scheduling.k8s.io; alpha in 1.36, where it must be switched on)."""
    VOLCANO = "Volcano"
    """Volcano's scheduler, by its PodGroup."""


class SchedulingSpec(Resource):
    """Where the pods run and what they may displace."""

    gang: GangProvider = GangProvider.NONE
    """Who places all pods or none: master and hybrid pods; rollout-only pods come and go as they fit. A cluster that
    does not have it places them one by one, and an event says so."""
    queue_name: ObjectName | None = None
    """Queue that the job waits in for its turn: a LocalQueue of Kueue in the job's namespace; with gang Volcano a queue
    of Volcano. In a cluster without Kueue the job runs at once, and condition Admitted says so."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of all pods."""
    topology_key: QualifiedName | None = None
    """Node label, such as topology.kubernetes.io/rack: hybrid and rollout-only pods prefer nodes with one value of it,
    since weights pass between them. Absent: anywhere."""
