"""What is compared: a policy of each family that all splits divide, and all splits over at most four ranks."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from tandem_api.job.pods import TrainerParallelism
from tests.families.policies import FAMILIES, MIXTURES

MOST_RANKS = 4
SERVER_SPLITS = (1, 2)
"""Tensor-parallel ranks of a server."""
STAGES: tuple[Mapping[str, int], ...] = (
    {},
    {"pipeline": 2},
    {"pipeline": 2, "first_stage_layers": 1},
    {"pipeline": 2, "last_stage_layers": 1},
)
_SHARED: Mapping[str, Any] = {"num_hidden_layers": 4, "num_key_value_heads": 4, "vocab_size": 65}
_GROUPED: Mapping[str, Any] = {**_SHARED, "num_attention_heads": 8}
SIZES: Mapping[str, Mapping[str, Any]] = {
    "llama": {**_GROUPED, "hidden_size": 256},
    "qwen2": {**_GROUPED, "hidden_size": 256},
    "qwen3": _GROUPED,
    "mixtral": {**_GROUPED, "hidden_size": 256},
    "qwen3_moe": _GROUPED,
    "deepseek_v3": _SHARED,
}
"""Sizes other than those of the families' smallest policies: heads for four tensor ranks, layers for uneven stages, and
a vocabulary that has rows of padding wherever it is cut."""


@dataclass(frozen=True, slots=True)
class Case:
    """One family in one split of its trainer; what remains of the ranks is data parallel."""

    family: str
    num_ranks: int
    parallelism: TrainerParallelism

    @property
    def name(self) -> str:
        split = self.parallelism.model_dump(exclude_defaults=True)
        words = [f"{name.replace('_', ' ')} {value}" for name, value in split.items()]
        return ", ".join([*words, *([f"data {self.num_data}"] if self.num_data > 1 else [])]) or "one rank"

    @property
    def num_data(self) -> int:
        return self.num_ranks // self.parallelism.ranks_of_replica


def cases_of(family: str) -> Iterator[Case]:
    """Yield a family's cases: tensor 1, 2 and 4; one stage, two even or uneven ones; data 1 and 2; and with experts,
    expert and expert-tensor 1 and 2 wherever they fit."""
    for stages, num_data, num_tensor in product(STAGES, (1, 2), (1, 2, 4)):
        per_stage = num_tensor * num_data
        num_ranks = per_stage * stages.get("pipeline", 1)
        if num_ranks <= MOST_RANKS:
            for expert, expert_tensor in _expert_splits(family, per_stage):
                split = TrainerParallelism(tensor=num_tensor, expert=expert, expert_tensor=expert_tensor, **stages)
                yield Case(family, num_ranks, split)


def _expert_splits(family: str, per_stage: int) -> Iterator[tuple[int, int]]:
    sizes = (1, 2) if family in MIXTURES else (1,)
    return ((expert, cut) for expert, cut in product(sizes, sizes) if per_stage % (expert * cut) == 0)


ALL = tuple(case for family in FAMILIES for case in cases_of(family))
