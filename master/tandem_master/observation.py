"""Who else gets the records of a run: metrics for Prometheus, spans for a collector. Neither can end a job."""

import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from tandem_api.history import Record
from tandem_master.errors import SettingsError
from tandem_master.metrics import MasterMetrics
from tandem_master.metrics_server import metrics_served
from tandem_master.tracing import JobName, SwitchTracer, open_tracer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scrape:
    """Where and to whom metrics are given."""

    address: str
    """Address of the pod."""
    port: int | None
    """None: to nobody."""
    token: str
    """The job's."""
    tls: ssl.SSLContext | None = None
    """With the pod's certificate; None: plain HTTP."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What looks on while a job runs."""

    metrics: MasterMetrics
    tracer: SwitchTracer | None = None

    def record(self, record: Record) -> None:
        """Take in one record of the diary. Safe from any thread."""
        self.metrics.record(record)
        if self.tracer is not None:
            self.tracer.record(record)


@asynccontextmanager
async def observed(job: JobName, scrape: Scrape, environment: Mapping[str, str]) -> AsyncIterator[Observation]:
    """Look on while the context is open; a port that is taken costs an error in the log, and the metrics."""
    metrics = MasterMetrics()
    async with AsyncExitStack() as stack:
        tracer = stack.enter_context(open_tracer(environment, job))
        if scrape.port is not None:
            serving = metrics_served(scrape.address, scrape.port, scrape.token, metrics.rendered, scrape.tls)
            try:
                await stack.enter_async_context(serving)
            except SettingsError as error:
                logger.error("%s; the job runs without metrics", error)
        yield Observation(metrics, tracer)
