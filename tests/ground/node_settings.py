"""What the program inside the node's namespaces has to know: written outside, read inside."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

NODE_NAME = "ground"
HOST_IMAGE = "localhost/host:1"
PAUSE_IMAGE = "localhost/pause:1"
GPU_DRIVER = "gpu.tandem.dev"
DOMAIN = "cluster.local"


class Network(BaseModel):
    """Addresses of one node, out of a network set aside for measurements (RFC 2544), which no machine routes."""

    model_config = ConfigDict(frozen=True)

    slot: int
    """0 to 15: several nodes can be up at a time."""

    @property
    def interface(self) -> str:
        """Name of the veth pair's outer end."""
        return f"tandem-node{self.slot}"

    @property
    def host_address(self) -> str:
        return f"198.18.{self.slot + 1}.1"

    @property
    def node_address(self) -> str:
        return f"198.18.{self.slot + 1}.2"

    @property
    def pods(self) -> str:
        return f"198.19.{self.slot}.0/24"

    @property
    def services(self) -> str:
        return f"198.18.{self.slot + 128}.0/24"

    @property
    def api_service(self) -> str:
        """Address of the Service `kubernetes`: always the first of the network."""
        return f"198.18.{self.slot + 128}.1"


class NodeSettings(BaseModel):
    """One node."""

    model_config = ConfigDict(frozen=True)

    folder: Path
    """State, configuration, keys and logs."""
    programs: dict[str, Path]
    cni_folder: Path
    runc: Path
    cgroup_version: int
    network: Network
    num_gpus: int

    @property
    def logs(self) -> Path:
        return self.folder / "log"

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def archive(self) -> Path:
        """The images, as an OCI archive."""
        return self.folder / "images.tar"

    def signpost(self, name: str) -> Path:
        """Return the empty file by which one side tells the other that it is so far."""
        return self.folder / "signposts" / name
