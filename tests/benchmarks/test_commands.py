"""Every benchmark can be started as its page says: as a file."""

import subprocess
import sys

import pytest

from tests.ground.programs import ROOT

SCRIPTS = sorted(path.name for path in (ROOT / "benchmarks").glob("*.py") if "def main(" in path.read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_tells_its_options(name: str) -> None:
    done = subprocess.run(
        [sys.executable, f"benchmarks/{name}", "--help"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "--json" in done.stdout
    assert "--quick" in done.stdout
