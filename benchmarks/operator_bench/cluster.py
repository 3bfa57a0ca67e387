"""A control plane on loopback with 100 fake nodes: etcd, API server, controllers, scheduler and kwok."""

import asyncio
import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.operator_bench.api import Api, until
from benchmarks.operator_bench.counters import AuditLog
from benchmarks.operator_bench.proc import cpu_seconds
from tests.ground import commands
from tests.ground.access import Access, write_kubeconfig
from tests.ground.api_server import SERVICES, START_SECONDS
from tests.ground.keys import ClusterKeys, make_keys
from tests.ground.processes import Running, listens, start
from tests.tandem_checkpoint.etcd_process import free_address

STAGES = Path(__file__).with_name("kwok-stages.yaml")
NUM_NODES = 100
NODE_RESOURCES = {"cpu": "64", "memory": "512Gi", "pods": "110"}
NODES_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class BenchCluster:
    """The running control plane."""

    access: Access
    kubeconfigs: Mapping[str, Path]
    """By user: each operator is one, so that the audit log tells them apart."""
    etcd_endpoint: str
    processes: Mapping[str, Running]
    audit: AuditLog
    keys: ClusterKeys
    folder: Path

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time of each process so far; the operator's is not among them."""
        return {name: cpu_seconds(running.process.pid) for name, running in self.processes.items()}


@contextmanager
def run_cluster(
    folder: Path, programs: Mapping[str, Path], manifests: tuple[Path, ...], users: tuple[str, ...]
) -> Iterator[BenchCluster]:
    """Run it; afterwards nothing of it is left but `folder`. Raise ProgramError.

    The manifests come before the garbage collector: it asks for new kinds of object only every 30 s.
    """
    address = free_address()
    at = commands.Addresses(address, address, address, SERVICES)
    keys = make_keys(folder / "keys", [address, "198.18.0.1"])
    kubeconfigs = _kubeconfigs(folder, at, keys, users)
    access = Access(kubeconfigs["admin"], at.api_url, keys.ca_certificate, keys.token, programs["kubectl"])
    logs = folder / "log"
    audit = AuditLog(folder / "audit.log")
    with ExitStack() as stack:
        processes: dict[str, Running] = {}

        def run(name: str, command: list[str]) -> Running:
            processes[name] = start(name, command, logs)
            stack.callback(processes[name].kill)
            return processes[name]

        etcd = run("etcd", commands.etcd(programs["etcd"], folder / "etcd", address))
        etcd.until_ready(lambda: listens(address, commands.ETCD_PORT), START_SECONDS)
        flags = ["--endpoint-reconciler-type=none", f"--cert-dir={folder}", *_audit_flags(folder, audit, users)]
        api = run("kube-apiserver", commands.api_server(programs["kube-apiserver"], keys, at, flags))
        api.until_ready(access.ready, START_SECONDS)
        for manifest in manifests:
            access.kubectl("apply", "--server-side", "-f", str(manifest))
        run("kube-controller-manager", _controllers(programs, keys, kubeconfigs["admin"]))
        run("kube-scheduler", commands.scheduler(programs["kube-scheduler"], kubeconfigs["admin"]))
        run("kwok", _kwok(programs["kwok"], kubeconfigs["admin"]))
        yield BenchCluster(access, kubeconfigs, f"{address}:{commands.ETCD_PORT}", processes, audit, keys, folder)


async def make_nodes(api: Api) -> None:
    """Create the fake nodes and wait until they are ready; raise TimeoutError."""
    async with asyncio.TaskGroup() as tasks:
        for number in range(NUM_NODES):
            tasks.create_task(api.send("POST", "/api/v1/nodes", _node(number)), name=f"node {number}")

    async def all_ready() -> bool:
        return await _num_ready(api) == NUM_NODES

    await until(all_ready, NODES_SECONDS, "all fake nodes are ready")


async def _num_ready(api: Api) -> int:
    """Return how many nodes take pods."""
    nodes = (await api.send("GET", "/api/v1/nodes"))["items"]
    return sum(
        not node["spec"].get("taints")
        and any(item["type"] == "Ready" and item["status"] == "True" for item in node["status"].get("conditions", []))
        for node in nodes
    )


def _node(number: int) -> dict[str, object]:
    name = f"fake-{number}"
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": NODE_RESOURCES, "capacity": NODE_RESOURCES},
    }


def _kubeconfigs(folder: Path, at: commands.Addresses, keys: ClusterKeys, users: tuple[str, ...]) -> dict[str, Path]:
    """Write a kubeconfig for the administrator and each user, all of them administrators; return the files."""
    tokens = {"admin": keys.token, **{user: secrets.token_hex(16) for user in users}}
    with keys.token_file.open("a") as known:
        known.writelines(f'{tokens[user]},{user},{user},"system:masters"\n' for user in users)
    files = {user: folder / f"kubeconfig-{user}" for user in tokens}
    for user, file in files.items():
        write_kubeconfig(file, at.api_url, keys.ca_certificate, tokens[user])
    return files


def _audit_flags(folder: Path, audit: AuditLog, users: tuple[str, ...]) -> list[str]:
    """Return the flags that log what the users ask, but for watches and leases."""
    policy = folder / "audit-policy.json"
    rules: list[dict[str, object]] = [
        {"level": "None", "verbs": ["watch"]},
        {"level": "None", "resources": [{"group": "coordination.k8s.io", "resources": ["leases"]}]},
        {"level": "Metadata", "users": list(users)},
        {"level": "None"},
    ]
    stages = ["RequestReceived", "ResponseStarted"]
    policy.write_text(
        json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": stages, "rules": rules})
    )
    return [f"--audit-policy-file={policy}", f"--audit-log-path={audit.path}", "--audit-log-maxsize=10000"]


def _controllers(programs: Mapping[str, Path], keys: ClusterKeys, kubeconfig: Path) -> list[str]:
    extra = ["--concurrent-job-syncs=20", "--node-monitor-grace-period=2h"]
    return commands.controllers(programs["kube-controller-manager"], keys, kubeconfig, extra)


def _kwok(program: Path, kubeconfig: Path) -> list[str]:
    return [
        str(program),
        f"--config={STAGES}",
        f"--kubeconfig={kubeconfig}",
        "--manage-all-nodes=true",
        "--node-lease-duration-seconds=0",
        "--cidr=10.245.0.1/16",
        "--node-ip=10.246.0.1",
    ]
