"""tools/environment.sh on a machine that lacks what it needs, where nobody may install it."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
TOOLS = ("sh", "cat", "cut", "dirname", "grep", "ls", "sed", "sha256sum")


def machine(folder: Path, **commands: str) -> dict[str, str]:
    """Make a search path with a few tools and the given commands, as lines of shell."""
    folder.mkdir()
    for name in TOOLS:
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    for name, line in commands.items():
        script = folder / name
        script.write_text(f"#!/bin/sh\n{line}\n")
        script.chmod(0o755)
    return {"PATH": str(folder)}


def make_environment(tmp_path: Path, **commands: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of the script; it has nothing to install from."""
    checkout = tmp_path / "checkout"
    for name in ("tools/environment.sh", "requirements/cpu.txt", "pyproject.toml"):
        target = checkout / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    environment = machine(tmp_path / "bin", **commands)
    script = checkout / "tools" / "environment.sh"
    result = subprocess.run(
        [environment["PATH"] + "/sh", str(script)], env=environment, capture_output=True, text=True, timeout=60
    )
    assert not os.path.exists(checkout / ".venv")
    return result


def test_without_root_it_says_which_packages_to_install(tmp_path: Path) -> None:
    result = make_environment(tmp_path, id="echo 1000", ldconfig="echo libnuma.so.1")

    assert result.returncode == 1
    assert result.stderr == ("missing OS packages: run 'sudo apt-get install python3 python3-venv', then make again\n")


def test_a_python_that_is_too_new_is_named_with_the_way_out(tmp_path: Path) -> None:
    result = make_environment(
        tmp_path, id="echo 0", ldconfig="echo libnuma.so.1", **{"apt-get": "exit 0", "python3": "exit 1"}
    )

    assert result.returncode == 1
    assert result.stderr == (
        "no Python 3.11 or 3.12 with venv: install python3.11 and python3.11-venv, "
        "or name one with PYTHON=/path/to/python\n"
    )
