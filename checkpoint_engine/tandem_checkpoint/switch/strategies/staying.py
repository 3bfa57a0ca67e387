"""What strategies have in common whose servers stay between phases: all that is asked of the servers themselves."""

from collections.abc import Sequence

from tandem_checkpoint.process.commands import Fingerprinted
from tandem_checkpoint.process.zygote import Server
from tandem_checkpoint.switch.strategies.servers import Servers


class Staying:
    """Most of a Strategy; how servers give way, and what they do when they serve again, is the strategy's own."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    @property
    def servers(self) -> tuple[Server, ...]:
        return self._servers.forked

    async def prepare(self) -> None:
        await self._servers.complete()

    async def examine(self) -> Sequence[Fingerprinted]:
        return await self._servers.examine()

    async def abort(self) -> None:
        await self._servers.abort()

    async def revive(self) -> None:
        await self._servers.revive()

    async def first_end(self) -> str:
        return await self._servers.first_end()

    async def close(self) -> None:
        await self._servers.close()
