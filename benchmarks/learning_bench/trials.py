"""What is run: one trial for each method, learning rate and seed, as an RLJob that differs in nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from benchmarks.learning_bench.tasks import Task

from tandem_api.engine import JobConfig
from tandem_api.job.operations import CheckpointsSpec, SwitchSpec
from tandem_api.job.pods import OptimizerSpec, TrainerSpec
from tandem_api.job.policy import DataSpec, Dtype, ModelSource, PolicySpec, ProblemSet
from tandem_api.job.recipe import LengthRewardSpec, ObjectiveName, ObjectiveSpec, PartialRolloutSpec, RecipeSpec
from tandem_api.job.rewards import BuiltinReward, RewardSpec
from tandem_api.job.sampling import CurriculumSpec, SamplingSpec, SamplingStrategy
from tandem_api.job.spec import RLJobSpec

SAMPLES, STEPS = 8, 4
POD, SET = "learning-hybrid-0", "train"
LENGTH_WARM_UP = 6
"""Iterations before the length reward counts."""
SWEEP_SEED = 0
"""Seed of the sweeps; the trials that are reported have others."""


class Knob(StrEnum):
    """The number of a method's own that its sweep turns, once the learning rate is found."""

    TAU = "tau"
    CLIP = "clip"
    RATE = "rate"
    """None of its own: the learning rate once more, by factors."""


class Group(StrEnum):
    """What is compared."""

    OBJECTIVES = "objectives"
    LENGTH = "length"
    SAMPLING = "sampling"


PROBLEMS: Mapping[Group, int] = {Group.OBJECTIVES: 32, Group.LENGTH: 16, Group.SAMPLING: 32}
"""Drawn in each iteration."""


@dataclass(frozen=True, slots=True)
class Method:
    """One of the things that are compared, but for the numbers that a sweep chooses."""

    name: str
    group: Group
    task: str
    objective: ObjectiveName = ObjectiveName.MIRROR_DESCENT
    resets: bool = True
    """Whether the optimizer is reset in each iteration."""
    strategy: SamplingStrategy = SamplingStrategy.UNIFORM
    length_weight: float = 0.0
    curriculum: CurriculumSpec | None = None
    rates: tuple[float, ...] = (1.7e-4, 3.0e-4, 5.2e-4)
    """Learning rates of its sweep."""
    knob: Knob | None = None
    others: tuple[float, ...] = ()
    """What the sweep tries of the knob, beside the recipe's default, at the best of the rates."""


TAU: Mapping[str, Any] = {"knob": Knob.TAU, "others": (0.03, 0.3)}
CLIP: Mapping[str, Any] = {"knob": Knob.CLIP, "others": (0.1, 0.4)}
FINER: Mapping[str, Any] = {"knob": Knob.RATE, "others": (0.77, 1.3)}
ALL_THEN_HARD = CurriculumSpec(start_share=1.0, ramp_iterations=5, end_share=0.2)
"""The comparison of the report's section 3.5: all problems at first, then the hard ones alone, which are a fifth."""
METHODS: Sequence[Method] = (
    Method("mirror_descent", Group.OBJECTIVES, "digits", **TAU),
    Method("reinforce", Group.OBJECTIVES, "digits", ObjectiveName.REINFORCE, resets=False, **FINER),
    Method("grpo", Group.OBJECTIVES, "digits", ObjectiveName.GRPO, resets=False, **CLIP),
    Method("mirror_descent_kept", Group.OBJECTIVES, "digits", resets=False, **TAU),
    Method("length_off", Group.LENGTH, "wordy", rates=(3.0e-4,)),
    Method("length_on", Group.LENGTH, "wordy", length_weight=0.15, rates=(3.0e-4,)),
    Method("uniform", Group.SAMPLING, "mixed", rates=(3.0e-4,)),
    Method("prioritized", Group.SAMPLING, "mixed", strategy=SamplingStrategy.PRIORITIZED, rates=(3.0e-4,)),
    Method(
        "curriculum",
        Group.SAMPLING,
        "mixed",
        strategy=SamplingStrategy.CURRICULUM,
        curriculum=ALL_THEN_HARD,
        rates=(3.0e-4,),
    ),
)
OWN_FIELDS: Mapping[Knob | None, str] = {Knob.TAU: "tau", Knob.CLIP: "clip_low"}
"""Where a knob is in the objective."""
BY_NAME = {method.name: method for method in METHODS}


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of a method."""

    method: str
    rate: float
    seed: int
    iterations: int
    own: float | None = None
    """What the method's knob is at; None: at the recipe's default."""

    @property
    def key(self) -> str:
        """Return the name of its file."""
        own = "" if self.own is None else f"-{BY_NAME[self.method].knob}{self.own:g}"
        return f"{self.method}-rate{self.rate:g}{own}-seed{self.seed}-iterations{self.iterations}"

    @property
    def real_key(self) -> str:
        """Return the name of its file as a real job."""
        return f"real-{self.key}"


def recipe_of(trial: Trial) -> RecipeSpec:
    """Return the recipe of a trial; what is not named has the report's default."""
    method = BY_NAME[trial.method]
    own = {} if trial.own is None else {OWN_FIELDS[method.knob]: trial.own}
    objective = ObjectiveSpec(name=method.objective, steps_per_iteration=STEPS, reset_optimizer=method.resets, **own)
    return RecipeSpec(
        iterations=trial.iterations,
        problems_per_iteration=PROBLEMS[method.group],
        samples_per_problem=SAMPLES,
        seed=trial.seed,
        partial_rollout=PartialRolloutSpec(token_budget=24),
        objective=objective,
        length_reward=LengthRewardSpec(weight=method.length_weight, warmup_iterations=LENGTH_WARM_UP),
        sampling=SamplingSpec(strategy=method.strategy, curriculum=method.curriculum or CurriculumSpec()),
    )


def job_of(trial: Trial, task: Task) -> JobConfig:
    """Return a trial as the job that its master reads."""
    spec = RLJobSpec(
        policy=PolicySpec(model=ModelSource(path=str(task.policy)), dtype=Dtype.FLOAT32, max_length_tokens=32),
        data=DataSpec(train=(ProblemSet(name=SET, path=str(task.problems)),)),
        rewards=(RewardSpec(name="exact", builtin=BuiltinReward.EXACT_MATCH),),
        trainer=TrainerSpec(optimizer=OptimizerSpec(learning_rate=trial.rate), micro_batch_tokens=8192),
        recipe=recipe_of(trial),
        switch=SwitchSpec(train_to_infer_deadline_seconds=60, infer_to_train_deadline_seconds=60),
        checkpoints=CheckpointsSpec(every_iterations=max(1000, trial.iterations)),
    )
    return JobConfig(namespace="default", name="learning", spec=spec, hybrid_pods=(POD,), device="cpu")
