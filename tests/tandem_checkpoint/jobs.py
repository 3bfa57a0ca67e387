"""A job as its engines read it."""

from pathlib import Path

from pydantic import JsonValue

from tandem_api.engine import JobConfig
from tandem_api.job.pods import HybridSpec, OptimizerSpec, RolloutSpec, TrainerParallelism, TrainerSpec
from tandem_api.job.policy import DataSpec, Dtype, ModelSource, PolicySpec, ProblemSet
from tandem_api.job.recipe import ObjectiveSpec, RecipeSpec
from tandem_api.job.rewards import BuiltinReward, RewardSpec
from tandem_api.job.spec import RLJobSpec
from tandem_checkpoint.settings import Settings

POD = "toy-hybrid-0"
TOKEN = "secret"


def job_config(
    policy: Path,
    *,
    num_ranks: int = 1,
    parallelism: TrainerParallelism | None = None,
    optimizer: OptimizerSpec | None = None,
    objective: ObjectiveSpec | None = None,
    micro_batch_tokens: int = 16384,
    temperature: float = 1.0,
    engine_args: dict[str, JsonValue] | None = None,
    dtype: Dtype = Dtype.FLOAT32,
    iterations: int = 500,
) -> JobConfig:
    """Return a job over one pod on a CPU, with the policy in a folder."""
    spec = RLJobSpec(
        policy=PolicySpec(model=ModelSource(path=str(policy)), dtype=dtype, max_length_tokens=64),
        data=DataSpec(train=(ProblemSet(name="toy", path="problems.jsonl"),)),
        rewards=(RewardSpec(name="exact", builtin=BuiltinReward.EXACT_MATCH),),
        hybrid=HybridSpec(gpus_per_pod=num_ranks),
        trainer=TrainerSpec(
            parallelism=parallelism or TrainerParallelism(),
            optimizer=optimizer or OptimizerSpec(),
            micro_batch_tokens=micro_batch_tokens,
        ),
        rollout=RolloutSpec(engine_args=engine_args or {}),
        recipe=RecipeSpec(objective=objective or ObjectiveSpec(), temperature=temperature, iterations=iterations),
    )
    return JobConfig(namespace="default", name="toy", spec=spec, hybrid_pods=(POD,), device="cpu")


def settings_of(config: JobConfig, shared: Path, address: str = "127.0.0.1") -> Settings:
    """Return what the environment of the job's first pod says."""
    return Settings(
        config=config, token=TOKEN, etcd=("127.0.0.1:2379",), pod=POD, address=address, shared=shared, state=None
    )
