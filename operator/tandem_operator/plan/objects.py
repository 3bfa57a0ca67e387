"""The Kubernetes objects that the planner makes, as far as it sets their fields; what a user merges in is kept."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic.alias_generators import to_camel


class KubernetesObject(BaseModel):
    """Base: camelCase on the wire, immutable, open, because podTemplate may bring any field of the core API."""

    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, serialize_by_alias=True, extra="allow", frozen=True
    )

    def manifest(self) -> dict[str, JsonValue]:
        """Return the object as server-side apply wants it: camelCase, without absent fields."""
        manifest: dict[str, JsonValue] = self.model_dump(mode="json", exclude_none=True)
        return manifest


class OwnerReference(KubernetesObject):
    """The RLJob that an object belongs to."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool = True
    block_owner_deletion: bool = True


class ObjectMeta(KubernetesObject):
    """Identity of an object."""

    name: str
    namespace: str
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] | None = None
    owner_references: tuple[OwnerReference, ...] | None = None


class FieldRef(KubernetesObject):
    """A field of the pod itself."""

    field_path: str


class EnvVarSource(KubernetesObject):
    """Where a variable's value comes from."""

    field_ref: FieldRef | None = None


class EnvVar(KubernetesObject):
    """One environment variable: `value`, or `valueFrom` a field of the pod."""

    name: str
    value: str | None = None
    value_from: EnvVarSource | None = None


class ContainerPort(KubernetesObject):
    """One port that a container listens on."""

    name: str
    container_port: int


class VolumeMount(KubernetesObject):
    """Where a volume is seen in a container."""

    name: str
    mount_path: str
    read_only: bool | None = None


class ContainerResources(KubernetesObject):
    """Requests, limits and claims of a container."""

    requests: dict[str, str] | None = None
    limits: dict[str, str] | None = None
    claims: tuple[dict[str, str], ...] | None = None


class Container(KubernetesObject):
    """One container."""

    name: str
    image: str
    command: tuple[str, ...]
    args: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()
    ports: tuple[ContainerPort, ...] = ()
    volume_mounts: tuple[VolumeMount, ...] = ()
    resources: ContainerResources | None = None
    security_context: dict[str, JsonValue] | None = None
    termination_message_policy: Literal["File", "FallbackToLogsOnError"] = "FallbackToLogsOnError"
    """The end of its log says why a container failed: the log itself goes with its pod."""


class EmptyDir(KubernetesObject):
    """A volume that lives as long as its pod; medium Memory is a tmpfs."""

    medium: Literal["", "Memory"] = ""
    size_limit: str | None = None


class ConfigMapSource(KubernetesObject):
    """Files from a ConfigMap."""

    name: str


class SecretSource(KubernetesObject):
    """Files from a Secret."""

    secret_name: str
    default_mode: int | None = None


class ClaimSource(KubernetesObject):
    """A PersistentVolumeClaim."""

    claim_name: str


class Volume(KubernetesObject):
    """One volume: exactly one source is set."""

    name: str
    empty_dir: EmptyDir | None = None
    config_map: ConfigMapSource | None = None
    secret: SecretSource | None = None
    persistent_volume_claim: ClaimSource | None = None


class PodResourceClaim(KubernetesObject):
    """The pod's claim of devices, made from a template."""

    name: str
    resource_claim_template_name: str


class SchedulingGroup(KubernetesObject):
    """The PodGroup that a pod is placed with (scheduling.k8s.io)."""

    pod_group_name: str


class PodSpec(KubernetesObject):
    """What runs in a pod."""

    containers: tuple[Container, ...]
    volumes: tuple[Volume, ...] = ()
    restart_policy: Literal["Always", "OnFailure", "Never"] = "OnFailure"
    hostname: str | None = None
    subdomain: str | None = None
    resource_claims: tuple[PodResourceClaim, ...] | None = None
    service_account_name: str | None = None
    priority_class_name: str | None = None
    affinity: dict[str, JsonValue] | None = None
    host_network: bool | None = None
    dns_policy: Literal["ClusterFirst", "ClusterFirstWithHostNet"] | None = None
    termination_grace_period_seconds: int = 30
    automount_service_account_token: bool = False
    enable_service_links: bool = False
    """A Service named vllm beside the job would set VLLM_PORT, which vLLM reads as its own."""
    tolerations: tuple[dict[str, JsonValue], ...] | None = None
    node_selector: dict[str, str] | None = None
    scheduler_name: str | None = None
    scheduling_group: SchedulingGroup | None = None


class Pod(KubernetesObject):
    """A pod."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Pod"] = "Pod"
    metadata: ObjectMeta
    spec: PodSpec


class ServiceAccount(KubernetesObject):
    """Who pods are to the API server."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["ServiceAccount"] = "ServiceAccount"
    metadata: ObjectMeta
    automount_service_account_token: bool = False


class ConfigMap(KubernetesObject):
    """Files that containers read."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["ConfigMap"] = "ConfigMap"
    metadata: ObjectMeta
    data: dict[str, str]


class Secret(KubernetesObject):
    """Files that only this job's containers may read."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Secret"] = "Secret"
    metadata: ObjectMeta
    string_data: dict[str, str] = Field(repr=False)


class ServicePort(KubernetesObject):
    """One port of a service."""

    name: str
    port: int


class ServiceSpec(KubernetesObject):
    """Which pods a service names."""

    selector: dict[str, str]
    ports: tuple[ServicePort, ...]
    cluster_ip: str | None = Field(default=None, alias="clusterIP")
    publish_not_ready_addresses: bool = False


class Service(KubernetesObject):
    """Names for pods."""

    api_version: Literal["v1"] = "v1"
    kind: Literal["Service"] = "Service"
    metadata: ObjectMeta
    spec: ServiceSpec


class LabelRequirement(KubernetesObject):
    """A label and the values that it may have."""

    key: str
    operator: Literal["In"] = "In"
    values: tuple[str, ...]


class LabelSelector(KubernetesObject):
    """Objects by their labels: all of what is named must hold."""

    match_labels: dict[str, str] | None = None
    match_expressions: tuple[LabelRequirement, ...] | None = None


class NetworkPort(KubernetesObject):
    """One port, or with an end a range of ports."""

    protocol: Literal["TCP"] = "TCP"
    port: int
    end_port: int | None = None


class NetworkPeer(KubernetesObject):
    """Pods of the same namespace, or all pods of namespaces."""

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None


class IngressRule(KubernetesObject):
    """Who may connect, to which ports: None for all."""

    from_: tuple[NetworkPeer, ...] = Field(alias="from")
    ports: tuple[NetworkPort, ...] | None = None


class NetworkPolicySpec(KubernetesObject):
    """Which pods are closed to all but whom."""

    pod_selector: LabelSelector
    policy_types: tuple[Literal["Ingress", "Egress"], ...]
    ingress: tuple[IngressRule, ...]


class NetworkPolicy(KubernetesObject):
    """Who may connect to pods."""

    api_version: Literal["networking.k8s.io/v1"] = "networking.k8s.io/v1"
    kind: Literal["NetworkPolicy"] = "NetworkPolicy"
    metadata: ObjectMeta
    spec: NetworkPolicySpec


class PodDisruptionBudgetSpec(KubernetesObject):
    """How many of which pods must stay healthy."""

    selector: LabelSelector
    min_available: int
    unhealthy_pod_eviction_policy: Literal["AlwaysAllow", "IfHealthyBudget"]


class PodDisruptionBudget(KubernetesObject):
    """What voluntary evictions must leave."""

    api_version: Literal["policy/v1"] = "policy/v1"
    kind: Literal["PodDisruptionBudget"] = "PodDisruptionBudget"
    metadata: ObjectMeta
    spec: PodDisruptionBudgetSpec


class ResourceClaimTemplate(KubernetesObject):
    """Devices that each hybrid pod claims (dynamic resource allocation, resource.k8s.io/v1)."""

    api_version: Literal["resource.k8s.io/v1"] = "resource.k8s.io/v1"
    kind: Literal["ResourceClaimTemplate"] = "ResourceClaimTemplate"
    metadata: ObjectMeta
    spec: dict[str, Any]


class PodGroup(KubernetesObject):
    """Pods that are placed all or none: of scheduling.k8s.io, or of scheduling.volcano.sh."""

    api_version: str
    kind: Literal["PodGroup"] = "PodGroup"
    metadata: ObjectMeta
    spec: dict[str, JsonValue]


class Workload(KubernetesObject):
    """What a job asks of a queue (kueue.x-k8s.io/v1beta2)."""

    api_version: Literal["kueue.x-k8s.io/v1beta2"] = "kueue.x-k8s.io/v1beta2"
    kind: Literal["Workload"] = "Workload"
    metadata: ObjectMeta
    spec: dict[str, JsonValue]


SupportingObject = (
    ServiceAccount
    | ConfigMap
    | Secret
    | Service
    | NetworkPolicy
    | PodDisruptionBudget
    | ResourceClaimTemplate
    | PodGroup
)
"""What pods need around them."""
