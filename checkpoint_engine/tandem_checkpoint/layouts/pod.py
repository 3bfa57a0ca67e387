"""The ranks of a pod: where each stands in the trainer's split, and its number among all ranks of the job.

Groups that share a model stay within a pod. Megatron numbers ranks by stage first and gives each stage consecutive
numbers, so a pod's ranks are numbered by stage too: those of its first stage follow those of the pod before.
"""

from dataclasses import dataclass

from tandem_api.job.pods import TrainerParallelism
from tandem_checkpoint.layouts.place import TrainerPlace, TrainerSplit


@dataclass(frozen=True, slots=True)
class PodRanks:
    """The ranks of one pod of several alike."""

    split: TrainerSplit
    num_ranks: int
    """Ranks of this pod; the split's sizes divide them."""
    num_pods: int = 1
    ordinal: int = 0

    def place(self, local_rank: int) -> TrainerPlace:
        """Return one rank's coordinates."""
        stage, inner = divmod(local_rank, self._per_stage)
        return TrainerPlace(
            split=self.split,
            tensor=inner % self.split.tensor,
            pipeline=stage,
            expert=inner // self.split.expert_tensor % self.split.expert,
            expert_tensor=inner % self.split.expert_tensor,
        )

    def places(self) -> tuple[TrainerPlace, ...]:
        """Return the coordinates of all ranks of a pod, by local rank."""
        return tuple(self.place(local_rank) for local_rank in range(self.num_ranks))

    def number(self, local_rank: int) -> int:
        """Return a rank's number among all ranks of the job."""
        stage, inner = divmod(local_rank, self._per_stage)
        return (stage * self.num_pods + self.ordinal) * self._per_stage + inner

    def share(self, local_rank: int) -> int:
        """Return which of the pod's shares of a batch a rank is given: ranks that hold a model together have one."""
        return local_rank % self._per_stage // (self.split.tensor * self.split.context)

    @property
    def num_shares(self) -> int:
        """Data-parallel ranks of the pod."""
        return self._per_stage // (self.split.tensor * self.split.context)

    @property
    def _per_stage(self) -> int:
        return self.num_ranks // self.split.pipeline


def split_of(parallelism: TrainerParallelism) -> TrainerSplit:
    """Return the split that a job asks for."""
    return TrainerSplit(
        tensor=parallelism.tensor,
        pipeline=parallelism.pipeline,
        virtual_pipeline=parallelism.virtual_pipeline,
        context=parallelism.context,
        expert=parallelism.expert,
        expert_tensor=parallelism.expert_tensor,
        first_stage_layers=parallelism.first_stage_layers,
        last_stage_layers=parallelism.last_stage_layers,
    )
