"""Faults of the registry: leases that end too early, a database that is empty, a word that is said twice."""

import shutil
import signal
from dataclasses import dataclass

import grpc  # type: ignore[import-untyped]
import grpc.aio  # type: ignore[import-untyped]
from etcd3aio._protobuf import LeaseRevokeRequest, LeaseStub

from tandem_checkpoint.registry.etcd import connect
from tests.faults.injections.scene import NoTarget, Scene, kill, read, send

CALL_SECONDS = 5.0


@dataclass(slots=True)
class LoseLease:
    """Ends the lease of a key's writer from outside."""

    owner: str
    """`master`, `train` or `rollout`."""
    hold_seconds: float = 0.0

    async def inject(self, scene: Scene) -> None:
        key = "master" if self.owner == "master" else f"members/{scene.place.hybrid_pod}/{self.owner}"
        lease = scene.recorder.registry.leases.get(key)
        if not lease:
            raise NoTarget(f"{key} has no lease at this moment")
        async with grpc.aio.insecure_channel(scene.place.endpoint) as channel:
            try:
                await LeaseStub(channel).LeaseRevoke(LeaseRevokeRequest(ID=lease), timeout=CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise NoTarget(f"the lease of {key} could not be ended: {error.code().name}") from error

    async def undo(self, scene: Scene) -> None:
        """Nothing: the member must come back by itself."""


@dataclass(slots=True)
class EmptyEtcd:
    """Kills etcd, removes all that it knew, and has it started again on the same address."""

    hold_seconds: float = 0.0

    async def inject(self, scene: Scene) -> None:
        found = scene.processes("etcd")
        if not found:
            raise NoTarget("no etcd runs at this moment")
        for process in found:  # it must not write while its data go
            send(process, signal.SIGSTOP)
        shutil.rmtree(scene.place.etcd_data, ignore_errors=True)
        scene.recorder.registry.begin_life()
        for process in found:
            await kill(process)

    async def undo(self, scene: Scene) -> None:
        await scene.etcd.ensure()


@dataclass(slots=True)
class RepeatWord:
    """Writes `desired` again as it is: what a watch that repeats itself looks like."""

    hold_seconds: float = 0.0

    async def inject(self, scene: Scene) -> None:
        key = f"{scene.place.prefix}desired"
        async with connect([scene.place.endpoint]) as registry:
            text = await read(registry, key, "the master has not said a word yet")
            for _ in range(3):
                await registry.put(key, text)

    async def undo(self, scene: Scene) -> None:
        """Nothing: it is harmless, or else a violation."""
