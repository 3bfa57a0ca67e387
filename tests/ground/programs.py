"""Where the Kubernetes programs are that tools/control-plane/build.py builds."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tandem_cli.errors import MachineError
from tandem_cli.local.etcd import find_etcd

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "tools" / "control-plane" / "build.py"
WHERE_SECONDS = 30.0


class GroundError(Exception):
    """What this machine lacks for a test ground: one line, with the way out."""


def locate(group: str) -> Mapping[str, Path]:
    """Return name and path of every program of a group, and of etcd; raise GroundError."""
    found = subprocess.run(
        [sys.executable, str(BUILD), "--where", group],
        capture_output=True,
        text=True,
        timeout=WHERE_SECONDS,
        check=False,
    )
    if found.returncode != 0:
        raise GroundError(found.stderr.strip())
    named = (line.split("\t") for line in found.stdout.splitlines())
    programs = {name: Path(path) for name, path in named}
    if "etcd" not in programs:
        programs["etcd"] = _etcd()
    return programs


def _etcd() -> Path:
    try:
        return Path(find_etcd())
    except MachineError as error:
        raise GroundError(str(error)) from None
