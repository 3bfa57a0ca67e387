"""The campaign's own world hurts nobody else's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.isolation import INSIDE, SHARED_MEMORY_MEBIBYTES

ROOT = Path(__file__).parents[2]
CODE = """
import shutil, socket, sys
from tests.faults.isolation import current_isolation, enter_isolation
enter_isolation(["-c", sys.argv[1], sys.argv[1]])
if not current_isolation().inside:
    sys.exit(77)
print(shutil.disk_usage("/dev/shm").total >> 20, *(name for _, name in socket.if_nameindex()))
"""
NOT_PERMITTED = 77


def test_inside_there_is_a_small_shared_memory_and_the_loopback_interface_alone() -> None:
    variables = {name: value for name, value in os.environ.items() if name != INSIDE}
    done = subprocess.run(
        [sys.executable, "-c", CODE, CODE], cwd=ROOT, env=variables, capture_output=True, text=True, check=False
    )
    if done.returncode == NOT_PERMITTED:
        pytest.skip("namespaces are not permitted here")

    assert done.stdout.split() == [str(SHARED_MEMORY_MEBIBYTES), "lo"], done.stderr
