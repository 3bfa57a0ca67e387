"""What a run writes down: one JSON object a line of `metrics.jsonl`, told apart by `kind`."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from tandem_api.job.status import Direction, Phase
from tandem_api.registry import Role, StageSpan
from tandem_api.resource import Resource

MemberRole = Role | Literal["master"]
"""Who takes part in a switch: the containers of a pod, and the master."""


class RunStarted(Resource):
    """A master began or resumed."""

    kind: Literal["runStarted"] = "runStarted"
    """Discriminator."""
    at: float
    """Unix time in seconds."""
    job: str
    """Name of the job."""
    iteration: int
    """Complete iterations at that time: 0 at a fresh start."""
    iterations: int
    """Iterations of the recipe."""


class MemberStage(StageSpan):
    """One stage of one member in a switch."""

    pod: str
    """Pod of the member."""
    role: MemberRole
    """Container of the member; the master's own stages carry its pod."""


class CriticalSegment(Resource):
    """One stretch of a switch in which nothing else could have made it shorter."""

    pod: str
    """Pod of the member that the switch was waiting for."""
    role: MemberRole
    """Container of that member."""
    stage: str
    """Stage that it was in; `notice`: it had not yet noticed that its wait was over."""
    notice_of: str = ""
    """Of a notice: what it had not noticed yet: word, shards, published, token, or status (members' at the master)."""
    started_at: float
    """Unix time, by the clock of the one who measured it."""
    seconds: float = Field(ge=0)
    """Duration."""


class CriticalPath(Resource):
    """The chain of stages that a switch took as long as. No two segments share a moment."""

    segments: tuple[CriticalSegment, ...]
    """In order of time."""
    unexplained_seconds: float = Field(ge=0)
    """Time of the switch that lies on no segment."""
    share: float = Field(ge=0, le=1)
    """Time on segments over the whole time; 1 for a switch without duration."""


class PhaseEnd(StrEnum):
    """Why an Infer phase ended."""

    ALL = "All"
    """Every trajectory was complete or had used its budget."""
    SHARE = "Share"
    """Enough were complete: `spec.recipe.partialRollout.stopWhenCompleteShare`."""
    DEADLINE = "Deadline"
    """Time was up: `spec.recipe.partialRollout.deadlineSeconds`."""

    @property
    def text(self) -> str:
        """Return it in words."""
        return _END_TEXTS[self]


_END_TEXTS = {
    PhaseEnd.ALL: "all have used their budget",
    PhaseEnd.SHARE: "enough are complete",
    PhaseEnd.DEADLINE: "time is up",
}


class SwitchRecord(Resource):
    """One complete switch."""

    kind: Literal["switch"] = "switch"
    """Discriminator."""
    epoch: int
    """Number of the switch."""
    iteration: int
    """Iteration that the new phase belongs to."""
    generation: int
    """Generation that is served or trained from afterwards."""
    direction: Direction
    """Which way."""
    started_at: float
    """Unix time of the master's word, seconds."""
    seconds: float
    """Until the last member was ready."""
    stages: tuple[MemberStage, ...]
    """All stages of all members."""
    first: bool = False
    """The job's first switch into Infer, which also starts processes; medians leave it out."""
    critical_path: CriticalPath | None = None
    """What it took so long for; None in histories of versions that did not say."""


class PhaseRecord(Resource):
    """One phase, from the end of the switch into it to the start of the switch out of it."""

    kind: Literal["phase"] = "phase"
    """Discriminator."""
    phase: Phase
    """What the devices were for."""
    epoch: int
    """Epoch of the phase."""
    iteration: int
    """Iteration of the phase."""
    started_at: float
    """Unix time in seconds."""
    seconds: float
    """Duration."""


class IterationRecord(Resource):
    """One committed iteration."""

    kind: Literal["iteration"] = "iteration"
    """Discriminator."""
    iteration: int = Field(ge=1)
    """Number of the iteration, from 1."""
    generation: int
    """Generation that this iteration published."""
    at: float
    """Unix time of the commit, seconds."""
    seconds: float
    """Duration of the whole iteration."""
    reward: float
    """Mean reward of the trajectories that finished in it, without the length reward."""
    response_tokens: float
    """Mean length of their responses, tokens."""
    finished: int
    """Trajectories that finished."""
    unfinished: int
    """Trajectories carried over."""
    trained: int
    """Trajectories that were trained on."""
    sampled_tokens: int
    """Tokens sampled."""
    rollout_end: PhaseEnd = PhaseEnd.ALL
    """Why its Infer phase ended."""
    cut: int = 0
    """Trajectories that a server was working on when the phase was ended before they had used their budget."""
    cut_tokens: int = 0
    """Tokens that it had sampled of them since it was asked; they go on from there."""
    repeats: int = 0
    """Of those that finished, trajectories that were stopped because they repeated themselves."""
    groups: int = 0
    """Groups that became complete, those that were left out included."""
    groups_without_signal: int = 0
    """Of them, those whose samples were all worth the same: without a gradient."""
    refills: int = 0
    """Problems drawn in place of groups without signal (`spec.recipe.sampling.dynamic`)."""
    tokens_per_second: float
    """Sampled tokens over the duration of the Infer phase."""
    max_abs_logprob_difference: float
    """max |logprob(vLLM) - logprob(Megatron)|, nats."""
    kl: float
    """How far the policy moved on its own samples, nats."""
    loss: float
    """Mean surrogate loss over the steps."""
    gradient_norm: float
    """Mean gradient norm over the steps."""
    learning_rate: float | None = Field(default=None, ge=0)
    """Learning rate of the last step; None where there was no step, and in histories of versions that did not say."""


class CheckpointRecord(Resource):
    """A checkpoint that was written while the job went on, or could not be."""

    kind: Literal["checkpoint"] = "checkpoint"
    """Discriminator."""
    at: float
    """Unix time, in seconds, at which it was complete, or was given up."""
    generation: int = Field(ge=0)
    """Generation that it holds."""
    seconds: float = Field(ge=0)
    """From its beginning on."""
    waited_seconds: float = Field(ge=0)
    """How long the job waited for it: until everything that it is written from was fixed, and for the one before."""
    num_bytes: int = Field(default=0, ge=0)
    """Size of its weights and of the optimizer's state."""
    error: str = ""
    """Why there is none, for people; empty where it is complete."""


class SelfTestRecord(Resource):
    """The self-test of a hand-over: the first of a run, and the first of each engine of servers."""

    kind: Literal["selfTest"] = "selfTest"
    """Discriminator."""
    at: float
    """Unix time in seconds."""
    iteration: int = Field(ge=1)
    """Iteration whose hand-over was tested."""
    generation: int = Field(ge=0)
    """Generation that was handed over."""
    tensors: int = Field(ge=0)
    """Tensors that trainers and servers hold alike, every element of them."""
    logprobs: int = Field(ge=0)
    """Log-probabilities that were compared before the first step; 0 where the iteration had nothing to train on."""
    max_abs_logprob_difference: float
    """Largest difference among them, nats."""

    @property
    def text(self) -> str:
        """Return it in words."""
        within = f"{self.logprobs} log-probabilities within {self.max_abs_logprob_difference:.2g}"
        return f"self-test: {self.tensors} tensors equal, {within}"


class EvaluationRecord(Resource):
    """One held-out set, asked of one generation. What was not scored counts in no share and no mean."""

    kind: Literal["evaluation"] = "evaluation"
    """Discriminator."""
    at: float
    """Unix time of the result, seconds."""
    name: str
    """Name of the set."""
    generation: int = Field(ge=0)
    """Generation that was measured."""
    problems: int = Field(ge=0)
    """Problems of which at least one sample was scored."""
    samples: int = Field(ge=0)
    """Samples that were scored."""
    unscored: int = Field(default=0, ge=0)
    """Samples that a reward function said nothing of; they count nowhere else."""
    pass_at: dict[int, float]
    """k to pass@k, unbiased, over the problems with at least k scored samples."""
    mean_reward: float
    """Mean reward of a sample, without the length reward; the mean over problems of their means."""
    mean_tokens: float
    """Mean length of a response, tokens."""
    cut_share: float = Field(ge=0, le=1)
    """Share of responses that ended at the limit of their length."""
    sampled_tokens: int = Field(ge=0)
    """Tokens of all responses, unscored ones included."""
    seconds: float = Field(ge=0)
    """Time from the first request of this try to the result."""
    error: str = ""
    """Why there is no result, for people; then all numbers are 0."""

    @property
    def pass_1(self) -> float:
        """pass@1, 0 where nothing was scored."""
        return self.pass_at.get(1, 0.0)


class RunEnded(Resource):
    """A master ended."""

    kind: Literal["runEnded"] = "runEnded"
    """Discriminator."""
    at: float
    """Unix time in seconds."""
    result: Literal["Completed", "Stopped", "Failed"]
    """Completed: all iterations. Stopped: asked to. Failed: see message."""
    message: str = ""
    """Cause of a failure, for people."""


Record = Annotated[
    RunStarted
    | SwitchRecord
    | PhaseRecord
    | IterationRecord
    | CheckpointRecord
    | SelfTestRecord
    | EvaluationRecord
    | RunEnded,
    Field(discriminator="kind"),
]
RECORD: TypeAdapter[Record] = TypeAdapter(Record)
"""Parses one line."""
