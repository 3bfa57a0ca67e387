"""A small world for the campaign: its own /dev/shm of a fixed size, and its own network, so that it can hurt no one."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

INSIDE = "FAULTS_ISOLATED"
"""Set to 1 inside."""
SHARED_MEMORY_MEBIBYTES = 384
"""Room for etcd's log, which it reserves, and the toy policy's segments."""
ENTER = ("unshare", "--mount", "--net", "--propagation", "private")
AS_ROOT_OF_ITS_OWN = ("--user", "--map-root-user")
PREPARE = f'ip link set lo up && mount -t tmpfs -o size={SHARED_MEMORY_MEBIBYTES}m tandem-faults /dev/shm && exec "$@"'


@dataclass(frozen=True, slots=True)
class Isolation:
    """What the campaign may do without hurting others."""

    inside: bool
    has_packet_filter: bool
    reason: str = ""
    """Why not inside."""


def current_isolation() -> Isolation:
    """Return where this process is."""
    if os.environ.get(INSIDE) != "1":
        return Isolation(False, False, "no namespaces of its own: unshare is not permitted here")
    can_filter = shutil.which("nft") is not None and _works(["nft", "list", "ruleset"])
    return Isolation(True, can_filter, "")


def enter_isolation(arguments: Sequence[str]) -> None:
    """Replace this process by the same program in namespaces of its own; return where that is not permitted."""
    if INSIDE in os.environ:
        return
    for words in (ENTER, (*ENTER, *AS_ROOT_OF_ITS_OWN)):
        if shutil.which(words[0]) and _works([*words, "sh", "-c", PREPARE, "sh", "true"]):
            program = [*words, "sh", "-c", PREPARE, "sh", sys.executable, *arguments]
            os.execvpe(program[0], program, os.environ | {INSIDE: "1"})


def _works(words: Sequence[str]) -> bool:
    return subprocess.run(words, capture_output=True, check=False, timeout=20).returncode == 0
