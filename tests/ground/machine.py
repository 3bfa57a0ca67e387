"""Whether this machine can hold a real node."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.ground.host_mounts import hidden_folder, machine_mounts
from tests.ground.programs import GroundError

TOOLS = {
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "ip": "iproute2",
    "runc": "runc",
    "nft": "nftables",
    "conntrack": "conntrack",
}
"""Programs, and the Debian package of each."""
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))
CNI_PLUGINS = ("host-local", "loopback", "portmap", "ptp")
NAMESPACES = ("--net", "--mount", "--pid", "--cgroup", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc")
SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
TRY_SECONDS = 20.0


def tool(name: str) -> Path:
    """Return the path of a tool, also where PATH lacks the administrator's folders; raise GroundError."""
    found = shutil.which(name, path=SEARCH_PATH)
    if found is None:
        raise GroundError(f"{name}: not installed; run `apt-get install {TOOLS[name]}`")
    return Path(found)


def cni_folder() -> Path:
    """Return the folder of the network plugins; raise GroundError."""
    for folder in CNI_FOLDERS:
        if all(os.access(folder / plugin, os.X_OK) for plugin in CNI_PLUGINS):
            return folder
    raise GroundError("network plugins: not installed; run `apt-get install containernetworking-plugins`")


def check_machine() -> None:
    """Raise GroundError with the one thing that keeps this machine from holding a node."""
    if os.geteuid() != 0:
        raise GroundError("not root: a node needs namespaces, mounts and cgroups; run the tests with sudo")
    for name in TOOLS:
        tool(name)
    cni_folder()
    if not os.access("/dev/kmsg", os.R_OK):
        raise GroundError("/dev/kmsg: cannot be read, and a kubelet must; run on the machine, not in a container")
    hidden = hidden_folder(machine_mounts())
    if hidden is not None:
        raise GroundError(f"{hidden}: pods need it, and the node has its own folder there; move the checkout or Python")
    # A mount inside shows at once whether the machine allows namespaces and mounts.
    tried = subprocess.run(
        [tool("unshare"), *NAMESPACES, "mount", "-t", "tmpfs", "tmpfs", "/run"],
        capture_output=True,
        text=True,
        timeout=TRY_SECONDS,
        check=False,
    )
    if tried.returncode != 0:
        raise GroundError(f"namespaces: {tried.stderr.strip()}; run on the machine, or in a privileged container")
