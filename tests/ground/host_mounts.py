"""What a pod borrows from the machine: /usr, Python and this checkout, mounted where they are."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from tests.ground.programs import ROOT

HIDDEN = tuple(map(Path, ("/run", "/var/lib", "/var/log", "/sys", "/proc", "/dev")))
"""The node has its own of these: what lies below them on the machine is not there."""


@dataclass(frozen=True, slots=True)
class HostMounts:
    """Folders of the machine, read-only in a pod and under the same path."""

    folders: tuple[Path, ...]

    def volumes(self) -> list[JsonValue]:
        """Return the volumes of a pod."""
        return [
            {"name": f"machine-{number}", "hostPath": {"path": str(folder), "type": "Directory"}}
            for number, folder in enumerate(self.folders)
        ]

    def volume_mounts(self) -> list[JsonValue]:
        """Return the mounts of a container."""
        return [
            {"name": f"machine-{number}", "mountPath": str(folder), "readOnly": True}
            for number, folder in enumerate(self.folders)
        ]

    def pod_template(self, *containers: str) -> dict[str, JsonValue]:
        """Return a podTemplate that gives these containers the folders, and an environment fit for read-only ones."""
        quiet: list[JsonValue] = [
            {"name": "PYTHONUNBUFFERED", "value": "1"},
            {"name": "PYTHONDONTWRITEBYTECODE", "value": "1"},
        ]
        patches: list[JsonValue] = [
            {"name": name, "env": quiet, "volumeMounts": self.volume_mounts()} for name in containers
        ]
        return {"spec": {"volumes": self.volumes(), "containers": patches}}


def machine_mounts(extra: Sequence[Path] = ()) -> HostMounts:
    """Return /usr, where its links lead, the running Python, its environment and this checkout; none twice."""
    folders = (Path("/usr"), Path("/etc/alternatives"), Path(sys.base_prefix), Path(sys.prefix), ROOT, *extra)
    wanted = {folder.resolve() for folder in folders if folder.is_dir()}
    return HostMounts(tuple(sorted(path for path in wanted if not any(other in path.parents for other in wanted))))


def hidden_folder(mounts: HostMounts) -> Path | None:
    """Return a folder that pods need and the node hides; None where all can be seen."""
    hidden = (folder for folder in mounts.folders if any(folder.is_relative_to(each) for each in HIDDEN))
    return next(hidden, None)
