"""A pod's volumes as folders of this machine, and the paths of its containers translated to them."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tandem_cli.errors import MachineError
from tandem_operator.plan.job import Plan
from tandem_operator.plan.objects import Container, Pod, Volume


@dataclass(frozen=True, slots=True)
class Folders:
    """Where volumes of each kind go."""

    memory: Path
    """For emptyDir volumes in memory: a folder of this run on a tmpfs."""
    scratch: Path
    """For everything else that goes when the run ends."""
    state: Path
    """The job's claim: the run folder."""
    secrets: Mapping[str, Path] = field(default_factory=dict)
    """Secrets that others have made, by name: folders with a file for each key."""


def make_volumes(plan: Plan, pod: Pod, folders: Folders) -> dict[str, Path]:
    """Make the folders of one pod's volumes and return them by volume name; MachineError where there is no room."""
    return {volume.name: _make(plan, pod, volume, folders) for volume in pod.spec.volumes}


def _make(plan: Plan, pod: Pod, volume: Volume, folders: Folders) -> Path:
    if volume.persistent_volume_claim is not None:
        return folders.state
    in_memory = volume.empty_dir is not None and volume.empty_dir.medium == "Memory"
    path = (folders.memory if in_memory else folders.scratch) / pod.metadata.name / volume.name
    try:
        path.mkdir(parents=True, mode=0o700)
        if volume.config_map is not None:
            _write(path, plan.config_map.data)
        if volume.secret is not None:
            _write_secret(path, plan, volume.secret.secret_name, folders)
    except OSError as error:
        raise MachineError(f"{path}: cannot be written ({error.strerror}); free space or permit it") from None
    return path


def _write_secret(folder: Path, plan: Plan, name: str, folders: Folders) -> None:
    if name == plan.secret.metadata.name:
        _write(folder, plan.secret.string_data)
    elif name in folders.secrets:
        shutil.copytree(folders.secrets[name], folder, dirs_exist_ok=True)
    else:
        raise MachineError(f"Secret {name}: this machine has none of that name; leave it out of the job")


def _write(folder: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_text(content)


def translate(container: Container, volumes: Mapping[str, Path], value: str) -> str:
    """Return a value of the container with a leading mount path replaced by the volume's folder."""
    for mount in container.volume_mounts:
        if value == mount.mount_path or value.startswith(mount.mount_path + "/"):
            return str(volumes[mount.name]) + value[len(mount.mount_path) :]
    return value
