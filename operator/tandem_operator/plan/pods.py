"""The pods of a job: one master, hybrid pods in which trainer and server take turns, rollout-only pods."""

from pydantic import JsonValue

from tandem_api.engine import ENGINE_PORT_ROLLOUT, ENGINE_PORT_TRAIN, METRICS_PORT, RENDEZVOUS_PORT, SERVER_PORT
from tandem_api.job import RLJob
from tandem_operator.plan import claims, names
from tandem_operator.plan.account import names_account
from tandem_operator.plan.claims import DeviceAccess
from tandem_operator.plan.gang import gang_annotations
from tandem_operator.plan.names import PodRole
from tandem_operator.plan.objects import Container, ContainerPort, EnvVar, Pod, PodSpec
from tandem_operator.plan.placement import network_annotations, placed
from tandem_operator.plan.revision import ANNOTATION_ATTEMPT, ANNOTATION_SPEC_HASH, spec_hash
from tandem_operator.plan.surroundings import Surroundings
from tandem_operator.plan.volumes import (
    SHARED_MOUNT,
    SHARED_PATH,
    STATE_MOUNT,
    STATE_PATH,
    configuration_mounts,
    configuration_volumes,
    environment,
    shared_volume,
    state_volume,
)

MASTER_IMAGE = "tandem/master:0.1"
"""Image of the master; the surroundings or `spec.podTemplate` name another."""

LOCKED_DOWN: dict[str, JsonValue] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""Security context of every container."""
MASTER_ARENAS = "1"
"""glibc's heaps of the master: one for each of its twenty threads would fragment, and grow as long as a job runs."""


def pods(job: RLJob, surroundings: Surroundings) -> tuple[Pod, ...]:
    """Return all pods of the job: the master, then hybrid pods, then rollout-only pods, each by ordinal."""
    hybrid, rollout_only = _hybrid(job, surroundings), _rollout_only(job, surroundings)
    return (
        _pod(job, surroundings, names.master_pod(job), "master", _master(job, surroundings)),
        *(_pod(job, surroundings, name, "hybrid", hybrid) for name in names.hybrid_pods(job)),
        *(_pod(job, surroundings, name, "rollout", rollout_only) for name in names.rollout_pods(job)),
    )


def _master(job: RLJob, surroundings: Surroundings) -> PodSpec:
    """Return the pod that runs the loop. Its end is the job's, so the operator decides what follows, no kubelet."""
    container = Container(
        name="master",
        image=surroundings.master_image or MASTER_IMAGE,
        command=("tandem-master",),
        env=(
            *environment(job, surroundings),
            EnvVar(name="TANDEM_STATE", value=STATE_PATH),
            EnvVar(name="TANDEM_METRICS_PORT", value=str(METRICS_PORT)),
            EnvVar(name="MALLOC_ARENA_MAX", value=MASTER_ARENAS),
        ),
        ports=(ContainerPort(name="metrics", container_port=METRICS_PORT),),
        volume_mounts=(*configuration_mounts(job, surroundings), STATE_MOUNT),
        security_context=LOCKED_DOWN,
    )
    return PodSpec(
        containers=(container,),
        volumes=(*configuration_volumes(job, surroundings), state_volume(job)),
        restart_policy="Never",
    )


def _hybrid(job: RLJob, surroundings: Surroundings) -> PodSpec:
    """Return a pod in which trainer and server take turns on the same devices and share one in-memory volume."""
    trainer = _trainer(job, surroundings)
    server = _server(job, surroundings, claims.server_access(job), job.spec.hybrid.gpus_per_pod)
    return PodSpec(
        containers=(trainer, server),
        volumes=(*configuration_volumes(job, surroundings), shared_volume(job, surroundings), state_volume(job)),
        restart_policy="Always",
        resource_claims=claims.pod_claims(job, "hybrid"),
    )


def _rollout_only(job: RLJob, surroundings: Surroundings) -> PodSpec:
    """Return a pod that only serves and may join and leave while the job runs."""
    num_devices = job.spec.rollout.elastic.gpus_per_pod
    return PodSpec(
        containers=(_server(job, surroundings, claims.elastic_access(job), num_devices),),
        volumes=(*configuration_volumes(job, surroundings), shared_volume(job, surroundings)),
        restart_policy="Always",
        resource_claims=claims.pod_claims(job, "rollout"),
    )


def _pod(job: RLJob, surroundings: Surroundings, name: str, role: PodRole, spec: PodSpec) -> Pod:
    """Return the pod under its name, which is also its name in DNS below the job's Service."""
    identity = {
        "hostname": name,
        "subdomain": names.service(job),
        "service_account_name": None if names_account(job) else names.service_account(job),
    }
    revision = {ANNOTATION_SPEC_HASH: spec_hash(job), ANNOTATION_ATTEMPT: str(surroundings.attempt)}
    annotations = {**network_annotations(job, role), **gang_annotations(job, surroundings, role), **revision}
    return Pod(
        metadata=names.metadata(job, name, role).model_copy(update={"annotations": annotations}),
        spec=placed(job, surroundings, role, spec.model_copy(update=identity)),
    )


def _trainer(job: RLJob, surroundings: Surroundings) -> Container:
    """Return the container of the trainer's engine."""
    access = claims.trainer_access(job)
    return Container(
        name="trainer",
        image=job.spec.trainer.image,
        command=("tandem-engine",),
        args=("--role", "train"),
        env=(
            *environment(job, surroundings),
            EnvVar(name="TANDEM_SHARED", value=SHARED_PATH),
            EnvVar(name="TANDEM_STATE", value=STATE_PATH),
            *access.env,
        ),
        ports=(
            ContainerPort(name="engine-train", container_port=ENGINE_PORT_TRAIN),
            ContainerPort(name="rendezvous", container_port=RENDEZVOUS_PORT),
        ),
        volume_mounts=(*configuration_mounts(job, surroundings), SHARED_MOUNT, STATE_MOUNT),
        resources=access.resources,
        security_context=_engine_security_context(job),
    )


def _server(job: RLJob, surroundings: Surroundings, access: DeviceAccess, num_devices: int) -> Container:
    """Return the container of the servers' engine, for a pod with `num_devices` devices."""
    return Container(
        name="rollout",
        image=job.spec.rollout.image,
        command=("tandem-engine",),
        args=("--role", "rollout"),
        env=(*environment(job, surroundings), EnvVar(name="TANDEM_SHARED", value=SHARED_PATH), *access.env),
        ports=(
            ContainerPort(name="engine-rollout", container_port=ENGINE_PORT_ROLLOUT),
            *_server_ports(job, num_devices),
        ),
        volume_mounts=(*configuration_mounts(job, surroundings), SHARED_MOUNT),
        resources=access.resources,
        security_context=_engine_security_context(job),
    )


def _server_ports(job: RLJob, num_devices: int) -> tuple[ContainerPort, ...]:
    """Return one port a server: `server`, then `server-1`, `server-2`, … since names are unique in a container."""
    num_servers = num_devices // job.spec.rollout.parallelism.num_devices
    return tuple(
        ContainerPort(name="server" if index == 0 else f"server-{index}", container_port=SERVER_PORT + index)
        for index in range(num_servers)
    )


def _engine_security_context(job: RLJob) -> dict[str, JsonValue]:
    """Return the privileges of an engine: the least, and with RDMA locked memory, which registering it needs."""
    if job.spec.hybrid.rdma is None:
        return LOCKED_DOWN
    return {**LOCKED_DOWN, "capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]}}
