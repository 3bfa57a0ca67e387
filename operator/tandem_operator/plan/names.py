"""Names and labels of a job's objects."""

from typing import Literal

from tandem_api.job import RLJob
from tandem_operator.plan.objects import ObjectMeta, OwnerReference

PodRole = Literal["master", "hybrid", "rollout"]
"""What a pod is for; the value of the labels `app.kubernetes.io/component` and `tandem.dev/role`."""

LABEL_NAME = "app.kubernetes.io/name"
LABEL_INSTANCE = "app.kubernetes.io/instance"
LABEL_COMPONENT = "app.kubernetes.io/component"
LABEL_JOB = "tandem.dev/job"
LABEL_ROLE = "tandem.dev/role"
OWNED_LABELS = frozenset({LABEL_NAME, LABEL_INSTANCE, LABEL_COMPONENT, LABEL_JOB, LABEL_ROLE})
"""Labels that only the planner sets."""


def master_pod(job: RLJob) -> str:
    """Return the name of the job's master pod."""
    return f"{job.metadata.name}-master"


def hybrid_pods(job: RLJob) -> tuple[str, ...]:
    """Return the names of the hybrid pods, by ordinal."""
    return tuple(f"{job.metadata.name}-hybrid-{ordinal}" for ordinal in range(job.spec.hybrid.replicas))


def rollout_pods(job: RLJob) -> tuple[str, ...]:
    """Return the names of the rollout-only pods, by ordinal."""
    return tuple(f"{job.metadata.name}-rollout-{ordinal}" for ordinal in range(job.spec.rollout.elastic.replicas))


def service(job: RLJob) -> str:
    """Return the name of the headless Service: the subdomain of all pods."""
    return job.metadata.name


def service_account(job: RLJob) -> str:
    """Return the name of the account that the job's pods run as."""
    return f"{job.metadata.name}-pods"


def network_policy(job: RLJob) -> str:
    """Return the name of the policy that says who may connect to the job's pods."""
    return job.metadata.name


def disruption_budget(job: RLJob) -> str:
    """Return the name of the budget that keeps the job's pods where they are."""
    return job.metadata.name


def pod_group(job: RLJob) -> str:
    """Return the name of the PodGroup of the job's gang."""
    return job.metadata.name


def workload(job: RLJob) -> str:
    """Return the name of the Workload that stands for the job in its queue."""
    return f"rljob-{job.metadata.name}"


def config_map(job: RLJob) -> str:
    """Return the name of the ConfigMap that every container reads."""
    return f"{job.metadata.name}-config"


def secret(job: RLJob) -> str:
    """Return the name of the Secret with the job's token: another one for each job of a name.

    It is made once and never read. That of a deleted job goes a little after its job; the next job of the name must not
    take it for its own.
    """
    uid = job.metadata.uid
    return f"{job.metadata.name}-token" if uid is None else f"{job.metadata.name}-token-{uid[:8]}"


def claim_template(job: RLJob, role: PodRole) -> str:
    """Return the name of the ResourceClaimTemplate of the pods of a role."""
    return f"{job.metadata.name}-{role}-gpus"


def selector(job: RLJob) -> dict[str, str]:
    """Return the labels by which all pods of the job are found."""
    return {LABEL_JOB: job.metadata.name}


def role_selector(job: RLJob, role: PodRole) -> str:
    """Return the label selector, as text, of the job's pods of one role."""
    return ",".join(f"{label}={value}" for label, value in {**selector(job), LABEL_ROLE: role}.items())


def labels(job: RLJob) -> dict[str, str]:
    """Return the labels of every object of the job."""
    return {LABEL_NAME: "tandem", LABEL_INSTANCE: job.metadata.name, **selector(job)}


def role_labels(job: RLJob, role: PodRole) -> dict[str, str]:
    """Return the labels of an object that belongs to the pods of one role."""
    return {**labels(job), LABEL_COMPONENT: role, LABEL_ROLE: role}


def metadata(job: RLJob, name: str, role: PodRole | None = None) -> ObjectMeta:
    """Return the identity of one object; the job owns it once the API server has given the job an identity."""
    return ObjectMeta(
        name=name,
        namespace=job.metadata.namespace,
        labels=labels(job) if role is None else role_labels(job, role),
        owner_references=None if job.metadata.uid is None else (_owner(job, job.metadata.uid),),
    )


def _owner(job: RLJob, uid: str) -> OwnerReference:
    """Return the reference by which Kubernetes deletes an object together with its job."""
    return OwnerReference(api_version=job.api_version, kind=job.kind, name=job.metadata.name, uid=uid)
