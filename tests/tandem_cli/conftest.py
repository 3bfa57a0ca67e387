"""A small job for the tests of the command."""

import subprocess
from itertools import count
from pathlib import Path

import pytest

from tests.addresses import own_number
from tests.tandem_cli.ground import Ground, Here

_networks = count(1)


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    """A job that `tandem up` would start: everything that it checks is in order."""
    ground = Ground(tmp_path / "ground")
    ground.lay_out()
    return ground


@pytest.fixture
def here(ground: Ground, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """The command in this process, on that job."""
    return Here(ground, monkeypatch, capsys)


@pytest.fixture
def network() -> str:
    """A loopback network that no other test listens on, below those that `tandem up` chooses from."""
    return f"127.{next(_networks)}.{own_number()}.0/24"


@pytest.fixture
def small_tmpfs(ground: Ground) -> list[str]:
    """Words in front of a command that give it a tmpfs of 4 MiB at the ground's folder `full`, which others see empty.

    With the variable FILL set the tmpfs has no room left.
    """
    (ground.folder / "full").mkdir()
    probe = subprocess.run(
        ["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True, text=True, check=False
    )
    if probe.returncode:
        pytest.skip(f"mounting a tmpfs is not permitted here: {probe.stderr.strip()}")
    fill = "dd if=/dev/zero of=full/ballast bs=64k 2>/dev/null"
    script = f'mount -t tmpfs -o size=4m tmpfs full && {{ test -z "$FILL" || {fill}; true; }} && exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, "sh"]
