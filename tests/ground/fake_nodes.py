"""Nodes that are only objects: real schedulers place pods on them, and kwok says that they run."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.ground import commands
from tests.ground.api_server import ApiServer, run_api_server
from tests.ground.processes import start
from tests.ground.programs import ROOT

STAGES = ROOT / "benchmarks" / "operator_bench" / "kwok-stages.yaml"
CONTROLLERS = ("--node-monitor-grace-period=2h", *commands.POD_GROUPS)
NUM_NODES = 4
NODE_RESOURCES = {"cpu": "8", "memory": "64Gi", "pods": "110"}
NUM_GPUS = 4
GPU_CLASS = "gpu.nvidia.com"
"""Device class of the GPUs, and the name of their driver; nobody prepares them, since no pod has a process."""


@contextmanager
def run_fake_nodes(folder: Path, programs: Mapping[str, Path], definitions: Sequence[Path] = ()) -> Iterator[ApiServer]:
    """Run an API server with scheduler, all controllers and nodes that are ready; raise ProgramError, KubectlError."""
    with ExitStack() as stack:
        server = stack.enter_context(run_api_server(folder, programs, definitions, CONTROLLERS))
        scheduler = commands.scheduler(programs["kube-scheduler"], server.kubeconfig, commands.POD_GROUPS)
        kwok = commands.kwok(programs["kwok"], server.kubeconfig, STAGES)
        for name, command in {"kube-scheduler": scheduler, "kwok": kwok}.items():
            stack.callback(start(name, command, server.log_folder).kill)
        names = [f"fake-{number}" for number in range(NUM_NODES)]
        items = [*map(_node, names), *map(_gpus, names), _gpu_class()]
        server.kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        server.kubectl("wait", "--for=condition=Ready", "nodes", "--all", "--timeout=60s")
        yield server


def _node(name: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {"allocatable": NODE_RESOURCES, "capacity": NODE_RESOURCES},
    }


def _gpu_class() -> dict[str, object]:
    selector = {"cel": {"expression": f"device.driver == '{GPU_CLASS}'"}}
    metadata = {"name": GPU_CLASS}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "DeviceClass",
        "metadata": metadata,
        "spec": {"selectors": [selector]},
    }


def _gpus(node: str) -> dict[str, object]:
    """Return what a driver on the node would say that it has."""
    devices = [{"name": f"gpu-{number}", "capacity": {"memory": {"value": "80Gi"}}} for number in range(NUM_GPUS)]
    pool = {"name": node, "generation": 1, "resourceSliceCount": 1}
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": node},
        "spec": {"driver": GPU_CLASS, "nodeName": node, "pool": pool, "devices": devices},
    }
