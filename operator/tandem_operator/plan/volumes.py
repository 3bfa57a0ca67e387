"""The volumes of a job's pods, where they are mounted, and the variables that say so."""

from tandem_api.job import RLJob
from tandem_operator.plan import names
from tandem_operator.plan.configuration import CONFIG_KEY, TOKEN_KEY
from tandem_operator.plan.objects import (
    ClaimSource,
    ConfigMapSource,
    EmptyDir,
    EnvVar,
    EnvVarSource,
    FieldRef,
    SecretSource,
    Volume,
    VolumeMount,
)
from tandem_operator.plan.surroundings import Surroundings

CONFIG_PATH = "/etc/tandem/config"
SECRET_PATH = "/etc/tandem/secret"
SHARED_PATH = "/var/run/tandem/shared"
STATE_PATH = "/var/lib/tandem"
TLS_PATH = "/etc/tandem/tls"
ETCD_PATH = "/etc/tandem/etcd"

PATHS = {"config": CONFIG_PATH, "secret": SECRET_PATH, "tls": TLS_PATH, "etcd": ETCD_PATH}
"""Where each volume of every container is."""
SHARED_MOUNT = VolumeMount(name="shared", mount_path=SHARED_PATH)
STATE_MOUNT = VolumeMount(name="state", mount_path=STATE_PATH)


def configuration_mounts(job: RLJob, surroundings: Surroundings) -> tuple[VolumeMount, ...]:
    """Return the mounts of every container: where `configuration_volumes` are."""
    return tuple(
        VolumeMount(name=volume.name, mount_path=PATHS[volume.name], read_only=True)
        for volume in configuration_volumes(job, surroundings)
    )


def environment(job: RLJob, surroundings: Surroundings) -> tuple[EnvVar, ...]:
    """Return the variables of every container."""
    return (
        EnvVar(name="TANDEM_CONFIG", value=f"{CONFIG_PATH}/{CONFIG_KEY}"),
        EnvVar(name="TANDEM_TOKEN_FILE", value=f"{SECRET_PATH}/{TOKEN_KEY}"),
        EnvVar(name="TANDEM_ETCD", value=",".join(surroundings.etcd_endpoints)),
        EnvVar(name="TANDEM_ATTEMPT", value=str(surroundings.attempt)),
        _field_of_pod("POD_NAME", "metadata.name"),
        _field_of_pod("POD_NAMESPACE", "metadata.namespace"),
        _field_of_pod("POD_IP", "status.podIP"),
        *(_tls_files() if job.spec.tls.secret_name else ()),
        *((EnvVar(name="TANDEM_ETCD_CREDENTIALS", value=ETCD_PATH),) if surroundings.etcd_secret else ()),
    )


def _tls_files() -> tuple[EnvVar, ...]:
    """Return the variables that name the files of a Secret of type kubernetes.io/tls."""
    return (
        EnvVar(name="TANDEM_TLS_CERT", value=f"{TLS_PATH}/tls.crt"),
        EnvVar(name="TANDEM_TLS_KEY", value=f"{TLS_PATH}/tls.key"),
        EnvVar(name="TANDEM_TLS_CA", value=f"{TLS_PATH}/ca.crt"),
    )


def _field_of_pod(name: str, field_path: str) -> EnvVar:
    """Return a variable with the value of a field of the pod itself."""
    return EnvVar(name=name, value_from=EnvVarSource(field_ref=FieldRef(field_path=field_path)))


def configuration_volumes(job: RLJob, surroundings: Surroundings) -> tuple[Volume, ...]:
    """Return the volumes of every pod: the job's configuration, its token, and the keys that others have made."""
    made_by_others = (("tls", job.spec.tls.secret_name), ("etcd", surroundings.etcd_secret))
    return (
        Volume(name="config", config_map=ConfigMapSource(name=names.config_map(job))),
        Volume(name="secret", secret=SecretSource(secret_name=names.secret(job))),
        *(Volume(name=name, secret=SecretSource(secret_name=secret)) for name, secret in made_by_others if secret),
    )


def shared_volume(job: RLJob, surroundings: Surroundings) -> Volume:
    """Return the in-memory volume through which weights and the hand-over token pass within a pod."""
    size = job.spec.hybrid.shared_memory
    if size is None and surroundings.shared_memory_bytes is not None:
        size = str(surroundings.shared_memory_bytes)
    return Volume(name="shared", empty_dir=EmptyDir(medium="Memory", size_limit=size))


def state_volume(job: RLJob) -> Volume:
    """Return the volume of the job's durable state; without a claim it lives as long as its pod."""
    claim_name = job.spec.checkpoints.claim_name
    if claim_name is None:
        return Volume(name="state", empty_dir=EmptyDir())
    return Volume(name="state", persistent_volume_claim=ClaimSource(claim_name=claim_name))
