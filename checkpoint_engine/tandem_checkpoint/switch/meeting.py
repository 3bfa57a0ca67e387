"""How this pod's ranks come together with those of the other pods: see crew.py for who they are."""

import asyncio
import logging
import secrets
from collections.abc import Sequence

from tandem_checkpoint.process.commands import RankPlace
from tandem_checkpoint.process.ranks import RankGroup
from tandem_checkpoint.registry.mirror import Mirror
from tandem_checkpoint.switch.crew import Crew, find_crew, is_agreed, other_crew, places_of
from tandem_checkpoint.switch.side import Announce, CrewChanged, Surroundings

logger = logging.getLogger(__name__)

START_SECONDS = 300.0
"""Time for imports, rendezvous and loading the policy."""


class Meeting:
    """The life of this pod's ranks, and the crew that they are of."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self._announce: Announce
        self._crew: Crew | None = None
        self._met = False
        """Whether this pod's ranks have been told whom to meet."""
        self.life = ""
        """Random id of this pod's ranks as they are now."""

    @property
    def crew_name(self) -> str:
        """The name of the crew that this pod has said it is of; empty before that."""
        return self._crew.name if self._crew else ""

    @property
    def places(self) -> Sequence[RankPlace]:
        """The places of this pod's ranks in the crew that they have met."""
        assert self._crew is not None
        return places_of(self._crew, self._around.settings)

    def begin_life(self) -> None:
        """Give the ranks that are started next another id than the last ones had."""
        self.life = secrets.token_hex(8)

    def end(self) -> None:
        """Note that this pod's ranks are gone."""
        self._met = False

    async def call(self, announce: Announce) -> None:
        """Tell all pods that ranks with this life are here to be met."""
        self._announce, self._crew = announce, None
        await announce()

    async def hold(self, ranks: RankGroup) -> None:
        """Have ranks meet those of the other pods: those that every pod says it will meet. Errors: ChildGone."""
        while (crew := await self._agree()) is None:
            logger.info("the ranks of another pod have started anew; meeting those instead")
        self._met = True
        async with asyncio.timeout(START_SECONDS):
            await ranks.meet(places_of(crew, self._around.settings))

    async def broken(self) -> CrewChanged:
        """Return whose ranks elsewhere have started anew since ours met them, once some have."""
        return CrewChanged(await self._around.mirror.wait(self._other_crew))

    async def _agree(self) -> Crew | None:
        """Say whom our ranks would meet; return that once every pod says the same, None where one cannot any more."""
        mirror, settings = self._around.mirror, self._around.settings
        crew = self._crew = await mirror.wait(lambda mirror: find_crew(mirror, settings, self.life))
        await self._announce()
        return crew if await mirror.wait(lambda mirror: is_agreed(mirror, settings, crew)) else None

    def _other_crew(self, mirror: Mirror) -> str | None:
        """Return whose ranks have started anew; before ours meet them, `hold` looks at that."""
        if self._crew is None or not self._met:
            return None
        return other_crew(mirror, self._around.settings, self._crew)
