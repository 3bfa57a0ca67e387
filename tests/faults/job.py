"""The job that a campaign hurts, example 01's policy with many short iterations, and the command that runs it."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tandem_api.registry import Keys
from tandem_cli.local.etcd import CLIENT_PORT
from tandem_cli.local.network import choose_network, etcd_address, pod_addresses
from tandem_cli.session import memory_folder
from tests.faults.control import CONTAINERS, Control
from tests.faults.history import JobFacts, Session

EXAMPLE = Path(__file__).parents[2] / "examples" / "01-reverse-digits"
PLANTED = Path(__file__).parent / "planted"
TANDEM = Path(sys.executable).with_name("tandem")
STOP_SECONDS = 20.0
JANITOR_SECONDS = 6.0
"""Time in which the janitor of a killed command ends its processes."""
NAME = "faults"
TO_INFER_SECONDS = 40.0
TO_TRAIN_SECONDS = 40.0
BUDGET_TOKENS = 8
"""Of a trajectory, an iteration."""
LAST_WORDS_LINES = 3


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where everything of one job is."""

    file: Path
    run: Path
    memory: Path
    """Its volumes in memory."""
    control: Path
    """Folder of the control files."""
    endpoint: str
    """`host:port` of its registry."""
    prefix: str
    """Of its keys."""
    addresses: Mapping[str, str]
    """Of its pods."""
    output: Path
    """What the command says."""

    @property
    def master_pod(self) -> str:
        return f"{NAME}-master"

    @property
    def hybrid_pod(self) -> str:
        return f"{NAME}-hybrid-0"

    @property
    def rollout_pod(self) -> str:
        return f"{NAME}-rollout-0"

    @property
    def etcd_address(self) -> str:
        return self.endpoint.rpartition(":")[0]

    @property
    def etcd_data(self) -> Path:
        return self.memory / "etcd"

    def shared(self, pod: str) -> Path:
        """Return the folder that the containers of a pod share."""
        return self.memory / pod / "shared"

    def container_log(self, pod: str, container: str) -> Path:
        return self.run / "logs" / pod / f"{container}.log"


def make_toy(folder: Path) -> Path:
    """Make example 01's policy and problems by its own script."""
    if not (folder / "policy" / "config.json").exists():
        script = EXAMPLE / "make_policy.py"
        subprocess.run([sys.executable, str(script), "--out", str(folder)], check=True, capture_output=True)
    return folder


def place_job(folder: Path, toy: Path, *, elastic: bool) -> JobPlace:
    """Write the job's file and control files. `elastic`: with a rollout-only pod beside the hybrid one."""
    run = folder / "run"
    network = choose_network(None, run)
    pods = [f"{NAME}-master", f"{NAME}-hybrid-0", *([f"{NAME}-rollout-0"] if elastic else [])]
    job = _job(toy, folder / "control", elastic=elastic)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rljob.yaml"
    path.write_text(yaml.safe_dump(job))
    return JobPlace(
        file=path,
        run=run,
        memory=memory_folder(Path("/dev/shm"), run),
        control=folder / "control",
        endpoint=f"{etcd_address(network)}:{CLIENT_PORT}",
        prefix=Keys(namespace="default", job=NAME).prefix,
        addresses=pod_addresses(network, pods),
        output=folder / "tandem-up.log",
    )


def facts_of(place: JobPlace) -> JobFacts:
    """Return what the checker must know of the job."""
    return JobFacts(
        hybrid_pods=(place.hybrid_pod,),
        budget_tokens=BUDGET_TOKENS,
        to_infer_seconds=TO_INFER_SECONDS,
        to_train_seconds=TO_TRAIN_SECONDS,
    )


def open_controls(place: JobPlace) -> dict[tuple[str, str], Control]:
    """Make the control file of every container of every pod, by pod and container."""
    of_pod = {place.master_pod: ("master",)} | {
        pod: ("rollout",) if pod == place.rollout_pod else ("trainer", "rollout")
        for pod in place.addresses
        if pod != place.master_pod
    }
    return {
        (pod, container): Control.of(place.control, pod, container)
        for pod, containers in of_pod.items()
        for container in containers
    }


def _job(toy: Path, control: Path, *, elastic: bool) -> dict[str, Any]:
    job: dict[str, Any] = yaml.safe_load((EXAMPLE / "rljob.yaml").read_text())
    job["metadata"] = {"name": NAME}
    spec = job["spec"]
    spec["policy"]["model"]["path"] = str(toy / "policy")
    spec["data"]["train"][0]["path"] = str(toy / "data" / "train.jsonl")
    spec["recipe"].update(iterations=100_000, problemsPerIteration=8, samplesPerProblem=4)
    spec["recipe"]["partialRollout"] = {"tokenBudget": BUDGET_TOKENS}
    spec["checkpoints"] = {"everyIterations": 3}
    spec["switch"] = {
        "trainToInferDeadlineSeconds": TO_INFER_SECONDS,
        "inferToTrainDeadlineSeconds": TO_TRAIN_SECONDS,
    }
    if elastic:
        spec["rollout"]["elastic"] = {"replicas": 1, "gpusPerPod": 1}
    spec["podTemplate"] = {"spec": {"containers": [_template(name, control) for name in CONTAINERS]}}
    return job


def _template(container: str, control: Path) -> dict[str, Any]:
    """Plant the campaign's module into a container; the caller's own search path stays in force."""
    search = os.pathsep.join(part for part in (str(PLANTED), os.environ.get("PYTHONPATH", "")) if part)
    variables = {"PYTHONPATH": search, "FAULTS_CONTROL": str(control), "FAULTS_CONTAINER": container}
    return {"name": container, "env": [{"name": name, "value": value} for name, value in variables.items()]}


class Command:
    """One `tandem up`, which ends when the campaign does."""

    def __init__(self, place: JobPlace, options: Sequence[str]) -> None:
        self._place = place
        self.started_at = time.time()
        words = [str(TANDEM), "up", "-f", str(place.file), "--run-dir", str(place.run), *options]
        guard = ["setpriv", "--pdeathsig", "SIGTERM"] if shutil.which("setpriv") else []
        with place.output.open("ab") as output:
            self._output_begin = output.tell()
            self._process = subprocess.Popen([*guard, *words], stdout=output, stderr=output, start_new_session=True)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    async def stop(self) -> Session:
        """Have it end, as a user would, and twice where it does not listen; return its life."""
        asked = self.running
        if asked:
            self._process.send_signal(signal.SIGINT)
            if not await self._ends(STOP_SECONDS):
                self._process.send_signal(signal.SIGINT)
                if not await self._ends(STOP_SECONDS):
                    self._process.kill()
                    await asyncio.sleep(JANITOR_SECONDS)
        code = self._process.wait(STOP_SECONDS)
        return Session(self.started_at, time.time(), None if asked else code, self.last_words())

    def last_words(self) -> str:
        """Return the last lines that it has printed."""
        with self._place.output.open("rb") as output:
            output.seek(self._output_begin)
            lines = output.read().decode(errors="replace").splitlines()
        return "\n".join([line for line in lines if line.strip()][-LAST_WORDS_LINES:])

    async def _ends(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.running and time.monotonic() < deadline:  # noqa: ASYNC110 - polled: nobody else waits for it
            await asyncio.sleep(0.05)
        return not self.running
