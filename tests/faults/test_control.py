"""The campaign's hand inside a container: orders go in, marks come out."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.control import Control
from tests.faults.job import PLANTED

CODE = """
import time
from tandem_checkpoint.stopwatch import Stopwatch
print(time.time())
began = time.monotonic()
with Stopwatch().stage("export"):
    print(time.monotonic() - began)
    {inside}
"""


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control.of(tmp_path, "pod", "trainer")


def run_inside(folder: Path, inside: str = "") -> list[float]:
    """Run a process as in a container with the planted module; return what it printed."""
    variables = {"FAULTS_CONTROL": str(folder), "POD_NAME": "pod", "FAULTS_CONTAINER": "trainer"}
    search = os.pathsep.join([str(PLANTED), *(path for path in sys.path if path)])
    words = [sys.executable, "-c", CODE.format(inside=inside)]
    environment = os.environ | variables | {"PYTHONPATH": search}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    return [float(line) for line in done.stdout.split()]


def test_a_clock_that_is_moved_is_off_inside(control: Control, tmp_path: Path) -> None:
    at_rest, _ = run_inside(tmp_path)
    control.move_clock(3600.0)
    moved, _ = run_inside(tmp_path)

    assert 3600.0 <= moved - at_rest < 7200.0


def test_a_stage_marks_its_beginning_and_its_end(control: Control, tmp_path: Path) -> None:
    run_inside(tmp_path)

    assert (control.mark.number, control.mark.inside, control.mark.stage) == (2, False, "export")


def test_a_process_that_is_killed_in_a_stage_leaves_its_mark(control: Control, tmp_path: Path) -> None:
    run_inside(tmp_path, inside="import os; os.kill(os.getpid(), 9)")

    assert (control.mark.number, control.mark.inside, control.mark.stage) == (1, True, "export")


def test_only_the_stage_that_is_named_is_stretched(control: Control, tmp_path: Path) -> None:
    control.stretch("offload", 30.0)
    control.stretch("export", 0.3)
    _, seconds = run_inside(tmp_path)

    assert 0.3 <= seconds < 30.0
