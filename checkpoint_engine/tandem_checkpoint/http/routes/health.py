"""Health, for kubelets: alive is not ready."""

from fastapi import APIRouter, Response

from tandem_api.engine import Alive, Readiness
from tandem_api.registry import MemberState
from tandem_checkpoint.http.capabilities import Capabilities

NOT_READY = (MemberState.STARTING, MemberState.FAILED)


def routes(offered: Capabilities) -> APIRouter:
    """Return /healthz and /readyz."""
    router = APIRouter(tags=["health"])

    @router.get("/healthz")
    async def alive() -> Alive:
        """Alive: the event loop answers. Whoever is not alive is to be started again. No token."""
        return Alive()

    @router.get("/readyz", responses={503: {"model": Readiness, "description": "The member starts, or has failed."}})
    async def ready(response: Response) -> Readiness:
        """Ready: registered and started. Whoever is not ready is to be left alone, not to be killed. No token."""
        state = offered.status().state
        response.status_code = 503 if state in NOT_READY else 200
        return Readiness(state=state)

    return router
