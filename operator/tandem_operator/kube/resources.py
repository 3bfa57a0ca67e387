"""Which kinds of Kubernetes objects the operator speaks of, and the paths they are served at."""

from dataclasses import dataclass, replace

from tandem_operator.kube.manifest import Manifest, text


@dataclass(frozen=True, slots=True)
class ResourceKind:
    """One kind in one version of its API group."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    """Its name in paths and in RBAC rules."""
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """Return apiVersion as a manifest writes it."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def group_path(self) -> str:
        """Return the path of the API group's version, where discovery is served."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def collection_path(self, namespace: str | None = None) -> str:
        """Return the path of the objects of one namespace, or of all where `namespace` is None."""
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace is not None else ""
        return f"{self.group_path}{scope}/{self.plural}"

    def object_path(self, namespace: str | None, name: str, subresource: str | None = None) -> str:
        """Return the path of one object or of its subresource; ValueError where its namespace is missing."""
        if self.namespaced and not namespace:
            raise ValueError(f"{self.kind} {name}: has no namespace; give metadata.namespace")
        path = f"{self.collection_path(namespace)}/{name}"
        return path if subresource is None else f"{path}/{subresource}"


POD = ResourceKind("", "v1", "pods", "Pod")
SERVICE = ResourceKind("", "v1", "services", "Service")
CONFIG_MAP = ResourceKind("", "v1", "configmaps", "ConfigMap")
SECRET = ResourceKind("", "v1", "secrets", "Secret")
SERVICE_ACCOUNT = ResourceKind("", "v1", "serviceaccounts", "ServiceAccount")
EVENT = ResourceKind("", "v1", "events", "Event")
NODE = ResourceKind("", "v1", "nodes", "Node", namespaced=False)
NAMESPACE = ResourceKind("", "v1", "namespaces", "Namespace", namespaced=False)
ROLE = ResourceKind("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDING = ResourceKind("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")
POD_DISRUPTION_BUDGET = ResourceKind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
NETWORK_POLICY = ResourceKind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
RESOURCE_CLAIM_TEMPLATE = ResourceKind("resource.k8s.io", "v1", "resourceclaimtemplates", "ResourceClaimTemplate")
RESOURCE_CLAIM = ResourceKind("resource.k8s.io", "v1", "resourceclaims", "ResourceClaim")
LEASE = ResourceKind("coordination.k8s.io", "v1", "leases", "Lease")
CUSTOM_RESOURCE_DEFINITION = ResourceKind(
    "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False
)
RLJOB = ResourceKind("tandem.dev", "v1alpha1", "rljobs", "RLJob")
POD_GROUP = ResourceKind("scheduling.k8s.io", "v1alpha2", "podgroups", "PodGroup")
POD_GROUP_BETA = ResourceKind("scheduling.k8s.io", "v1beta1", "podgroups", "PodGroup")
PRIORITY_CLASS = ResourceKind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
VOLCANO_POD_GROUP = ResourceKind("scheduling.volcano.sh", "v1beta1", "podgroups", "PodGroup")
KUEUE_WORKLOAD = ResourceKind("kueue.x-k8s.io", "v1beta2", "workloads", "Workload")
RESOURCE_FLAVOR = ResourceKind("kueue.x-k8s.io", "v1beta2", "resourceflavors", "ResourceFlavor", namespaced=False)

KNOWN = (
    POD,
    SERVICE,
    CONFIG_MAP,
    SECRET,
    SERVICE_ACCOUNT,
    EVENT,
    NODE,
    NAMESPACE,
    ROLE,
    ROLE_BINDING,
    POD_DISRUPTION_BUDGET,
    NETWORK_POLICY,
    RESOURCE_CLAIM_TEMPLATE,
    RESOURCE_CLAIM,
    LEASE,
    CUSTOM_RESOURCE_DEFINITION,
    RLJOB,
    POD_GROUP,
    PRIORITY_CLASS,
    VOLCANO_POD_GROUP,
    KUEUE_WORKLOAD,
    RESOURCE_FLAVOR,
)
"""Every kind that a manifest may name."""

_BY_GROUP_AND_KIND = {(known.group, known.kind): known for known in KNOWN}


def kind_of(manifest: Manifest) -> ResourceKind:
    """Return the kind that a manifest names, in the version that it names; ValueError for one that is not known."""
    api_version, kind = text(manifest, "apiVersion"), text(manifest, "kind")
    group, _, version = api_version.rpartition("/")
    known = _BY_GROUP_AND_KIND.get((group, kind))
    if known is None or not version:
        raise ValueError(
            f"manifest: {api_version or 'no apiVersion'} {kind or 'no kind'} is not known; add it to KNOWN"
        )
    return known if known.version == version else replace(known, version=version)
