"""What a rollout-only pod tells others of the generations that it has fetched: they may have them from it."""

import logging
from collections.abc import Sequence

from tandem_api.registry import CopyRecord
from tandem_api.weights import Piece
from tandem_checkpoint.registry.errors import RegistryError
from tandem_checkpoint.switch.side import Surroundings
from tandem_checkpoint.transfer.plan import digest_of

logger = logging.getLogger(__name__)


class Copies:
    """This pod's keys below `copies/`. A courtesy to others: where the registry is away, the switch goes on."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around

    async def offer(self, generation: int, pieces: Sequence[Piece]) -> None:
        """Tell that all of a generation is here, under this member's lease."""
        record = CopyRecord(incarnation=self._around.incarnation, digest=digest_of(pieces)).model_dump_json()
        try:
            await self._around.registry.put(self._key(generation), record, lease=self._around.lease)
        except RegistryError as error:
            logger.warning("others are not told that generation %d is here: %s", generation, error)

    async def withdraw(self, generation: int) -> None:
        """Take the word back, before the segment is written anew. Who asks meanwhile is refused by the engine."""
        try:
            await self._around.registry.delete(self._key(generation))
        except RegistryError as error:
            logger.warning("others are told that generation %d is here, and it is not: %s", generation, error)

    def _key(self, generation: int) -> str:
        return self._around.settings.keys.copy(generation, self._around.settings.pod)
