"""How the containers of a pod come to see their devices: one policy for each value of `spec.hybrid.gpu.sharing`."""

from dataclasses import dataclass

from pydantic import JsonValue

from tandem_api.job import RLJob
from tandem_api.job.pods import GPU_RESOURCE, GpuSharing, ResourceRequirements
from tandem_operator.plan import names
from tandem_operator.plan.names import PodRole
from tandem_operator.plan.objects import ContainerResources, EnvVar, PodResourceClaim, ResourceClaimTemplate

CLAIM = "gpus"
"""Name of the claim within a pod."""


@dataclass(frozen=True, slots=True)
class DeviceAccess:
    """What one container needs to reach the devices of its pod."""

    resources: ContainerResources | None
    """Requests, limits and claims, the user's included."""
    env: tuple[EnvVar, ...] = ()
    """Variables that the container runtime reads."""


def claim_templates(job: RLJob) -> tuple[ResourceClaimTemplate, ...]:
    """Return one template for each role that has pods; none where devices are not claimed.

    Each pod gets a claim of its own from it, and both containers of a hybrid pod use that one claim: so they see the
    same devices.
    """
    if job.spec.hybrid.gpu.sharing is not GpuSharing.DRA:
        return ()
    elastic = job.spec.rollout.elastic
    hybrid = _claim_template(job, "hybrid", job.spec.hybrid.gpus_per_pod)
    if elastic.replicas == 0:
        return (hybrid,)
    return (hybrid, _claim_template(job, "rollout", elastic.gpus_per_pod))


def _claim_template(job: RLJob, role: PodRole, num_devices: int) -> ResourceClaimTemplate:
    """Return the template of a claim for exactly `num_devices` devices."""
    gpu = job.spec.hybrid.gpu
    exactly: dict[str, JsonValue] = {
        "deviceClassName": gpu.device_class_name,
        "allocationMode": "ExactCount",
        "count": num_devices,
    }
    if gpu.selectors:
        exactly["selectors"] = [{"cel": {"expression": expression}} for expression in gpu.selectors]
    return ResourceClaimTemplate(
        metadata=names.metadata(job, names.claim_template(job, role), role),
        spec={"spec": {"devices": {"requests": [{"name": "gpu", "exactly": exactly}]}}},
    )


def pod_claims(job: RLJob, role: PodRole) -> tuple[PodResourceClaim, ...] | None:
    """Return the claims of a pod with devices; None where devices are not claimed."""
    if job.spec.hybrid.gpu.sharing is not GpuSharing.DRA:
        return None
    return (PodResourceClaim(name=CLAIM, resource_claim_template_name=names.claim_template(job, role)),)


def trainer_access(job: RLJob) -> DeviceAccess:
    """Return the trainer container's way to the devices of a hybrid pod."""
    return DeviceAccess(_resources(job, job.spec.hybrid.resources, job.spec.hybrid.gpus_per_pod))


def server_access(job: RLJob) -> DeviceAccess:
    """Return the rollout container's way to the devices of a hybrid pod.

    With VisibleAll it requests none, because requests of containers add up; the runtime shows it all of the node's.
    """
    shows_all = job.spec.hybrid.gpu.sharing is GpuSharing.VISIBLE_ALL
    env = (EnvVar(name="NVIDIA_VISIBLE_DEVICES", value="all"),) if shows_all else ()
    return DeviceAccess(_resources(job, job.spec.rollout.resources, None), env)


def elastic_access(job: RLJob) -> DeviceAccess:
    """Return the rollout container's way to the devices of a rollout-only pod, which it shares with nobody."""
    num_devices = job.spec.rollout.elastic.gpus_per_pod
    return DeviceAccess(_resources(job, job.spec.rollout.resources, num_devices))


def _resources(job: RLJob, asked: ResourceRequirements, num_devices: int | None) -> ContainerResources | None:
    """Return the user's requests and limits with devices and adapters added; None where nothing is asked for.

    `num_devices` is what the container would request from a device plugin. A job that names these resources itself is
    refused before it comes here.
    """
    added: dict[str, str] = {}
    if job.spec.hybrid.gpu.sharing is GpuSharing.VISIBLE_ALL and num_devices is not None:
        added[GPU_RESOURCE] = str(num_devices)
    if job.spec.hybrid.rdma is not None:
        added[job.spec.hybrid.rdma.resource_name] = str(job.spec.hybrid.rdma.count)
    claims = ({"name": CLAIM},) if job.spec.hybrid.gpu.sharing is GpuSharing.DRA else None
    resources = ContainerResources(
        requests=dict(asked.requests) or None, limits={**asked.limits, **added} or None, claims=claims
    )
    return resources if resources.manifest() else None
