"""Which problems an iteration draws (report, section 2.3.4)."""

from enum import StrEnum

from pydantic import Field

from tandem_api.invariant import Guarded, Invariant
from tandem_api.resource import Resource

MAX_CURRICULUM_ITERATIONS = 1_000_000
MAX_REFILL_SHARE = 16.0


class SamplingStrategy(StrEnum):
    """How the problems of an iteration are drawn (report, section 2.3.4)."""

    UNIFORM = "Uniform"
    """Every problem once, in random order, before any comes again."""
    PRIORITIZED = "Prioritized"
    """In proportion to 1 - success rate of the problem so far."""
    CURRICULUM = "Curriculum"
    """Easy problems first: the easiest share of each set, which grows with the iterations."""
    MIXTURE = "Mixture"
    """Each problem by one of the others, chosen by `shares`."""


class DifficultySource(StrEnum):
    """What tells how hard a problem is."""

    LABEL = "Label"
    """`difficulty` of the problem: larger is harder. Every problem needs one."""
    PASS_RATE = "PassRate"
    """The success rate of the problem so far, counted from one success in two tries: one that was never tried is of
    middle difficulty."""


class CurriculumSpec(Resource):
    """From easy to hard (report, section 2.3.4). The problems of each set are ranked, equal ones in random order."""

    difficulty: DifficultySource = DifficultySource.LABEL
    """What the rank goes by."""
    start_share: float = Field(default=0.25, gt=0, le=1)
    """Share of the problems, the easiest, that the first iteration draws from (the report names no figure). At least as
    many as it draws."""
    ramp_iterations: int = Field(default=100, ge=1, le=MAX_CURRICULUM_ITERATIONS)
    """Iterations in which the share grows, in a straight line, to all problems (the report names no figure)."""
    end_share: float = Field(default=1.0, gt=0, le=1)
    """Share of the problems, the hardest, that is drawn from afterwards: 1 for all. The report's comparison (section
    3.5) is startShare 1 with less than 1 here: all problems at first, then the hard ones alone."""


class StrategyShares(Resource):
    """Shares of the strategies in a mixture; they need not add up to 1."""

    uniform: float = Field(default=0.0, ge=0, le=1.0e6)
    """Relative share of Uniform."""
    prioritized: float = Field(default=0.0, ge=0, le=1.0e6)
    """Relative share of Prioritized."""
    curriculum: float = Field(default=0.0, ge=0, le=1.0e6)
    """Relative share of Curriculum."""


class DynamicSamplingSpec(Resource):
    """Groups whose samples are all worth the same have no gradient: leave them out (arXiv:2503.14476; not in the
    report)."""

    enabled: bool = False
    """Leave such groups out of training, and draw other problems in their place while the Infer phase runs."""
    refill_share: float = Field(default=1.0, ge=0, le=MAX_REFILL_SHARE)
    """Most problems that an iteration draws in place of others, as a share of `problemsPerIteration`; 0: none."""


class SamplingSpec(Guarded):
    """Choice of problems."""

    strategy: SamplingStrategy = SamplingStrategy.PRIORITIZED
    """Rule by which problems are drawn."""
    shares: StrategyShares = StrategyShares()
    """Mixture: how much each strategy draws."""
    curriculum: CurriculumSpec = CurriculumSpec()
    """Curriculum: how it gets from easy to hard."""
    dynamic: DynamicSamplingSpec = DynamicSamplingSpec()
    """What becomes of groups without signal."""

    invariants = (
        Invariant(
            field="shares",
            cel="(self.strategy == 'Mixture')"
            " == (self.shares.uniform + self.shares.prioritized + self.shares.curriculum > 0.0)",
            holds=lambda sampling: (sampling.strategy is SamplingStrategy.MIXTURE) == sampling.has_shares,
            message="count with strategy Mixture alone, which wants one above 0; set strategy: Mixture, or no share",
        ),
    )

    @property
    def has_shares(self) -> bool:
        """Return whether any strategy has a share."""
        return self.shares.uniform + self.shares.prioritized + self.shares.curriculum > 0

    @property
    def needs_labels(self) -> bool:
        """Return whether problems are ranked by their labels."""
        is_used = self.strategy is SamplingStrategy.CURRICULUM or self.shares.curriculum > 0
        return is_used and self.curriculum.difficulty is DifficultySource.LABEL
