"""Relations between the sections of a spec; those within one section are beside its fields."""

from typing import Final

from tandem_api.invariant import Invariant
from tandem_api.job.operations import GangProvider
from tandem_api.job.pods import GPU_RESOURCE, MAX_DEVICES_PER_CLAIM, MAX_PODS, GpuSharing
from tandem_api.job.recipe import TOKEN_BUDGET

REWARDS: Final = Invariant(
    field="rewards",
    cel="self.rewards.exists(term, term.weight != 0.0)",
    holds=lambda spec: any(term.weight != 0 for term in spec.rewards),
    message="have weight 0, every one; give one of them another weight",
)
_SPLIT = "self.trainer.parallelism"
_RANKS = "self.hybrid.replicas * self.hybrid.gpusPerPod"
TRAINER_RANKS: Final = Invariant(
    field="hybrid.gpusPerPod",
    cel=f"{_RANKS} % ({_SPLIT}.tensor * {_SPLIT}.pipeline * {_SPLIT}.context) == 0",
    holds=lambda spec: spec.hybrid.num_ranks % spec.trainer.parallelism.ranks_of_replica == 0,
    message="times hybrid.replicas is no multiple of trainer.parallelism.tensor * pipeline * context; choose ones that "
    "are",
)
EXPERT_RANKS: Final = Invariant(
    field="hybrid.gpusPerPod",
    cel=f"{_RANKS} % ({_SPLIT}.expertTensor * {_SPLIT}.expert * {_SPLIT}.pipeline) == 0",
    holds=lambda spec: (
        spec.hybrid.num_ranks
        % (spec.trainer.parallelism.expert_tensor * spec.trainer.parallelism.expert * spec.trainer.parallelism.pipeline)
        == 0
    ),
    message="times hybrid.replicas is no multiple of trainer.parallelism.expertTensor * expert * pipeline; choose ones "
    "that are",
)
SERVERS: Final = Invariant(
    field="hybrid.gpusPerPod",
    cel="self.hybrid.gpusPerPod % (self.rollout.parallelism.tensor * self.rollout.parallelism.pipeline) == 0",
    holds=lambda spec: spec.hybrid.gpus_per_pod % spec.rollout.parallelism.num_devices == 0,
    message="is no multiple of rollout.parallelism.tensor * pipeline; choose one that is",
)
ELASTIC_SERVERS: Final = Invariant(
    field="rollout.elastic.gpusPerPod",
    cel="self.rollout.elastic.gpusPerPod % (self.rollout.parallelism.tensor * self.rollout.parallelism.pipeline) == 0",
    holds=lambda spec: spec.rollout.elastic.gpus_per_pod % spec.rollout.parallelism.num_devices == 0,
    message="is no multiple of rollout.parallelism.tensor * pipeline; choose one that is",
)
ELASTIC_CLAIM: Final = Invariant(
    field="rollout.elastic.gpusPerPod",
    cel=f"self.hybrid.gpu.sharing != 'DRA' || self.rollout.elastic.gpusPerPod <= {MAX_DEVICES_PER_CLAIM}",
    holds=lambda spec: (
        spec.hybrid.gpu.sharing is not GpuSharing.DRA or spec.rollout.elastic.gpus_per_pod <= MAX_DEVICES_PER_CLAIM
    ),
    message=f"is more than one ResourceClaim holds; use at most {MAX_DEVICES_PER_CLAIM}, or sharing VisibleAll",
)
TOKENS: Final = Invariant(
    field="recipe.partialRollout.tokenBudget",
    cel="self.recipe.partialRollout.tokenBudget <= self.policy.maxLengthTokens"
    f" || self.recipe.partialRollout.tokenBudget == {TOKEN_BUDGET}",
    holds=lambda spec: (
        spec.recipe.partial_rollout.token_budget <= spec.policy.max_length_tokens
        or spec.recipe.partial_rollout.token_budget == TOKEN_BUDGET
    ),
    message="is more than policy.maxLengthTokens; lower it or raise maxLengthTokens",
)
WARMUP: Final = Invariant(
    field="trainer.optimizer.warmupIterations",
    cel="self.trainer.optimizer.warmupIterations < self.recipe.iterations",
    holds=lambda spec: spec.trainer.optimizer.warmup_iterations < spec.recipe.iterations,
    message="is not less than recipe.iterations, so the learning rate never gets there; lower it or raise iterations",
)

_SETS = "self.data.evaluation"
_BEST = "self.checkpoints.keepBest"
BEST_SET: Final = Invariant(
    field="checkpoints.keepBest",
    cel=f"!has({_BEST}) || size({_SETS}) > 0",
    holds=lambda spec: spec.checkpoints.keep_best is None or bool(spec.data.evaluation),
    message="wants held-out problems to tell what is best; add a set to data.evaluation, or remove keepBest",
)
BEST_SET_NAME: Final = Invariant(
    field="checkpoints.keepBest.evaluation",
    cel=f"!has({_BEST}) || !has({_BEST}.evaluation) || size({_SETS}) == 0"
    f" || {_SETS}.exists(set, set.name == {_BEST}.evaluation)",
    holds=lambda spec: (
        spec.checkpoints.keep_best is None
        or spec.checkpoints.keep_best.evaluation is None
        or not spec.data.evaluation
        or any(item.name == spec.checkpoints.keep_best.evaluation for item in spec.data.evaluation)
    ),
    message="names no set of data.evaluation; use the name of one",
)


def _gpus(side: str) -> Invariant:
    """Return the relation that a container's own resources leave the devices to the operator."""
    resources = f"self.{side}.resources"
    return Invariant(
        field=f"{side}.resources",
        cel=f"!('{GPU_RESOURCE}' in {resources}.requests) && !('{GPU_RESOURCE}' in {resources}.limits)",
        holds=lambda spec: GPU_RESOURCE not in getattr(spec, side).resources.names,
        message=f"names {GPU_RESOURCE}, which gpusPerPod asks for; remove it there",
    )


def _adapters(side: str) -> Invariant:
    """Return the relation that a container's own resources leave the adapters to the operator."""
    resources, adapter = f"self.{side}.resources", "self.hybrid.rdma.resourceName"
    return Invariant(
        field=f"{side}.resources",
        cel=f"!has(self.hybrid.rdma) || !({adapter} in {resources}.requests) && !({adapter} in {resources}.limits)",
        holds=lambda spec: (
            spec.hybrid.rdma is None or spec.hybrid.rdma.resource_name not in getattr(spec, side).resources.names
        ),
        message="names the adapters that hybrid.rdma asks for; remove them there",
    )


QUEUE_ROOM: Final = Invariant(
    field="rollout.elastic.maxReplicas",
    cel="!has(self.scheduling.queueName) || self.scheduling.gang == 'Volcano' || self.rollout.elastic.replicas == 0"
    f" || self.rollout.elastic.maxReplicas < {MAX_PODS}",
    holds=lambda spec: (
        spec.scheduling.queue_name is None
        or spec.scheduling.gang is GangProvider.VOLCANO
        or spec.rollout.elastic.replicas == 0
        or spec.rollout.elastic.max_replicas < MAX_PODS
    ),
    message="is what scheduling.queueName reserves room for; set it to the most rollout-only pods there shall be",
)

_PARTIAL = "self.recipe.partialRollout"
DETERMINISM: Final = Invariant(
    field="rollout.deterministic",
    cel=f"!self.rollout.deterministic || (!has({_PARTIAL}.stopWhenCompleteShare) && !has({_PARTIAL}.deadlineSeconds))",
    holds=lambda spec: (
        not spec.rollout.deterministic
        or (
            spec.recipe.partial_rollout.stop_when_complete_share is None
            and spec.recipe.partial_rollout.deadline_seconds is None
        )
    ),
    message="is true, and recipe.partialRollout ends Infer phases by the clock; remove stopWhenCompleteShare and "
    "deadlineSeconds there",
)

SPEC_INVARIANTS: Final = (
    QUEUE_ROOM,
    REWARDS,
    TRAINER_RANKS,
    EXPERT_RANKS,
    SERVERS,
    ELASTIC_SERVERS,
    ELASTIC_CLAIM,
    TOKENS,
    DETERMINISM,
    WARMUP,
    BEST_SET,
    BEST_SET_NAME,
    _gpus("hybrid"),
    _gpus("rollout"),
    _adapters("hybrid"),
    _adapters("rollout"),
)
