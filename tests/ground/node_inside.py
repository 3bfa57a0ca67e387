"""First process of the node's namespaces: prepares them, starts the node's programs, and reaps.

When it ends, the kernel ends every process of the node and drops its mounts and its network.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import sleep

from tests.ground import commands
from tests.ground.access import Access, until
from tests.ground.keys import keys_in
from tests.ground.node_files import CDI_FOLDER, CONTAINERD_SOCKET, configuration_files
from tests.ground.node_settings import GPU_DRIVER, NODE_NAME, NodeSettings
from tests.ground.processes import Running, listens, start

READY_SECONDS = 120.0
WANTED_SYSCTLS = {
    "vm/overcommit_memory": 1,
    "vm/panic_on_oom": 0,
    "kernel/panic": 10,
    "kernel/panic_on_oops": 1,
    "kernel/keys/root_maxkeys": 1_000_000,
    "kernel/keys/root_maxbytes": 25_000_000,
}
"""What the kubelet would write for the whole machine: it is shown these values instead."""
V2_CONTROLLERS = "+cpu +cpuset +io +memory +pids"


def run(*command: str | Path) -> None:
    """Run a tool; its message ends up in this program's log."""
    subprocess.run([str(part) for part in command], check=True)


def prepare_mounts(settings: NodeSettings) -> None:
    """Give the node its own /run, /var/lib and /var/log; nothing mounted here is seen outside."""
    run("mount", "--make-rprivate", "/")
    for folder in ("/run", "/var/lib", "/var/log"):
        run("mount", "-t", "tmpfs", "tmpfs", folder)
    for name, target in (
        ("kubelet", "/var/lib/kubelet"),
        ("containerd", "/var/lib/containerd"),
        ("pods", "/var/log/pods"),
    ):
        source = settings.logs / "pods" if name == "pods" else settings.folder / name
        source.mkdir(parents=True, exist_ok=True)
        Path(target).mkdir()
        run("mount", "--bind", source, target)
    for folder in ("/var/lib/cni", "/run/netns", CDI_FOLDER):
        Path(folder).mkdir(parents=True)
    shown = settings.folder / "sysctl"
    shown.mkdir()
    for name, value in WANTED_SYSCTLS.items():
        file = shown / name.replace("/", ".")
        file.write_text(f"{value}\n")
        run("mount", "--bind", file, f"/proc/sys/{name}")


def prepare_cgroups(settings: NodeSettings) -> None:
    """Mount the cgroups of this cgroup namespace: their roots are the node's own groups."""
    run("umount", "--recursive", "--lazy", "/sys")
    run("mount", "-t", "sysfs", "sysfs", "/sys")
    root = Path("/sys/fs/cgroup")
    if settings.cgroup_version == 2:
        run("mount", "-t", "cgroup2", "cgroup2", root)
        (root / "init").mkdir()
        (root / "init" / "cgroup.procs").write_text("0")
        return
    run("mount", "-t", "tmpfs", "cgroup", root)
    hierarchies = [line.split(":")[1] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for controllers in filter(None, hierarchies):
        mount_hierarchy(root, controllers)


def offer_controllers(settings: NodeSettings) -> None:
    """Offer version 2 controllers to the pods' cgroups: possible once nobody is left in the node's root group."""
    if settings.cgroup_version == 1:
        return
    root = Path("/sys/fs/cgroup")
    until(lambda: not (root / "cgroup.procs").read_text(), READY_SECONDS, "the node's cgroup is empty")
    offered = (root / "cgroup.controllers").read_text().split()
    wanted = [each for each in V2_CONTROLLERS.split() if each[1:] in offered]
    (root / "cgroup.subtree_control").write_text(" ".join(wanted))


def mount_hierarchy(root: Path, controllers: str) -> None:
    """Mount one version 1 hierarchy, under the name of each of its controllers too."""
    point = root / controllers.removeprefix("name=")
    point.mkdir()
    named = controllers.startswith("name=")
    run("mount", "-t", "cgroup", "-o", f"none,{controllers}" if named else controllers, "cgroup", point)
    for controller in controllers.split(",") if "," in controllers else ():
        (root / controller).symlink_to(point)


def prepare_network(settings: NodeSettings) -> None:
    """Take the inner end of the veth pair that was made outside."""
    run("ip", "link", "set", "lo", "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    settings.signpost("namespaces").touch()
    until(settings.signpost("network").exists, READY_SECONDS, "the veth pair is there")
    run("ip", "addr", "add", f"{settings.network.node_address}/30", "dev", "eth0")
    run("ip", "link", "set", "eth0", "up")


def write_configuration(settings: NodeSettings) -> None:
    for name, content in configuration_files(settings).items():
        file = settings.folder / "etc" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)


def start_control_plane(settings: NodeSettings) -> dict[int, Running]:
    """Start etcd, containerd and the API server; import the images meanwhile."""
    network, programs, keys = settings.network, settings.programs, keys_in(settings.folder / "keys")
    at = commands.Addresses("127.0.0.1", "0.0.0.0", network.node_address, network.services)
    etcd = start("etcd", commands.etcd(programs["etcd"], settings.folder / "etcd", at.etcd), settings.logs)
    configuration = settings.folder / "etc" / "containerd.toml"
    containerd = start("containerd", [programs["containerd"], "--config", configuration], settings.logs)
    etcd.until_ready(lambda: listens(at.etcd, commands.ETCD_PORT), READY_SECONDS)
    flags = ["--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP", *commands.POD_GROUPS_API]
    api = start("kube-apiserver", commands.api_server(programs["kube-apiserver"], keys, at, flags), settings.logs)
    containerd.until_ready(lambda: Path(CONTAINERD_SOCKET).is_socket(), READY_SECONDS)
    archive = ("images", "import", "--local", "--snapshotter", "native", settings.archive)
    run(programs["ctr"], "--address", CONTAINERD_SOCKET, "--namespace", "k8s.io", *archive)
    access = Access(settings.kubeconfig, at.api_url, keys.ca_certificate, keys.token, programs["kubectl"])
    api.until_ready(access.ready, READY_SECONDS)
    return {each.process.pid: each for each in (etcd, containerd, api)}


def start_node(settings: NodeSettings) -> dict[int, Running]:
    """Start everything that talks to the API server."""
    programs, etc, kubeconfig = settings.programs, settings.folder / "etc", settings.kubeconfig
    keys = keys_in(settings.folder / "keys")
    signing = [
        f"--cluster-signing-cert-file={keys.ca_certificate}",
        f"--cluster-signing-key-file={keys.ca_key}",
        f"--service-cluster-ip-range={settings.network.services}",
        *commands.POD_GROUPS,
    ]
    kubelet: list[str | Path] = [
        programs["kubelet"],
        f"--config={etc / 'kubelet.json'}",
        f"--kubeconfig={kubeconfig}",
        f"--node-ip={settings.network.node_address}",
        f"--hostname-override={NODE_NAME}",
        "--root-dir=/var/lib/kubelet",
    ]
    manager = commands.controllers(programs["kube-controller-manager"], keys, kubeconfig, signing)
    scheduler = commands.scheduler(programs["kube-scheduler"], kubeconfig, commands.POD_GROUPS)
    gpus: list[str | Path] = ["-kubeconfig", kubeconfig, "-driver", GPU_DRIVER, "-node", NODE_NAME, "-cdi", CDI_FOLDER]
    started = [
        start("kubelet", kubelet, settings.logs),
        start("kube-controller-manager", manager, settings.logs),
        start("kube-scheduler", scheduler, settings.logs),
        start("kube-proxy", [programs["kube-proxy"], f"--config={etc / 'kube-proxy.json'}"], settings.logs),
        start("coredns", [programs["coredns"], "-conf", etc / "Corefile"], settings.logs),
    ]
    until(Path("/var/lib/kubelet/plugins_registry").is_dir, READY_SECONDS, "the kubelet takes plugins")
    started.append(start("fakegpu", [programs["fakegpu"], *gpus, "-gpus", str(settings.num_gpus)], settings.logs))
    return {each.process.pid: each for each in started}


def reap(programs: dict[int, Running]) -> None:
    """Wait for whatever ends, orphans of containers included; say which of the node's programs it was."""
    while True:
        try:
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            sleep(0.2)
            continue
        if pid in programs:
            sys.stderr.write(f"{programs[pid].name} ended with status {os.waitstatus_to_exitcode(status)}\n")
            sys.stderr.flush()


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = NodeSettings.model_validate_json(Path(sys.argv[1]).read_text())
    run("hostname", NODE_NAME)
    prepare_mounts(settings)
    prepare_cgroups(settings)
    run("mount", "--make-rshared", "/")
    write_configuration(settings)
    prepare_network(settings)
    offer_controllers(settings)
    programs = start_control_plane(settings)
    reap(programs | start_node(settings))


if __name__ == "__main__":
    main()
