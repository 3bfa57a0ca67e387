"""What whole jobs share: one toy policy, and one complete run of example 01."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.jobs import EXAMPLES, ProcessWatch, folders_of, start, write_job

RUN_SECONDS = 600.0


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The policy and problems of example 01, made by its own script."""
    folder = tmp_path_factory.mktemp("toy")
    script = EXAMPLES / "01-reverse-digits" / "make_policy.py"
    subprocess.run([sys.executable, str(script), "--out", str(folder)], check=True, capture_output=True)
    return folder


@dataclass(frozen=True)
class CompleteRun:
    """A run of example 01 to its end, as seen from outside."""

    folder: Path
    summary: Path
    code: int
    output: str
    servers: list[tuple[float, int]]
    """Unix time and number of server processes."""
    folders: list[Path]
    """What it has left outside its own folder."""


@pytest.fixture(scope="session")
def complete_run(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> CompleteRun:
    folder = tmp_path_factory.mktemp("complete")
    job = write_job(folder, "01-reverse-digits", toy)
    process = start(job, folder / "run", "--summary", str(folder / "summary.json"))
    watch = ProcessWatch(process.pid)
    sampling = watch.watch()
    output, _ = process.communicate(timeout=RUN_SECONDS)
    sampling.join(10)
    run = folder / "run"
    return CompleteRun(run, folder / "summary.json", process.returncode, output, watch.samples, folders_of(run))
