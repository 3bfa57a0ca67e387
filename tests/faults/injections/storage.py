"""Bytes that change behind everybody's back, and a volume without room."""

import asyncio
import errno
import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.injections.scene import NoTarget, Scene, send
from tests.faults.recording.processes import JobProcess
from tests.faults.values import DesiredValue, ShardValue

EXPORT_SECONDS = 10.0
FLIPPED_BYTES = 8
FILLER = Path("/dev/shm/faults-filler")
BLOCK_BYTES = 1 << 20


@dataclass(slots=True)
class CorruptSegment:
    """Flips bytes of the exported segment before the server binds it: the server's engine stands still meanwhile."""

    hold_seconds: float = 0.0
    _frozen: list[JobProcess] = field(default_factory=list)

    async def inject(self, scene: Scene) -> None:
        engines = scene.processes("engine-rollout", scene.place.hybrid_pod)
        word = scene.recorder.registry.values.get("desired")
        if not engines or not isinstance(word, DesiredValue) or word.phase != "Infer":
            raise NoTarget("no export is under way")
        self._frozen += engines
        for engine in engines:
            send(engine, signal.SIGSTOP)
        key = f"weights/{word.generation}/shards/{scene.place.hybrid_pod}/0"
        known = scene.recorder.registry.values.get(key)
        try:
            shard = await scene.recorder.registry.wait(
                lambda values: value if (value := values.get(key)) is not known else None, EXPORT_SECONDS
            )
        except TimeoutError:
            raise NoTarget(f"{key} was not registered") from None
        if not isinstance(shard, ShardValue):
            raise NoTarget(f"{key} cannot be read")
        self._flip(scene, shard)

    async def undo(self, scene: Scene) -> None:
        for engine in self._frozen:
            send(engine, signal.SIGCONT)

    def _flip(self, scene: Scene, shard: ShardValue) -> None:
        piece = scene.random.choice([piece for piece in shard.pieces if piece.num_bytes >= FLIPPED_BYTES])
        at = piece.offset_bytes + scene.random.randrange(piece.num_bytes - FLIPPED_BYTES + 1)
        with (scene.place.shared(scene.place.hybrid_pod) / shard.segment).open("r+b") as file:
            file.seek(at)
            found = file.read(FLIPPED_BYTES)
            file.seek(at)
            file.write(bytes(byte ^ 0x5A for byte in found))


@dataclass(slots=True)
class FillSharedMemory:
    """Leaves no byte of the campaign's own /dev/shm; only ever inside its own namespaces."""

    hold_seconds: float

    async def inject(self, scene: Scene) -> None:
        if not scene.isolation.inside:
            raise NoTarget(scene.isolation.reason)
        await asyncio.to_thread(_fill, FILLER)

    async def undo(self, scene: Scene) -> None:
        if scene.isolation.inside:
            await asyncio.to_thread(FILLER.unlink, missing_ok=True)
            await (
                scene.etcd.ensure()
            )  # its data were on the same volume: it may have ended, and is not the job's to mend


def _fill(path: Path) -> None:
    """Write until nothing more fits."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    size = BLOCK_BYTES
    try:
        while size:
            try:
                os.write(descriptor, bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
    finally:
        os.close(descriptor)
