"""Container images without a builder: an OCI archive whose root is nearly empty.

Programs of a pod come from read-only mounts of the machine's /usr, Python and checkout.
"""

import gzip
import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterable
from pathlib import Path

from pydantic import JsonValue

from tests.ground.node_settings import HOST_IMAGE, PAUSE_IMAGE

FOLDERS = ("dev", "etc", "home", "opt", "proc", "root", "run", "sys", "usr", "var", "var/log", "var/run")
LINKS = ("bin", "lib", "lib64", "sbin")
FILES = {
    "etc/passwd": "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
    "etc/hosts": "",
    "etc/resolv.conf": "",
}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
OCI = "application/vnd.oci.image"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_archive(path: Path, pause: Path, names: Iterable[str] = (HOST_IMAGE,)) -> None:
    """Write an archive of the pause image and of one image under each of the names."""
    root = root_layer(pause.read_bytes())
    blobs: dict[str, bytes] = {}
    commands = {PAUSE_IMAGE: "/pause"} | dict.fromkeys(names, "/bin/sh")
    manifests = [add_image(blobs, name, command, root) for name, command in commands.items()]
    index = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": manifests}
    with tarfile.open(path, "w") as archive:
        add_file(archive, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add_file(archive, "index.json", encoded(index))
        for digest, content in blobs.items():
            add_file(archive, f"blobs/sha256/{digest.removeprefix('sha256:')}", content)


def root_layer(pause: bytes) -> bytes:
    """Return the one layer, uncompressed: places to mount on, the pause program, and who root is."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as layer:
        for name in FOLDERS:
            add_entry(layer, name, tarfile.DIRTYPE, 0o755)
        add_entry(layer, "tmp", tarfile.DIRTYPE, 0o1777)
        for name in LINKS:
            add_entry(layer, name, tarfile.SYMTYPE, 0o777, link=f"usr/{name}")
        for name, text in FILES.items():
            add_file(layer, name, text.encode())
        add_file(layer, "pause", pause, mode=0o755)
    return buffer.getvalue()


def add_image(blobs: dict[str, bytes], name: str, command: str, root: bytes) -> dict[str, JsonValue]:
    """Add an image's blobs and return its line in the index."""
    machine = ARCHITECTURES[platform.machine()]
    config: dict[str, JsonValue] = {
        "architecture": machine,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [digest_of(root)]},
        "config": {"Entrypoint": [command], "WorkingDir": "/", "Env": [PATH]},
    }
    manifest: dict[str, JsonValue] = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": add_blob(blobs, f"{OCI}.config.v1+json", encoded(config)),
        "layers": [add_blob(blobs, f"{OCI}.layer.v1.tar+gzip", gzip.compress(root, mtime=0))],
    }
    line = add_blob(blobs, f"{OCI}.manifest.v1+json", encoded(manifest))
    return line | {
        "platform": {"architecture": machine, "os": "linux"},
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
    }


def add_blob(blobs: dict[str, bytes], media_type: str, content: bytes) -> dict[str, JsonValue]:
    blobs[digest_of(content)] = content
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def add_file(archive: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    add_entry(archive, name, tarfile.REGTYPE, mode, content=content)


def add_entry(
    archive: tarfile.TarFile, name: str, kind: bytes, mode: int, content: bytes = b"", link: str = ""
) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), link
    archive.addfile(entry, io.BytesIO(content))


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def encoded(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()
