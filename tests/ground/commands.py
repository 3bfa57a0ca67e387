"""Command lines of the control plane's programs: pure, shared by both grounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.ground.keys import ClusterKeys

ETCD_PORT = 2379
ETCD_PEER_PORT = 2380
API_PORT = 6443
DEPENDENT_CONTROLLERS = (
    "garbage-collector-controller",
    "namespace-controller",
    "root-ca-certificate-publisher-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
)
"""Controllers that look after owners, namespaces and service accounts, and leave pods alone."""
POD_GROUPS = ("--feature-gates=GenericWorkload=true,GangScheduling=true",)
"""For the API server, the controllers and the scheduler alike: gangs of Kubernetes itself, alpha in 1.36."""
POD_GROUPS_API = (*POD_GROUPS, "--runtime-config=scheduling.k8s.io/v1alpha2=true")
"""For the API server: it serves PodGroups too."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where one cluster's parts listen and what its Services may use."""

    etcd: str
    api_bind: str
    api_advertised: str
    services: str
    """Network of the Services' addresses, as CIDR."""

    @property
    def etcd_url(self) -> str:
        return f"http://{self.etcd}:{ETCD_PORT}"

    @property
    def api_url(self) -> str:
        return f"https://{self.api_advertised}:{API_PORT}"


def etcd(program: Path, data: Path, address: str) -> list[str]:
    """Return the command of an etcd that trades durability for speed: its data dies with the ground."""
    client, peer = f"http://{address}:{ETCD_PORT}", f"http://{address}:{ETCD_PEER_PORT}"
    return [
        str(program),
        *("--name", "ground", "--data-dir", str(data), "--log-level", "warn", "--unsafe-no-fsync"),
        *("--listen-client-urls", client, "--advertise-client-urls", client),
        *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
        *("--initial-cluster", f"ground={peer}"),
    ]


def api_server(program: Path, keys: ClusterKeys, at: Addresses, extra: Sequence[str] = ()) -> list[str]:
    """Return the command of an API server with RBAC that answers nobody without a token."""
    return [
        str(program),
        f"--etcd-servers={at.etcd_url}",
        f"--bind-address={at.api_bind}",
        f"--advertise-address={at.api_advertised}",
        f"--secure-port={API_PORT}",
        f"--tls-cert-file={keys.server_certificate}",
        f"--tls-private-key-file={keys.server_key}",
        f"--client-ca-file={keys.ca_certificate}",
        f"--token-auth-file={keys.token_file}",
        "--anonymous-auth=false",
        "--authorization-mode=Node,RBAC",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={keys.service_account_key}",
        f"--service-account-signing-key-file={keys.service_account_key}",
        f"--service-cluster-ip-range={at.services}",
        # etcd before 3.5.8 cannot tell its watchers how far it is: a list by watch would stall for up to 30 s.
        "--feature-gates=WatchList=false",
        "--max-requests-inflight=3000",
        "--max-mutating-requests-inflight=1500",
        *extra,
    ]


def _acting_alone(kubeconfig: Path) -> list[str]:
    """Return the flags of a component that listens nowhere, is the only one of its kind, and need not hold back."""
    return [
        f"--kubeconfig={kubeconfig}",
        "--secure-port=0",
        "--leader-elect=false",
        "--kube-api-qps=1000",
        "--kube-api-burst=2000",
    ]


def controllers(program: Path, keys: ClusterKeys, kubeconfig: Path, extra: Sequence[str] = ()) -> list[str]:
    """Return the command of a controller manager that listens nowhere."""
    return [
        str(program),
        *_acting_alone(kubeconfig),
        "--concurrent-gc-syncs=20",
        f"--service-account-private-key-file={keys.service_account_key}",
        f"--root-ca-file={keys.ca_certificate}",
        *extra,
    ]


def scheduler(program: Path, kubeconfig: Path, extra: Sequence[str] = ()) -> list[str]:
    """Return the command of a scheduler that listens nowhere."""
    return [
        str(program),
        *_acting_alone(kubeconfig),
        *extra,
    ]


def kwok(program: Path, kubeconfig: Path, stages: Path) -> list[str]:
    """Return the command of a kwok that listens nowhere: nodes and pods go through the stages, and nothing runs."""
    return [
        str(program),
        f"--config={stages}",
        f"--kubeconfig={kubeconfig}",
        "--manage-all-nodes=true",
        "--node-lease-duration-seconds=0",
        "--cidr=10.245.0.1/16",
        "--node-ip=10.246.0.1",
    ]
