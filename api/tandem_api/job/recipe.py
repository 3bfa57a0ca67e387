"""The training recipe: every number of the report's loop, with the report's default where it names one."""

from enum import StrEnum

from pydantic import Field

from tandem_api.invariant import Guarded, Invariant
from tandem_api.job.pods import MAX_ITERATIONS
from tandem_api.job.repeats import RepeatsSpec
from tandem_api.job.sampling import SamplingSpec
from tandem_api.resource import Resource

TOKEN_BUDGET = 8192
MAX_DEADLINE_SECONDS = 604_800
"""A week."""
MAX_SEED = (1 << 53) - 1
"""Largest integer that every reader of JSON keeps exactly."""


class PartialRolloutSpec(Resource):
    """Long trajectories are sampled over several iterations (report, section 2.6.2)."""

    token_budget: int = Field(default=TOKEN_BUDGET, ge=1, le=1 << 30)
    """Most output tokens that a trajectory grows by in one iteration; what is unfinished then goes on in the next.
    At least the longest prompt: a continuation reads its whole prefix again, and a smaller budget would spend more
    on prefixes than on new tokens. At most `spec.policy.maxLengthTokens`, except for the default."""
    stop_when_complete_share: float | None = Field(default=None, gt=0, le=1)
    """The Infer phase ends once this share of the iteration's trajectories, those that go on from earlier iterations
    included, is complete. What is being sampled then is cut, and goes on in the next iteration from where it is.
    Absent: each trajectory is waited for until it is complete or has used its budget. The report names no figure."""
    deadline_seconds: float | None = Field(default=None, gt=0, le=MAX_DEADLINE_SECONDS)
    """The Infer phase ends after this time, whatever is complete, in the same way. It counts from the moment when the
    servers answer, and the phase lasts until they have sampled something. Absent: no deadline."""
    exclude_old_segments: bool = True
    """Leave segments sampled with older generations out of the loss (report, section 2.6.2: only the current
    iteration's segment is on-policy). Otherwise they take part: as they are, or by
    `spec.recipe.objective.maxImportanceWeight` in proportion to how likely the policy finds them."""


class ObjectiveName(StrEnum):
    """Loss that the trainer minimises."""

    MIRROR_DESCENT = "MirrorDescent"
    """Online policy mirror descent, eq. (3) of the report, at sequence level with the mean reward as baseline."""
    REINFORCE = "Reinforce"
    """The score function at sequence level with the mean reward as baseline: eq. (3) with tau 0."""
    RLOO = "RLOO"
    """REINFORCE, with the mean reward of the other samples of the problem as baseline (arXiv:2402.14740)."""
    GRPO = "GRPO"
    """Clipped likelihood ratios of tokens; advantages over the standard deviation of the group (arXiv:2402.03300).
    Without its divergence to the initial policy, which nobody holds."""
    DAPO = "DAPO"
    """GRPO with a wider clip above, normalised over the tokens of a step (arXiv:2503.14476)."""


class Normalization(StrEnum):
    """What a step's sum of losses is divided by."""

    SEQUENCE = "Sequence"
    """Every response counts the same: the number of samples (GRPO and DAPO: of means over a response's tokens)."""
    TOKEN = "Token"
    """Every token counts the same: the number of tokens in the loss."""


class ObjectiveSpec(Resource):
    """The policy objective (report, section 2.3.2)."""

    name: ObjectiveName = ObjectiveName.MIRROR_DESCENT
    """Which loss."""
    tau: float = Field(default=0.1, ge=0, le=1.0e6)
    """MirrorDescent: weight of the squared log-ratio to the iteration's reference policy (the report names no
    figure)."""
    clip_low: float = Field(default=0.2, ge=0, le=1)
    """GRPO and DAPO: a token's likelihood ratio counts down to 1 - clipLow; GRPO: and up to 1 + clipLow."""
    clip_high: float = Field(default=0.28, ge=0, le=1.0e6)
    """DAPO: a token's likelihood ratio counts up to 1 + clipHigh."""
    normalization: Normalization | None = None
    """What a step's losses are divided by. Without it as the objective's authors have it: Token for DAPO, Sequence for
    all others."""
    max_importance_weight: float = Field(default=0.0, ge=0, le=1.0e6)
    """Corrects for tokens that another policy sampled: an older generation, or the server's arithmetic. Their loss is
    weighted by the likelihood ratio of the trainer's policy to the one that sampled, up to this number
    (arXiv:1802.01561 truncates so). Of whole responses for objectives at sequence level, of tokens for GRPO and DAPO; 0
    turns it off."""
    steps_per_iteration: int = Field(default=4, ge=1, le=1024)
    """Optimizer steps over the batch of one iteration; the groups are spread over them."""
    reset_optimizer: bool = True
    """Forget the optimizer's moments at the start of each iteration, as the report does: each iteration is another
    optimisation problem, since the reference policy has changed. `false`: they stay, and checkpoints hold them."""


class LengthRewardSpec(Resource):
    """Reward for short answers (report, section 2.3.3)."""

    weight: float = Field(default=0.0, ge=0, le=1.0e6)
    """Factor of the length reward; 0 turns it off (the report names no figure)."""
    warmup_iterations: int = Field(default=50, ge=0, le=MAX_ITERATIONS)
    """Iterations without the length reward at the start; constant afterwards."""


class RecipeSpec(Guarded):
    """One run of the report's loop (section 2.3)."""

    iterations: int = Field(default=500, ge=1, le=MAX_ITERATIONS)
    """Iterations to run: one Infer phase and one Train phase each."""
    problems_per_iteration: int = Field(default=256, ge=1, le=1_000_000)
    """Problems drawn in each iteration."""
    samples_per_problem: int = Field(default=8, ge=2, le=4096)
    """k of eq. (3): responses sampled for each problem; their mean reward is the baseline."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Sampling temperature; the trainer's log-probabilities use the same."""
    seed: int = Field(default=1, ge=0, le=MAX_SEED)
    """Seed of problem choice, batch order and sampling."""
    partial_rollout: PartialRolloutSpec = PartialRolloutSpec()
    """Token budget of a trajectory in one iteration."""
    repeats: RepeatsSpec = RepeatsSpec()
    """Responses that repeat themselves."""
    objective: ObjectiveSpec = ObjectiveSpec()
    """The loss and its steps."""
    length_reward: LengthRewardSpec = LengthRewardSpec()
    """Reward for short answers."""
    sampling: SamplingSpec = SamplingSpec()
    """Choice of problems."""

    invariants = (
        Invariant(
            field="lengthReward.warmupIterations",
            cel="self.lengthReward.weight == 0.0 || self.lengthReward.warmupIterations < self.iterations",
            holds=lambda recipe: (
                recipe.length_reward.weight == 0 or recipe.length_reward.warmup_iterations < recipe.iterations
            ),
            message="is not less than recipe.iterations, so the length reward never counts; lower it or set weight: 0",
        ),
    )
