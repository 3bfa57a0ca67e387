"""The device that these tests run on, and jobs on it."""

from pathlib import Path

from pydantic import JsonValue

from tandem_api.engine import JobConfig
from tandem_api.job.policy import Dtype
from tandem_api.job.recipe import ObjectiveSpec
from tests.tandem_checkpoint.jobs import job_config

DEVICE = "cuda"
ENGINE_ARGUMENTS: dict[str, JsonValue] = {
    "kv_cache_memory_bytes": 1 << 28,
    "max_num_seqs": 32,
    "gpu_memory_utilization": 0.5,
}
FLOAT32_LIMIT = 1e-4
"""Nats between server and trainer, or either and transformers on a CPU: other kernels add in another order."""


def config_on_device(
    policy: Path, *, dtype: Dtype = Dtype.FLOAT32, objective: ObjectiveSpec | None = None
) -> JobConfig:
    """Return a job over one pod with one device."""
    config = job_config(policy, objective=objective, engine_args=ENGINE_ARGUMENTS)
    chosen = config.spec.policy.model_copy(update={"dtype": dtype})
    return config.model_copy(update={"device": DEVICE, "spec": config.spec.model_copy(update={"policy": chosen})})
