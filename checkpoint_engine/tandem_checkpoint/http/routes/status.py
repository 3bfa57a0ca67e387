"""Where a member is."""

from fastapi import APIRouter

from tandem_api.engine import MemberPhase
from tandem_api.registry import MemberStatus
from tandem_checkpoint.http.capabilities import Capabilities, NotOffered
from tandem_checkpoint.http.problems import refusals


def routes(offered: Capabilities) -> APIRouter:
    """Return /v1/status and /v1/phase."""
    router = APIRouter(prefix="/v1", tags=["status"])

    @router.get("/status")
    async def status() -> MemberStatus:
        """What this member last reported to the registry, with the stages of the switch so far."""
        return offered.status()

    @router.get("/phase", responses=refusals(NotOffered))
    async def phase() -> MemberPhase:
        """What this member is in the middle of: epoch, phase, generation, and until when a running switch has time."""
        if offered.phase is None:
            raise NotOffered("this member does not know its phase; ask another one, or the registry")
        return offered.phase.phase()

    return router
