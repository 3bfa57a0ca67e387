"""Configuration files of the node's programs: pure text."""

import json

from pydantic import JsonValue

from tests.ground.node_settings import DOMAIN, NODE_NAME, PAUSE_IMAGE, NodeSettings

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
CDI_FOLDER = "/run/cdi"
DNS_READY_PORT = 8181


def configuration_files(settings: NodeSettings) -> dict[str, str]:
    """Return name and content of every configuration file; they stand in `<folder>/etc`."""
    return {
        "containerd.toml": containerd(settings),
        "kubelet.json": json.dumps(kubelet(settings), indent=1),
        "kube-proxy.json": json.dumps(kube_proxy(settings), indent=1),
        "Corefile": corefile(settings),
        "cni/10-pods.conflist": json.dumps(pod_network(settings), indent=1),
    }


def containerd(settings: NodeSettings) -> str:
    """Return containerd's configuration.

    `restrict_oom_score_adj`: without CAP_SYS_RESOURCE runc may not lower the score, and every pod would fail.
    """
    return f"""version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "native"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE_IMAGE}"
[plugins."io.containerd.cri.v1.runtime"]
  enable_cdi = true
  cdi_spec_dirs = ["{CDI_FOLDER}"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{settings.cni_folder}"]
    conf_dir = "{settings.folder}/etc/cni"
  [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
      BinaryName = "{settings.runc}"
      SystemdCgroup = false
"""


def kubelet(settings: NodeSettings) -> dict[str, JsonValue]:
    """Return the kubelet's configuration: no eviction for a full disk; a container that ends is back in a second."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "cgroupDriver": "cgroupfs",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        # It listens in the node's own network only: so the API server can fetch logs and run `kubectl exec`.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "failSwapOn": False,
        "clusterDNS": [settings.network.node_address],
        "clusterDomain": DOMAIN,
        "resolvConf": "",
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "serializeImagePulls": False,
        "registryPullQPS": 0,
        "crashLoopBackOff": {"maxContainerRestartPeriod": "1s"},
        "eventRecordQPS": 50,
        "kubeAPIQPS": 100,
        "kubeAPIBurst": 200,
        "logging": {"verbosity": 2},
    }


def kube_proxy(settings: NodeSettings) -> dict[str, JsonValue]:
    """Return kube-proxy's configuration: no sysctl of the whole machine is touched."""
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clusterCIDR": settings.network.pods,
        "hostnameOverride": NODE_NAME,
        "clientConnection": {"kubeconfig": str(settings.kubeconfig)},
        "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }


def corefile(settings: NodeSettings) -> str:
    """Return CoreDNS's configuration: names of Services and pods, and of nothing outside."""
    return f""".:53 {{
  bind {settings.network.node_address}
  errors
  ready 127.0.0.1:{DNS_READY_PORT}
  cache 1
  kubernetes {DOMAIN} {{
    kubeconfig {settings.kubeconfig}
  }}
}}
"""


def pod_network(settings: NodeSettings) -> dict[str, JsonValue]:
    """Return the CNI chain: a veth for each pod, routed, with no way out of the machine."""
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "mtu": 1400,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": settings.network.pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": True}, "snat": False},
        ],
    }
