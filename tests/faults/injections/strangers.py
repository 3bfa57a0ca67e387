"""Somebody stale: an old master that writes, a second master that starts, a member without a lease."""

import asyncio
import json
import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tandem_checkpoint.registry.errors import Fenced, LeaseLost
from tandem_checkpoint.registry.etcd import connect
from tandem_checkpoint.registry.store import Is, Put
from tests.faults.history import Intrusion
from tests.faults.injections.scene import NoTarget, Scene, read

STALE_EPOCHS = 1000
"""How far ahead the epoch of the stale master's word is: if it were accepted, everybody would act on it."""
NO_LEASE = 0x7EADBEEF
"""A lease that never was."""
SECOND_MASTER_SECONDS = 33.0
"""A little longer than a master waits for the place of another one."""


@dataclass(slots=True)
class StaleWord:
    """A master that has been replaced writes `desired`, guarded by its own key as it was."""

    hold_seconds: float = 0.0

    async def inject(self, scene: Scene) -> None:
        key = f"{scene.place.prefix}desired"
        async with connect([scene.place.endpoint]) as registry:
            text = await read(registry, key, "the master has not said a word yet")
        word = json.loads(text)
        await _write_as_stale(scene, key, json.dumps(word | {"epoch": word["epoch"] + STALE_EPOCHS}))

    async def undo(self, scene: Scene) -> None:
        """Nothing was changed."""


@dataclass(slots=True)
class StalePublication:
    """A master that has been replaced publishes another generation."""

    hold_seconds: float = 0.0

    async def inject(self, scene: Scene) -> None:
        key = f"{scene.place.prefix}weights/published"
        async with connect([scene.place.endpoint]) as registry:
            text = await read(registry, key, "nothing is published yet")
        found = json.loads(text)
        stale = found + STALE_EPOCHS if isinstance(found, int) else found | {"generation": STALE_EPOCHS}
        await _write_as_stale(scene, key, json.dumps(stale))

    async def undo(self, scene: Scene) -> None:
        """Nothing was changed."""


@dataclass(slots=True)
class StaleStatus:
    """A trainer whose lease has ended writes its status."""

    hold_seconds: float = 0.0

    async def inject(self, scene: Scene) -> None:
        key = f"{scene.place.prefix}status/{scene.place.hybrid_pod}/train"
        async with connect([scene.place.endpoint]) as registry:
            text = await read(registry, key, "the trainer has no status yet")
            stale = json.loads(text) | {"incarnation": "stale", "state": "Failed", "error": "a stale member"}
            try:
                await registry.put(key, json.dumps(stale), lease=NO_LEASE)
            except LeaseLost:
                accepted = False
            else:
                accepted = True
        scene.recorder.intrusions.append(Intrusion(time.time(), "status of a member without a lease", accepted))

    async def undo(self, scene: Scene) -> None:
        """Nothing was changed."""


@dataclass(slots=True)
class SecondMaster:
    """Another `tandem-master` starts beside the one that runs, with the same surroundings."""

    hold_seconds: float = SECOND_MASTER_SECONDS
    _process: list[Process] = field(default_factory=list)

    async def inject(self, scene: Scene) -> None:
        masters = scene.processes("master")
        if not masters:
            raise NoTarget("no master runs at this moment")
        program = _words(masters[0].pid, "cmdline")
        log = scene.place.container_log(scene.place.master_pod, "second-master")
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *program,
                env=_environment(masters[0].pid),
                stdout=output,
                stderr=output,
            )
        self._process.append(process)

    async def undo(self, scene: Scene) -> None:
        """Have it go; one that has ended with success has taken the job for its own."""
        for process in self._process:
            if process.returncode == 0:
                scene.recorder.intrusions.append(Intrusion(time.time(), "a second master ran the job", accepted=True))
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()


def _environment(pid: int) -> Mapping[str, str]:
    variables = dict(word.split("=", 1) for word in _words(pid, "environ") if "=" in word)
    return {name: value for name, value in variables.items() if name != "TANDEM_PARENT_PID"} | {
        "PATH": variables.get("PATH", os.defpath)
    }


def _words(pid: int, file: str) -> list[str]:
    content = Path(f"/proc/{pid}/{file}").read_bytes()
    return [word.decode() for word in content.split(b"\0")[:-1]]


async def _write_as_stale(scene: Scene, key: str, value: str) -> None:
    """Write as the product's masters do, with the guard of an incarnation that is not the master."""
    master = f"{scene.place.prefix}master"
    async with connect([scene.place.endpoint]) as registry:
        holder = await registry.get(master)
        if holder is None:
            raise NoTarget("there is no master at this moment")
        old = json.dumps(json.loads(holder) | {"incarnation": "stale"})
        try:
            await registry.transact([Is(master, old)], [Put(key, value)])
        except Fenced:
            accepted = False
        else:
            accepted = True
    what = f"{key.removeprefix(scene.place.prefix)} of a master that has been replaced"
    scene.recorder.intrusions.append(Intrusion(time.time(), what, accepted))
