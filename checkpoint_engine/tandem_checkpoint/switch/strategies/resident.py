"""Resident: the servers stay, paused, and get the next weights in place.

For a CPU, or for devices with room for trainer and server at once: nothing is given up between the phases.
"""

from collections.abc import Sequence

from tandem_checkpoint.stopwatch import Stopwatch
from tandem_checkpoint.switch.strategies.servers import Servers
from tandem_checkpoint.switch.strategies.staying import Staying
from tandem_checkpoint.switch.strategies.strategy import Forker, Weights


class Resident(Staying):
    """See Strategy."""

    uses_token = False

    def __init__(self, zygote: Forker, commands: Sequence[Sequence[str]]) -> None:
        super().__init__(Servers(zygote, commands))

    async def serve(self, weights: Weights, stopwatch: Stopwatch) -> None:
        """Write the weights over those before; only a new server has an engine to build."""
        await self._servers.start(weights, stopwatch)

    async def release(self) -> int:
        """Have the servers generate nothing, and keep them."""
        await self._servers.abort()
        await self._servers.bury()
        return self._servers.held_bytes
