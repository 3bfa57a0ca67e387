"""What is trained, on what, and how an answer is scored."""

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, field_validator

from tandem_api.invariant import Guarded, Invariant
from tandem_api.job.text import Commit, FilePath, Label, Repo
from tandem_api.resource import Resource

MAX_WEIGHT = 1.0e6
MAX_DEADLINE_SECONDS = 7 * 86_400.0


def refuse_repeated_names(names: Sequence[str]) -> None:
    """Raise ValueError where a list by name holds one name twice."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"the name {repeated[0]} is used twice; give each its own")


class Dtype(StrEnum):
    """Number format of the policy's weights on the device."""

    FLOAT32 = "Float32"
    BFLOAT16 = "BFloat16"


class HuggingFaceSource(Resource):
    """One commit of a Hugging Face repository, in a hub cache."""

    repo: Repo
    """Owner and name, such as Qwen/Qwen3-8B."""
    revision: Commit
    """Commit in full, so that every pod and every restart begins with the same weights."""
    cache_path: FilePath = "/models/hub"
    """The hub cache, as the containers see it."""

    @property
    def snapshot(self) -> str:
        """The folder of the commit, as huggingface_hub lays out its cache."""
        return f"{self.cache_path}/models--{self.repo.replace('/', '--')}/snapshots/{self.revision}"


class ModelSource(Guarded):
    """Where the initial policy comes from: a folder, or a commit in a hub cache."""

    given_path: FilePath | None = Field(default=None, alias="path")
    """Folder in Hugging Face format (config.json, safetensors, tokenizer.json), as the containers see it.
    `tandem up` resolves a relative path against the folder of the RLJob file."""
    hugging_face: HuggingFaceSource | None = None
    """A commit of a Hugging Face repository, in a hub cache that the containers see. Tandem downloads nothing: `hf
    download <repo> --revision <commit> --cache-dir <folder>` fills the cache, `spec.podTemplate` mounts it."""

    invariants = (
        Invariant(
            field="",
            cel="has(self.path) != has(self.huggingFace)",
            holds=lambda model: (model.given_path is None) != (model.hugging_face is None),
            message="wants exactly one of path and huggingFace; write one, remove the other",
        ),
    )

    if TYPE_CHECKING:  # pydantic takes a field by its alias too, which its plugin for mypy does not know

        def __init__(self, *, path: str | None = None, hugging_face: HuggingFaceSource | None = None) -> None: ...

    @property
    def path(self) -> str:
        """The folder of the initial policy as the containers see it, whichever way it is given."""
        if self.hugging_face is not None:
            return self.hugging_face.snapshot
        assert self.given_path is not None
        return self.given_path


class PolicySpec(Resource):
    """The one policy that is trained and served in turns."""

    model: ModelSource
    """The initial weights, configuration and tokenizer."""
    dtype: Dtype = Dtype.BFLOAT16
    """Number format of weights and activations. vLLM on a CPU wants Float32. Matrices are served and saved in FP8 with
    block scales where the policy's own quantization_config says so."""
    max_length_tokens: int = Field(default=131072, ge=2, le=1 << 30)
    """Longest trajectory, prompt and response together, in tokens (the report trains up to 128k, section 2.3).
    More than the policy's max_position_embeddings is cut to it."""


class ProblemFile(Resource):
    """One file of problems."""

    section: ClassVar[str] = "spec.data"
    """Field of the spec that lists such files, for messages."""

    name: Label
    """Name in metrics; unique in its list."""
    path: FilePath
    """JSON lines, or Parquet where it ends in `.parquet`: `prompt`, `answer` and optionally `id`, `difficulty` and
    `dataSource`; or `prompt`, `data_source` and `reward_model.ground_truth`, as verl and others write it. A prompt is a
    text, or a list of messages with `role` and `content`."""
    max_malformed_share: float = Field(default=0.0, ge=0, le=1)
    """Largest share of its lines that may be malformed: they are counted, named in the log and left out. More, and the
    job is refused."""


class ProblemSet(ProblemFile):
    """One file of problems to train on."""

    section: ClassVar[str] = "spec.data.train"
    weight: float = Field(default=1.0, gt=0, le=MAX_WEIGHT)
    """Relative share of this set among the sampled problems."""


class EvaluationSet(ProblemFile, Guarded):
    """One file of held-out problems: the policy is measured on them and never trained."""

    section: ClassVar[str] = "spec.data.evaluation"
    every_iterations: int = Field(default=10, ge=1, le=1_000_000)
    """Iterations between two evaluations. The initial policy (generation 0) and the final one are evaluated too."""
    samples_per_problem: int = Field(default=1, ge=1, le=1024)
    """n: responses sampled for each problem; pass@k is estimated for k = n, n/2, n/4, ... down to 1."""
    temperature: float | None = Field(default=None, ge=0, le=100)
    """Sampling temperature; 0: the likeliest token each time. Absent: `spec.recipe.temperature`."""
    max_problems: int | None = Field(default=None, ge=1, le=1_000_000)
    """Most problems that are asked, the first ones of the file; absent: all."""
    deadline_seconds: float = Field(default=3600.0, gt=0, le=MAX_DEADLINE_SECONDS)
    """Time for one evaluation of this set. One that is late is given up: it has no result, and the job goes on."""

    invariants = (
        Invariant(
            field="samplesPerProblem",
            cel="!has(self.temperature) || self.temperature > 0.0 || self.samplesPerProblem == 1",
            holds=lambda item: item.temperature is None or item.temperature > 0 or item.samples_per_problem == 1,
            message="samples would all be the same at temperature 0; use 1, or a temperature above 0",
        ),
    )


class DataSpec(Resource):
    """The problems."""

    train: tuple[ProblemSet, ...] = Field(min_length=1, max_length=64)
    """Problem sets that are sampled for training."""
    evaluation: tuple[EvaluationSet, ...] = Field(default=(), max_length=64)
    """Held-out problem sets that the policy is measured on."""
    apply_chat_template: bool = False
    """Give the policy each prompt that is a text as a user's message, by its chat template. A prompt that is a list of
    messages is given so in any case."""

    @field_validator("train", "evaluation")
    @classmethod
    def _names_are_unique(cls, sets: tuple[ProblemFile, ...]) -> tuple[ProblemFile, ...]:
        refuse_repeated_names([item.name for item in sets])
        return sets
