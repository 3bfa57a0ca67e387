"""A real node: kubelet, containerd, scheduler, DNS and fake GPUs, all in namespaces of their own."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.ground import node_cgroups
from tests.ground.access import Access, KubectlError, define, until, write_kubeconfig
from tests.ground.commands import API_PORT
from tests.ground.host_mounts import HostMounts, machine_mounts
from tests.ground.keys import make_keys
from tests.ground.machine import NAMESPACES, SEARCH_PATH, cni_folder, tool
from tests.ground.node_image import write_archive
from tests.ground.node_settings import GPU_DRIVER, HOST_IMAGE, NODE_NAME, Network, NodeSettings
from tests.ground.processes import Running, mortal
from tests.ground.programs import ROOT, GroundError

NUM_SLOTS = 16
START_SECONDS = 180.0
STOP_SECONDS = 20.0
GPU_CLASSES = ("gpu.nvidia.com", GPU_DRIVER)
"""Device classes of the fake GPUs: an RLJob's default, and the driver's own name."""
JOB_IMAGES = tuple(f"docker.io/tandem/{part}:0.1" for part in ("master", "rollout", "trainer"))
"""Images that an RLJob names where it names none: the machine's own programs stand in for them."""
JOIN_CGROUPS = 'while [ "$1" != -- ]; do echo $$ > "$1" || exit 1; shift; done; shift; exec "$@"'


@dataclass(frozen=True, slots=True)
class RealNode(Access):
    """A node that is up."""

    settings: NodeSettings
    host_mounts: HostMounts
    python: Path
    """The Python of this environment: a pod with `host_mounts` has it under the same path."""
    image: str
    cgroups: tuple[Path, ...]
    first_process: int

    @property
    def node_ip(self) -> str:
        return self.settings.network.node_address

    @property
    def host_ip(self) -> str:
        """Address of the machine's end of the veth pair: pods reach the machine by it."""
        return self.settings.network.host_address

    def process_of(self, container_id: str) -> int:
        """Return the first process of a container, as the machine numbers it; raise ProcessLookupError."""
        plain = container_id.rpartition("/")[2]
        for folder in self.cgroups:
            for group in folder.rglob(f"*{plain}*"):
                for pid in sorted(node_cgroups.processes_below(group)):
                    if _is_first_of_namespace(pid):
                        return pid
        raise ProcessLookupError(f"no process of container {container_id}")

    def logs(self) -> Path:
        """Save what the API server knows beside the logs of the node's programs and pods; return the folder."""
        for name in ("events", "pods", "resourceclaims", "nodes"):
            with suppress(KubectlError, subprocess.TimeoutExpired):
                (self.settings.logs / f"{name}.yaml").write_text(self.kubectl("get", name, "-A", "-o", "yaml"))
        return self.settings.logs


def _is_first_of_namespace(pid: int) -> bool:
    with suppress(OSError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return any(line.startswith("NSpid:") and line.split()[-1] == "1" for line in lines)
    return False


@contextmanager
def run_node(
    folder: Path, programs: Mapping[str, Path], num_gpus: int = 4, definitions: Sequence[Path] = ()
) -> Iterator[RealNode]:
    """Run a node with the definitions (CRDs) applied; afterwards only its logs and keys are left, in `folder`.

    Raise GroundError where this machine cannot hold one, ProgramError where a part of it does not start.
    """
    layout = node_cgroups.find_layout()
    with ExitStack() as stack:
        network = Network(slot=_take_slot(stack))
        settings = NodeSettings(
            folder=folder,
            programs=dict(programs),
            cni_folder=cni_folder(),
            runc=tool("runc"),
            cgroup_version=layout.version,
            network=network,
            num_gpus=num_gpus,
        )
        cgroups = node_cgroups.make(layout, network.interface)
        stack.callback(_remove_state, folder)
        stack.callback(node_cgroups.remove, cgroups)
        _prepare(settings)
        first = _start_inside(settings, cgroups)
        stack.callback(_end, first, cgroups)
        first.until_ready(settings.signpost("namespaces").exists, START_SECONDS)
        _connect(network, first.process.pid)
        if layout.version == 2:
            _step_aside(cgroups[0], first.process.pid)
        settings.signpost("network").touch()
        node = _node(settings, cgroups, first.process.pid)
        first.until_ready(node.ready, START_SECONDS)
        _furnish(node, first, definitions)
        yield node


def _take_slot(stack: ExitStack) -> int:
    """Return the number of a node that nobody runs; the kernel frees it when this process ends."""
    for slot in range(NUM_SLOTS):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0tandem-node-{slot}")
        except OSError:
            claim.close()
            continue
        stack.callback(claim.close)
        return slot
    raise GroundError(f"{NUM_SLOTS} nodes run on this machine already; end one")


def _prepare(settings: NodeSettings) -> None:
    """Write keys, kubeconfig, images and the settings for the program inside."""
    folder, network = settings.folder, settings.network
    settings.signpost("x").parent.mkdir(parents=True)
    settings.logs.mkdir()
    keys = make_keys(folder / "keys", ["127.0.0.1", network.node_address, network.api_service])
    write_kubeconfig(settings.kubeconfig, _url(network), keys.ca_certificate, keys.token)
    write_archive(settings.archive, settings.programs["pause"], (HOST_IMAGE, *JOB_IMAGES))
    (folder / "settings.json").write_text(settings.model_dump_json(indent=1))


def _url(network: Network) -> str:
    return f"https://{network.node_address}:{API_PORT}"


def _start_inside(settings: NodeSettings, cgroups: tuple[Path, ...]) -> Running:
    """Start the node's first process in its cgroups and namespaces; it dies with this process."""
    inside = [sys.executable, "-m", "tests.ground.node_inside", str(settings.folder / "settings.json")]
    joined = [str(folder / "cgroup.procs") for folder in cgroups]
    command = [
        *(*mortal(), "sh", "-c", JOIN_CGROUPS, "sh", *joined, "--"),
        *(str(tool("unshare")), *NAMESPACES, *inside),
    ]
    log = settings.logs / "first.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment()
        )
    return Running("the node", log, process)


def _environment() -> dict[str, str]:
    return {"PATH": SEARCH_PATH, "HOME": "/root", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def _connect(network: Network, pid: int) -> None:
    """Make the veth pair, the one thing outside the namespaces; it goes when its inner end goes."""
    pair = ("type", "veth", "peer", "name", "eth0", "netns", str(pid))
    _ip("link", "add", network.interface, *pair)
    _ip("addr", "add", f"{network.host_address}/30", "dev", network.interface)
    _ip("link", "set", network.interface, "up")
    for target in (network.pods, network.services):
        _ip("route", "add", target, "via", network.node_address, "dev", network.interface)


def _ip(*arguments: str) -> None:
    subprocess.run([str(tool("ip")), *arguments], check=True, capture_output=True)


def _step_aside(folder: Path, pid: int) -> None:
    """Move `unshare` itself out of the node's root cgroup: version 2 gives no controllers below one with processes."""
    aside = folder / "outer"
    aside.mkdir()
    (aside / "cgroup.procs").write_text(str(pid))


def _node(settings: NodeSettings, cgroups: tuple[Path, ...], pid: int) -> RealNode:
    ca_file = settings.folder / "keys" / "ca.crt"
    token = json.loads(settings.kubeconfig.read_text())["users"][0]["user"]["token"]
    return RealNode(
        kubeconfig=settings.kubeconfig,
        url=_url(settings.network),
        ca_file=ca_file,
        token=token,
        kubectl_program=settings.programs["kubectl"],
        settings=settings,
        host_mounts=machine_mounts(),
        python=Path(sys.prefix) / "bin" / "python",
        image=HOST_IMAGE,
        cgroups=cgroups,
        first_process=pid,
    )


def _furnish(node: RealNode, first: Running, definitions: Sequence[Path]) -> None:
    """Apply the definitions and the device classes; wait until pods can run."""
    define(node, definitions)
    selector = {"cel": {"expression": f"device.driver == '{GPU_DRIVER}'"}}
    kind = {"apiVersion": "resource.k8s.io/v1", "kind": "DeviceClass"}
    node.apply(*({**kind, "metadata": {"name": name}, "spec": {"selectors": [selector]}} for name in GPU_CLASSES))
    waits = {
        f"node/{NODE_NAME}": "{.status.conditions[?(@.type=='Ready')].status}",
        "serviceaccount/default": "{.metadata.uid}",
        "resourceslices": "{.items[*].metadata.name}",
    }
    for what, path in waits.items():
        first.until_ready(partial(_answers, node, what, path), START_SECONDS)


def _answers(node: RealNode, what: str, path: str) -> bool:
    """Return whether a value is there, and is not False."""
    with suppress(KubectlError):
        return node.kubectl("get", what, "-o", f"jsonpath={path}") not in ("", "False", "Unknown")
    return False


def _end(first: Running, cgroups: tuple[Path, ...]) -> None:
    """End the first process: the kernel ends all others of its namespaces with it."""
    first.kill()
    until(lambda: not node_cgroups.processes_below(cgroups[0]), STOP_SECONDS, "the node's processes are gone")


def _remove_state(folder: Path) -> None:
    """Remove what is large; keep logs, keys and configuration. Nothing is removed through a mount that is left."""
    mounted = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    left = [point for point in mounted if point.startswith(f"{folder}/")]
    assert not left, f"{left[0]}: still mounted after the node is down"
    for name in ("kubelet", "containerd", "etcd", "images.tar"):
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def kill_container(node: RealNode, container_id: str) -> None:
    """SIGKILL a container's first process, as the kernel does when memory runs out."""
    os.kill(node.process_of(container_id), signal.SIGKILL)
