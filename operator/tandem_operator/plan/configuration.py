"""What the containers of a job read at their start: the job's configuration and its token."""

from tandem_api.engine import JobConfig
from tandem_api.job import RLJob
from tandem_api.job.pods import GpuSharing
from tandem_operator.plan import names
from tandem_operator.plan.objects import ConfigMap, Secret
from tandem_operator.plan.surroundings import Surroundings

CONFIG_KEY = "config.json"
TOKEN_KEY = "token"


def job_config(job: RLJob) -> JobConfig:
    """Return the configuration that every container of the job reads."""
    return JobConfig(
        namespace=job.metadata.namespace,
        name=job.metadata.name,
        spec=job.spec,
        hybrid_pods=names.hybrid_pods(job),
        rollout_pods=names.rollout_pods(job),
        device="cpu" if job.spec.hybrid.gpu.sharing is GpuSharing.NONE else "cuda",
    )


def config_map(job: RLJob) -> ConfigMap:
    """Return the ConfigMap with the configuration as JSON.

    Fields at their defaults are left out: a container restarted after an upgrade of the operator reads the new text
    with its old image, which would refuse fields that it does not know.
    """
    return ConfigMap(
        metadata=names.metadata(job, names.config_map(job)),
        data={CONFIG_KEY: job_config(job).model_dump_json(indent=2, exclude_defaults=True)},
    )


def secret(job: RLJob, surroundings: Surroundings) -> Secret:
    """Return the Secret with the bearer token of the job's HTTP APIs."""
    return Secret(
        metadata=names.metadata(job, names.secret(job)),
        string_data={TOKEN_KEY: surroundings.token},
    )
