"""The ranks of a pod: where each stands in the trainer's split, and its number among all ranks of the job.

Megatron numbers ranks by stage first and gives each stage consecutive numbers. Where the ranks of a pod can hold whole
models, they do, and are numbered by stage too: those of its first stage follow those of the pod before. Else a model
spans pods, and ranks are numbered pod by pod: ranks that share matrices are neighbours, so stages lie farthest apart.
"""

from dataclasses import dataclass, replace

from tandem_api.job.pods import TrainerParallelism
from tandem_checkpoint.layouts.place import TrainerPlace, TrainerSplit


@dataclass(frozen=True, slots=True)
class PodRanks:
    """The ranks of one pod of several alike."""

    split: TrainerSplit
    num_ranks: int
    """Ranks of this pod; the split's sizes divide those of all pods."""
    num_pods: int = 1
    ordinal: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether the ranks of each pod hold all of the model by themselves."""
        split = self.split
        return not (
            self.num_ranks % (split.tensor * split.pipeline * split.context)
            or self.num_ranks % (split.expert_tensor * split.expert * split.pipeline)
        )

    def place(self, local_rank: int) -> TrainerPlace:
        """Return one rank's coordinates."""
        stage, inner = divmod(self.number(local_rank), self._per_stage)
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

    def pods(self) -> "tuple[PodRanks, ...]":
        """Return the ranks of each pod of the job, by ordinal."""
        return tuple(replace(self, ordinal=ordinal) for ordinal in range(self.num_pods))

    def number(self, local_rank: int) -> int:
        """Return a rank's number among all ranks of the job."""
        if not self.is_whole:
            return self.ordinal * self.num_ranks + local_rank
        per_stage = self.num_ranks // self.split.pipeline
        stage, inner = divmod(local_rank, per_stage)
        return (stage * self.num_pods + self.ordinal) * per_stage + inner

    @property
    def shares(self) -> tuple[int, ...]:
        """Numbers of the shares of a batch that the ranks of this pod are given; those of others may have them too."""
        return tuple(sorted({self._replica(local_rank) for local_rank in range(self.num_ranks)}))

    @property
    def num_shares(self) -> int:
        return len(self.shares)

    def share(self, local_rank: int) -> int:
        """Return which of the pod's shares of a batch a rank is given: ranks that hold a model together have one."""
        return self.shares.index(self._replica(local_rank))

    def _replica(self, local_rank: int) -> int:
        """Return a rank's number among the data-parallel ranks of its stage."""
        return self.number(local_rank) % self._per_stage // (self.split.tensor * self.split.context)

    @property
    def _per_stage(self) -> int:
        """Ranks of the job that hold a stage."""
        return self.num_pods * self.num_ranks // self.split.pipeline


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
