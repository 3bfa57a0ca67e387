"""Jobs of the examples with other numbers, and the command that runs them."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import yaml

from tandem_api.history import RECORD, IterationRecord, Record, SelfTestRecord
from tandem_cli.session import memory_folder

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
TANDEM = Path(sys.executable).with_name("tandem")
SAMPLE_SECONDS = 0.02
POLL_SECONDS = 0.1


def write_job(folder: Path, example: str, toy: Path, **recipe: Any) -> Path:
    """Write an example's RLJob with the toy policy of the tests and other recipe numbers."""
    job: dict[str, Any] = yaml.safe_load((EXAMPLES / example / "rljob.yaml").read_text())
    job["spec"]["policy"]["model"]["path"] = str(toy / "policy")
    job["spec"]["data"]["train"][0]["path"] = str(toy / "data" / "train.jsonl")
    job["spec"]["recipe"].update(recipe)
    path = folder / "rljob.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def planting(fault: str) -> str:
    """Return the PYTHONPATH with which a container has a fault of the folder `planted`."""
    return os.pathsep.join([str(Path(__file__).parent / "planted" / fault), str(ROOT)])


def start(job: Path, run: Path, *options: str) -> "subprocess.Popen[str]":
    """Start `tandem up` in a session of its own."""
    return subprocess.Popen(
        [str(TANDEM), "up", "-f", str(job), "--run-dir", str(run), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def records(run: Path) -> list[Record]:
    """Return the complete records of a run so far."""
    path = run / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [RECORD.validate_json(line) for line in lines]


def iterations(run: Path) -> list[IterationRecord]:
    return [record for record in records(run) if isinstance(record, IterationRecord)]


def self_tests(run: Path) -> list[SelfTestRecord]:
    """Return what self-tests of hand-overs have found so far."""
    return [record for record in records(run) if isinstance(record, SelfTestRecord)]


def wait_until(condition: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float) -> None:
    """Poll a condition while the command runs; fail with its output where it ends or takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(f"the command did not get there:\n{process.communicate()[0]}")
        time.sleep(POLL_SECONDS)


def leftovers(run: Path) -> list[str]:
    """Return what a run has left on the machine: processes that use its folders, and folders of its own."""
    marker = str(run.resolve())
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if any(value.startswith(marker) for value in process.environ().values()):
                processes.append(f"process {process.pid}: {' '.join(process.cmdline())}")
    return processes


def folders_of(run: Path) -> list[Path]:
    """Return which of the folders that a run has outside its own are still there; those of other runs do not count."""
    paths = [memory_folder(root, run) for root in (Path("/dev/shm"), Path("/tmp"))]
    return [path for path in paths if path.exists()]


@dataclass
class ProcessWatch:
    """Samples how many processes of servers hold weights, all the time that a command runs."""

    pid: int
    samples: list[tuple[float, int]] = field(default_factory=list)

    def watch(self) -> threading.Thread:
        thread = threading.Thread(target=self._sample, daemon=True)
        thread.start()
        return thread

    def _sample(self) -> None:
        with suppress(psutil.Error):
            command = psutil.Process(self.pid)
            while command.is_running():
                self.samples.append(
                    (time.time(), sum(_holds_weights(child) for child in command.children(recursive=True)))
                )
                time.sleep(SAMPLE_SECONDS)


def _holds_weights(process: psutil.Process) -> bool:
    """Tell whether a server or its engine has a segment bound; one that was forked ahead has not."""
    with suppress(psutil.Error, OSError):
        words: list[str] = process.cmdline()
        is_server = bool(words) and words[0].startswith(("tandem-server", "VLLM"))
        return is_server and ".segment" in Path(f"/proc/{process.pid}/maps").read_text()
    return False


def summary_of(path: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures
