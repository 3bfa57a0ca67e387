"""What is trained, on what, and how an answer is scored."""

from collections.abc import Sequence
from enum import StrEnum

from pydantic import Field, field_validator

from tandem_api.resource import Resource


def refuse_repeated_names(names: Sequence[str]) -> None:
    """Raise ValueError where a list by name holds one name twice."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"the name {repeated[0]} is used twice; give each its own")


class Dtype(StrEnum):
    """Number format of the policy's weights on the device."""

    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"


class ModelSource(Resource):
    """Where the initial policy comes from."""

    path: str = Field(min_length=1)
    """Folder in Hugging Face format (config.json, safetensors, tokenizer.json), as the containers see it.
    `tandem up` resolves a relative path against the folder of the RLJob file."""


class PolicySpec(Resource):
    """The one policy that is trained and served in turns."""

    model: ModelSource
    """The initial weights, configuration and tokenizer."""
    dtype: Dtype = Dtype.BFLOAT16
    """Number format of weights and activations. vLLM on a CPU wants Float32."""
    max_length_tokens: int = Field(default=131072, ge=2)
    """Longest trajectory, prompt and response together, in tokens (the report trains up to 128k, section 2.3).
    More than the policy's max_position_embeddings is cut to it."""


class ProblemSet(Resource):
    """One file of problems."""

    name: str = Field(min_length=1, max_length=63)
    """Name in metrics; unique in its list."""
    path: str = Field(min_length=1)
    """JSON lines with `prompt`, `answer` and optionally `id` and `difficulty`."""
    weight: float = Field(default=1.0, gt=0)
    """Relative share of this set among the sampled problems."""


class DataSpec(Resource):
    """The problems."""

    train: tuple[ProblemSet, ...] = Field(min_length=1)
    """Problem sets that are sampled for training."""

    @field_validator("train")
    @classmethod
    def _names_are_unique(cls, train: tuple[ProblemSet, ...]) -> tuple[ProblemSet, ...]:
        refuse_repeated_names([problems.name for problems in train])
        return train


class BuiltinReward(StrEnum):
    """Reward rules that ship with the master."""

    EXACT_MATCH = "ExactMatch"
    """1 if the decoded response without surrounding white space equals the answer, else 0 (report, section 2.3.1)."""


class RewardSpec(Resource):
    """One term of the reward; the terms are added by weight."""

    name: str = Field(min_length=1, max_length=63)
    """Name in metrics; unique in its list."""
    builtin: BuiltinReward
    """The rule that scores a response."""
    weight: float = 1.0
    """Factor of this term in the sum."""
