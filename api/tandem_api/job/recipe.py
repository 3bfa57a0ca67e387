"""The training recipe: every number of the report's loop, with the report's default where it names one."""

from enum import StrEnum

from pydantic import Field

from tandem_api.resource import Resource


class PartialRolloutSpec(Resource):
    """Long trajectories are sampled over several iterations (report, section 2.6.2)."""

    token_budget: int = Field(default=8192, ge=1)
    """Most output tokens that a trajectory grows by in one iteration; what is unfinished then goes on in the next.
    At least the longest prompt: a continuation reads its whole prefix again, and a smaller budget would spend more
    on prefixes than on new tokens."""
    exclude_old_segments: bool = True
    """Leave segments sampled with older generations out of the loss (report, section 2.6.2: only the current
    iteration's segment is on-policy)."""


class ObjectiveName(StrEnum):
    """Loss that the trainer minimises."""

    MIRROR_DESCENT = "MirrorDescent"
    """Online policy mirror descent, eq. (3) of the report, at sequence level with the mean reward as baseline."""


class ObjectiveSpec(Resource):
    """The policy objective (report, section 2.3.2)."""

    name: ObjectiveName = ObjectiveName.MIRROR_DESCENT
    """Which loss."""
    tau: float = Field(default=0.1, ge=0)
    """Weight of the squared log-ratio to the iteration's reference policy (the report names no figure)."""
    steps_per_iteration: int = Field(default=4, ge=1, le=1024)
    """Optimizer steps over the batch of one iteration; the groups are spread over them."""
    reset_optimizer: bool = True
    """Forget the optimizer's moments at the start of each iteration, as the report does: each iteration is another
    optimisation problem, since the reference policy has changed."""


class LengthRewardSpec(Resource):
    """Reward for short answers (report, section 2.3.3)."""

    weight: float = Field(default=0.0, ge=0)
    """Factor of the length reward; 0 turns it off (the report names no figure)."""
    warmup_iterations: int = Field(default=50, ge=0)
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


class RecipeSpec(Resource):
    """One run of the report's loop (section 2.3)."""

    iterations: int = Field(default=500, ge=1)
    """Iterations to run: one Infer phase and one Train phase each."""
    problems_per_iteration: int = Field(default=256, ge=1)
    """Problems drawn in each iteration."""
    samples_per_problem: int = Field(default=8, ge=2)
    """k of eq. (3): responses sampled for each problem; their mean reward is the baseline."""
    temperature: float = Field(default=1.0, gt=0)
    """Sampling temperature; the trainer's log-probabilities use the same."""
    seed: int = Field(default=1, ge=0)
    """Seed of problem choice, batch order and sampling."""
    partial_rollout: PartialRolloutSpec = PartialRolloutSpec()
    """Token budget of a trajectory in one iteration."""
    objective: ObjectiveSpec = ObjectiveSpec()
    """The loss and its steps."""
    length_reward: LengthRewardSpec = LengthRewardSpec()
    """Reward for short answers."""
    sampling: SamplingSpec = SamplingSpec()
    """Choice of problems."""
