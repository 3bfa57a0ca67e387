"""`tandem-master`: the first process of the master container."""

import asyncio
import logging
import os
import signal
import sys
from datetime import UTC, datetime

from tandem_checkpoint.registry.etcd import connect
from tandem_master.errors import SettingsError
from tandem_master.loop import run_job
from tandem_master.settings import Settings, parse_settings
from tandem_master.stop import StopSignal

logger = logging.getLogger(__name__)


class IsoFormatter(logging.Formatter):
    """One line a record, with an ISO 8601 time in UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def main() -> None:
    """Run the job that the environment names and exit: 0 completed or stopped cleanly, 1 failed."""
    configure_logging()
    try:
        settings = parse_settings(os.environ)
    except SettingsError as error:
        logger.error("%s", error)
        sys.exit(1)
    sys.exit(asyncio.run(_run(settings)))


def configure_logging() -> None:
    """Log to stderr; the HTTP client's line for each request is left out."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(IsoFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)


async def _run(settings: Settings) -> int:
    stop = StopSignal()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.request)
    async with connect(settings.etcd_endpoints, settings.etcd_credentials) as registry:
        return await run_job(settings, registry, stop)


if __name__ == "__main__":
    main()
