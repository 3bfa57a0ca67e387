"""The training recipe: every number of the report's loop, with the report's default where it names one."""

from enum import StrEnum
from typing import Literal

from pydantic import Field

from tandem_api.invariant import Guarded, Invariant
from tandem_api.resource import Resource

TOKEN_BUDGET = 8192
MAX_ITERATIONS = 1_000_000
MAX_SEED = (1 << 53) - 1
"""Largest integer that every reader of JSON keeps exactly."""


class PartialRolloutSpec(Resource):
    """Long trajectories are sampled over several iterations (report, section 2.6.2)."""

    token_budget: int = Field(default=TOKEN_BUDGET, ge=1, le=1 << 30)
    """Most output tokens that a trajectory grows by in one iteration; what is unfinished then goes on in the next.
    At least the longest prompt: a continuation reads its whole prefix again, and a smaller budget would spend more
    on prefixes than on new tokens. At most `spec.policy.maxLengthTokens`, except for the default."""
    exclude_old_segments: Literal[True] = True
    """Leave segments sampled with older generations out of the loss (report, section 2.6.2: only the current
    iteration's segment is on-policy). This release knows no other way."""


class ObjectiveName(StrEnum):
    """Loss that the trainer minimises."""

    MIRROR_DESCENT = "MirrorDescent"
    """Online policy mirror descent, eq. (3) of the report, at sequence level with the mean reward as baseline."""


class ObjectiveSpec(Resource):
    """The policy objective (report, section 2.3.2)."""

    name: ObjectiveName = ObjectiveName.MIRROR_DESCENT
    """Which loss."""
    tau: float = Field(default=0.1, ge=0, le=1.0e6)
    """Weight of the squared log-ratio to the iteration's reference policy (the report names no figure)."""
    steps_per_iteration: int = Field(default=4, ge=1, le=1024)
    """Optimizer steps over the batch of one iteration; the groups are spread over them."""
    reset_optimizer: bool = True
    """Forget the optimizer's moments at the start of each iteration, as the report does: each iteration is another
    optimisation problem, since the reference policy has changed."""


class LengthRewardSpec(Resource):
    """Reward for short answers (report, section 2.3.3)."""

    weight: float = Field(default=0.0, ge=0, le=1.0e6)
    """Factor of the length reward; 0 turns it off (the report names no figure)."""
    warmup_iterations: int = Field(default=50, ge=0, le=MAX_ITERATIONS)
    """Iterations without the length reward at the start; constant afterwards."""


class SamplingStrategy(StrEnum):
    """How the problems of an iteration are drawn (report, section 2.3.4)."""

    UNIFORM = "Uniform"
    """Every problem once, in random order, before any comes again."""
    PRIORITIZED = "Prioritized"
    """In proportion to 1 - success rate of the problem so far."""


class SamplingSpec(Resource):
    """Choice of problems."""

    strategy: SamplingStrategy = SamplingStrategy.PRIORITIZED
    """Rule by which problems are drawn."""


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
