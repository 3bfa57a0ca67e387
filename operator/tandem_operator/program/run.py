"""The order of start and end: probes, credentials, lease, then everything that leads; and back."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from functools import partial

from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.credentials import Connection, CredentialsError, connect
from tandem_operator.kube.lease import LeaderLease
from tandem_operator.kube.limits import WriteLimit, WriteRate
from tandem_operator.program.errors import SettingsError
from tandem_operator.program.health import ProbeServer
from tandem_operator.program.leader import Assembly, Leader
from tandem_operator.program.metrics import Metrics
from tandem_operator.program.pulse import Pulse, Role, Vitals
from tandem_operator.program.settings import LeasePlace, Settings

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
RELEASE_SECONDS = 5.0
SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def run_operator(settings: Settings, assembly: Assembly, version: str) -> None:
    """Run until SIGTERM or SIGINT. ProgramError where that is not to be: also LeaseLostError."""
    stop = asyncio.Event()
    own_signals = _signals(stop)
    own_signals()
    metrics = Metrics(version, settings.lease.identity)
    pulse = Pulse()
    with ProbeServer(settings.metrics, pulse, metrics.text):
        connection = await _connect(settings)
        try:
            client = KubeClient(connection, limit=_write_limit(settings), observe=metrics.count_request)
            replica = Replica(
                settings.lease,
                client,
                metrics,
                partial(Leader, settings, connection, client, metrics, assembly, own_signals),
            )
            async with asyncio.TaskGroup() as tasks:
                beating = tasks.create_task(beat(pulse, metrics, replica.vitals), name="heartbeat")
                await replica.run(stop)
                beating.cancel()
        finally:
            await connection.close()


class Replica:
    """One process among those that may lead."""

    def __init__(
        self, place: LeasePlace, client: KubeClient, metrics: Metrics, begin_to_lead: Callable[[], Leader]
    ) -> None:
        self._place = place
        self._client = client
        self._metrics = metrics
        self._begin_to_lead = begin_to_lead
        self._role = Role.STARTING
        self._leader: Leader | None = None

    def vitals(self) -> Vitals:
        """Return what the probes may know."""
        leader = self._leader
        if leader is None:
            return Vitals(self._role)
        return Vitals(self._role, leader.synced, leader.progress_age_seconds(), leader.watch_age_seconds())

    async def run(self, stop: asyncio.Event) -> None:
        """Stand by, lead, and hand over."""
        place = self._place
        lease = LeaderLease(self._client, namespace=place.namespace, name=place.name, identity=place.identity)
        try:
            if await self._acquire(lease, stop):
                await self._lead(lease, stop)
        finally:
            self._metrics.show_leader(False)
            await _release(lease)

    async def _acquire(self, lease: LeaderLease, stop: asyncio.Event) -> bool:
        """Return whether the lease is ours; False where the end came first."""
        self._role = Role.STANDBY
        place = self._place
        logger.info("%s waits for the lease %s/%s", place.identity, place.namespace, place.name)
        acquiring = asyncio.create_task(lease.acquire(), name="lease")
        stopping = asyncio.create_task(stop.wait(), name="stop of the standby")
        try:
            await asyncio.wait([acquiring, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not acquiring.done():
                acquiring.cancel()
                await asyncio.wait([acquiring])
        if stop.is_set():
            return False
        await acquiring
        return True

    async def _lead(self, lease: LeaderLease, stop: asyncio.Event) -> None:
        logger.info("%s leads", self._place.identity)
        self._leader = self._begin_to_lead()
        self._role = Role.LEADER
        self._metrics.show_leader(True)
        try:
            await self._leader.run(lease, stop)
        finally:
            self._role = Role.STOPPING


async def beat(pulse: Pulse, metrics: Metrics, vitals: Callable[[], Vitals]) -> None:
    """Tell the probes once a second that the event loop turns, and how late it is."""
    loop = asyncio.get_running_loop()
    while True:
        pulse.beat(vitals())
        due = loop.time() + BEAT_SECONDS
        await asyncio.sleep(BEAT_SECONDS)
        metrics.show_loop_lag(max(0.0, loop.time() - due))


def _write_limit(settings: Settings) -> WriteLimit:
    rate = settings.writes_per_second
    return WriteLimit(WriteRate(per_second=float(rate), burst=2 * rate))


async def _connect(settings: Settings) -> Connection:
    try:
        return await connect(settings.kubeconfig)
    except CredentialsError as error:
        raise SettingsError(f"--{error}") from None


async def _release(lease: LeaderLease) -> None:
    """Give the lease up, so that the next replica need not wait for its end; harmless where it is not held."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RELEASE_SECONDS):
            await lease.release()


def _signals(stop: asyncio.Event) -> Callable[[], None]:
    """Return what makes SIGTERM and SIGINT set `stop`; kopf takes them over, so it is called again after it."""
    loop = asyncio.get_running_loop()

    def install() -> None:
        for number in SIGNALS:
            loop.add_signal_handler(number, stop.set)

    return install
