"""Metrics, for Prometheus."""

from fastapi import APIRouter, Response

from tandem_checkpoint.http.capabilities import Capabilities, NotOffered
from tandem_checkpoint.http.problems import Responses, refusals

TEXT_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
DESCRIBED: Responses = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."}
}


def routes(offered: Capabilities) -> APIRouter:
    """Return /metrics."""
    router = APIRouter(tags=["metrics"])

    @router.get("/metrics", response_class=Response, responses={**DESCRIBED, **refusals(NotOffered)})
    async def metrics() -> Response:
        """Counters, gauges and histograms of this member, in Prometheus' text format."""
        if offered.metrics is None:
            raise NotOffered("this member keeps no metrics")
        return Response(offered.metrics(), media_type=TEXT_FORMAT)

    return router
