"""A scene for injectors and for aiming: a job without a command, for which the test's own process stands."""

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tandem_api.registry import Keys
from tests.faults.control import Control
from tests.faults.injections.scene import EtcdKeeper, Scene
from tests.faults.isolation import Isolation
from tests.faults.job import NAME, JobPlace, facts_of
from tests.faults.recording.processes import JobProcess, ProcessTable
from tests.faults.recording.recorder import Recorder
from tests.tandem_checkpoint.etcd_process import free_address

KEYS = Keys("default", NAME)
POD = f"{NAME}-hybrid-0"


def place_in(folder: Path, address: str) -> JobPlace:
    (folder / "run" / "logs").mkdir(parents=True)
    (folder / "memory" / POD / "shared").mkdir(parents=True)
    return JobPlace(
        file=folder / "rljob.yaml",
        run=folder / "run",
        memory=folder / "memory",
        control=folder / "control",
        endpoint=f"{address}:2379",
        prefix=KEYS.prefix,
        addresses={f"{NAME}-master": "127.0.0.1", POD: "127.0.0.1"},
        output=folder / "output",
    )


class NewProcesses(ProcessTable):
    """Sees only what was started after it: the session of the tests has an etcd, ranks and servers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._before = {(process.pid, process.started) for process in super().scan(os.getpid())}

    def scan(self, root: int) -> tuple[JobProcess, ...]:
        found = super().scan(root)
        return tuple(process for process in found if (process.pid, process.started) not in self._before)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A job without a command: this process stands for it."""
    place = place_in(tmp_path, free_address())
    scene = Scene(
        place=place,
        recorder=Recorder(place, facts_of(place)),
        controls={(POD, "trainer"): Control.of(place.control, POD, "trainer")},
        root=os.getpid(),
        is_running=lambda: True,
        etcd=EtcdKeeper(place, grace_seconds=0.0),
        isolation=Isolation(inside=False, has_packet_filter=False, reason="not here"),
        random=Random(1),
        table=NewProcesses(),
    )
    yield scene
    scene.etcd.stop()
