"""Processes that are killed, and processes that stand still for a while."""

import signal
from dataclasses import dataclass, field

from tests.faults.injections.scene import NoTarget, Scene, kill, send
from tests.faults.recording.processes import JobProcess


@dataclass(slots=True)
class Kill:
    """SIGKILL for one process of a kind."""

    kind: str
    hold_seconds: float = 0.0

    async def inject(self, scene: Scene) -> None:
        send(_pick(scene, self.kind), signal.SIGKILL)

    async def undo(self, scene: Scene) -> None:
        """Nothing: the job itself must mend it."""


@dataclass(slots=True)
class KillEtcd:
    """SIGKILL for etcd; it is started again with its data, by whoever keeps it running or by the campaign."""

    hold_seconds: float = 0.0

    async def inject(self, scene: Scene) -> None:
        await kill(_pick(scene, "etcd"))

    async def undo(self, scene: Scene) -> None:
        await scene.etcd.ensure()


@dataclass(slots=True)
class Freeze:
    """SIGSTOP for one process of a kind, and SIGCONT after a while."""

    kind: str
    hold_seconds: float
    _frozen: list[JobProcess] = field(default_factory=list)

    async def inject(self, scene: Scene) -> None:
        process = _pick(scene, self.kind)
        self._frozen.append(process)
        send(process, signal.SIGSTOP)

    async def undo(self, scene: Scene) -> None:
        for process in self._frozen:
            send(process, signal.SIGCONT)


def _pick(scene: Scene, kind: str) -> JobProcess:
    found = scene.processes(kind)
    if not found:
        raise NoTarget(f"no {kind} runs at this moment")
    return scene.random.choice(sorted(found))
