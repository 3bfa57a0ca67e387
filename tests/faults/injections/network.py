"""Packets that get lost; only ever in the campaign's own network namespace."""

import asyncio
from dataclasses import dataclass

from tandem_api.engine import ENGINE_PORT_TRAIN
from tests.faults.injections.scene import NoTarget, Scene

TABLE = "faults"
CHAIN = "{ type filter hook output priority 0; }"


@dataclass(slots=True)
class Unreachable:
    """Nothing arrives at a pod's address, or at its trainer's engine alone."""

    victim: str
    """`rollout`: the rollout-only pod; `trainer`: the port from which it fetches."""
    hold_seconds: float

    async def inject(self, scene: Scene) -> None:
        place = scene.place
        if not scene.isolation.has_packet_filter:
            raise NoTarget(scene.isolation.reason or "nft does not work here")
        if self.victim == "rollout":
            rule = ["ip", "daddr", place.addresses[place.rollout_pod], "drop"]
        else:
            rule = ["ip", "daddr", place.addresses[place.hybrid_pod], "tcp", "dport", str(ENGINE_PORT_TRAIN), "drop"]
        await _nft("add", "table", "inet", TABLE)
        await _nft("add", "chain", "inet", TABLE, "output", CHAIN)
        await _nft("add", "rule", "inet", TABLE, "output", *rule)

    async def undo(self, scene: Scene) -> None:
        if scene.isolation.has_packet_filter:
            await _nft("delete", "table", "inet", TABLE)


async def _nft(*words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "nft", *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, problem = await process.communicate()
    if process.returncode:
        raise NoTarget(f"nft {' '.join(words)}: {problem.decode().strip()}")
