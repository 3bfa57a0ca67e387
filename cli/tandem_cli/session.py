"""One run of `tandem up`: from a checked job to its report, with nothing left behind."""

import asyncio
import hashlib
import logging
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from tandem_api.engine import ENGINE_PORT_ROLLOUT, ENGINE_PORT_TRAIN, METRICS_PORT, RENDEZVOUS_PORT, SERVER_PORT
from tandem_api.job import RLJob
from tandem_api.job.tls import TlsSpec
from tandem_api.registry import Keys
from tandem_checkpoint.registry.etcd import connect
from tandem_cli.checks import segment_bytes
from tandem_cli.display import Display
from tandem_cli.errors import MachineError, UserError
from tandem_cli.feed import Feed, HistoryTail
from tandem_cli.live.state import LiveState, with_history
from tandem_cli.local.cleanup import Cleanup, janitor
from tandem_cli.local.etcd import CLIENT_PORT, PEER_PORT, etcd_program, find_etcd, until_healthy
from tandem_cli.local.network import check_free, etcd_address, pod_addresses
from tandem_cli.local.node import MASTER_STOP_SECONDS, Node
from tandem_cli.local.run_folder import HISTORY
from tandem_cli.local.volumes import Folders
from tandem_cli.report.history import read_history
from tandem_cli.report.quantity import plural_text
from tandem_operator.plan import names
from tandem_operator.plan.errors import SpecError
from tandem_operator.plan.job import Plan, Surroundings, plan_job

logger = logging.getLogger(__name__)

MANIFEST_BYTES = 16 << 20
"""Room beside the segments for manifests and the registry's data."""
MASTER_VERDICT_SECONDS = 8.0
"""How long the master may take to say why a container's end has failed the job."""
STOPPED_BY_USER = 130


@dataclass(frozen=True, slots=True)
class Session:
    """Everything that is decided before the first process starts."""

    job: RLJob
    folder: Path
    network: IPv4Network
    memory: Path
    """A folder on a tmpfs, made for this run."""
    show_logs: bool

    @property
    def keys(self) -> Keys:
        return Keys(self.job.metadata.namespace, self.job.metadata.name)

    @property
    def history(self) -> Path:
        return self.folder / HISTORY


def memory_folder(shared_memory: Path, run_folder: Path) -> Path:
    """Return the run's own folder on the tmpfs; the same for every run in one run folder, so leftovers are found."""
    digest = hashlib.sha256(str(run_folder.resolve()).encode()).hexdigest()[:12]
    return shared_memory / f"tandem-{digest}"


def run(session: Session, display: Display) -> int:
    """Run the job to its end; return the exit code. Raises CommandError with the cause of a failure."""
    executable = find_etcd()
    plan = _plan(session.job, session)
    _check_memory(session, plan)
    _check_ports(session, plan)
    with janitor() as cleanup:
        folders = Folders(
            memory=cleanup.add_folder(session.memory),
            scratch=cleanup.add_folder(Path(tempfile.gettempdir()) / session.memory.name),
            state=session.folder.resolve(),
        )
        return asyncio.run(_run(session, display, plan, folders, cleanup, executable))


def _plan(job: RLJob, session: Session) -> Plan:
    """Ask the operator's planner for the pods; the run folder stands in for the job's claim.

    No Secret exists here, so the job's pods speak HTTP: on loopback nobody else hears them.
    """
    claim = job.spec.checkpoints.model_copy(update={"claim_name": job.metadata.name})
    job = job.model_copy(update={"spec": job.spec.model_copy(update={"checkpoints": claim, "tls": TlsSpec()})})
    surroundings = Surroundings(
        etcd_endpoints=(f"{etcd_address(session.network)}:{CLIENT_PORT}",),
        token=secrets.token_urlsafe(32),
        shared_memory_bytes=2 * segment_bytes(job) + MANIFEST_BYTES,
    )
    try:
        return plan_job(job, surroundings)
    except SpecError as error:
        raise UserError(str(error)) from None


def _check_memory(session: Session, plan: Plan) -> None:
    """Both segments of every pod must fit before anything starts."""
    pods = session.job.spec.hybrid.replicas + session.job.spec.rollout.elastic.replicas
    segment = segment_bytes(session.job)
    wanted = pods * 2 * segment + MANIFEST_BYTES
    root = session.memory.parent
    try:
        free = shutil.disk_usage(root).free
    except OSError as error:
        raise MachineError(f"{root}: cannot be used ({error.strerror}); mount a tmpfs there") from None
    if free < wanted:
        raise MachineError(
            f"{root}: has {_mebibytes(free)} MiB free, the weights of {plural_text(pods, 'pod')} need "
            f"2 x {_mebibytes(segment)} MiB each and {_mebibytes(MANIFEST_BYTES)} MiB beside them; remount it larger "
            f"(mount -o remount,size={_mebibytes(2 * wanted)}M {root}) or choose a smaller policy"
        )


def _mebibytes(num_bytes: int) -> int:
    return -(-num_bytes // (1 << 20))


def _check_ports(session: Session, plan: Plan) -> None:
    spec = session.job.spec
    num_devices = max(spec.hybrid.gpus_per_pod, spec.rollout.elastic.gpus_per_pod)
    addresses = pod_addresses(session.network, (pod.metadata.name for pod in plan.pods))
    ports = [
        ENGINE_PORT_TRAIN,
        ENGINE_PORT_ROLLOUT,
        METRICS_PORT,
        RENDEZVOUS_PORT,
        *range(SERVER_PORT, SERVER_PORT + num_devices // spec.rollout.parallelism.num_devices),
    ]
    registry = etcd_address(session.network)
    check_free([(registry, CLIENT_PORT), (registry, PEER_PORT)])
    check_free((address, port) for address in addresses.values() for port in ports)


async def _run(
    session: Session, display: Display, plan: Plan, folders: Folders, cleanup: Cleanup, executable: str
) -> int:
    logs = session.folder / "logs"
    display.skip_logs(logs)
    node = Node(cleanup, logs)
    address = etcd_address(session.network)
    with ExitStack() as stack:
        stop = stack.enter_context(_signals(node))
        etcd = await node.start_program(etcd_program(executable, address, folders.memory / "etcd", logs / "etcd.log"))
        try:
            await until_healthy(etcd, f"{address}:{CLIENT_PORT}")
            if stop.asked.is_set():
                return STOPPED_BY_USER
            addresses = pod_addresses(session.network, (pod.metadata.name for pod in plan.pods))
            await node.start_pods(plan, addresses, folders)
            async with _healing(node, display):
                return await _watch(session, display, node, stop, f"{address}:{CLIENT_PORT}")
        finally:
            await node.stop()
            etcd.signal(signal.SIGKILL)
            await etcd.wait()


@asynccontextmanager
async def _healing(node: Node, display: Display) -> AsyncIterator[None]:
    """Start containers again when they end, while the context is open."""
    task = asyncio.create_task(node.heal(display.line), name="healing")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


class Stop:
    """What the user's signals ask for."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()


@contextmanager
def _signals(node: Node) -> Iterator[Stop]:
    """Ctrl-C once: the master finishes and saves. Twice: everything ends at once."""
    stop = Stop()
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        if stop.asked.is_set():
            stop.at_once.set()
            node.kill()
        node.begin_stop()
        stop.asked.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    try:
        yield stop
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _watch(session: Session, display: Display, node: Node, stop: Stop, endpoint: str) -> int:
    """Show the job until it ends; return the exit code or raise what it failed of."""
    feed = Feed(_first_state(session), display.changed)
    tail = HistoryTail(session.history)
    async with connect([endpoint]) as registry, display.live(feed):
        jobs: list[Coroutine[Any, Any, None]] = [
            feed.follow_registry(registry, session.keys),
            feed.follow_history(tail),
        ]
        if session.show_logs:
            jobs.append(display.follow_logs(session.folder / "logs"))
        tasks = [asyncio.create_task(job, name="display") for job in jobs]
        try:
            failed = await _ended(node, stop)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        feed.take(tail.new_records())
    if stop.asked.is_set():
        return STOPPED_BY_USER
    if failed is not None:
        raise MachineError(feed.state.error or failed)
    return 0


def _first_state(session: Session) -> LiveState:
    state = LiveState(
        job=session.job.metadata.name,
        started_at=time.time(),
        expected_members=2 * session.job.spec.hybrid.replicas + session.job.spec.rollout.elastic.replicas,
        rollout_only=frozenset(names.rollout_pods(session.job)),
        iterations=session.job.spec.recipe.iterations,
    )
    return with_history(state, read_history(session.history)) if session.history.exists() else state


async def _ended(node: Node, stop: Stop) -> str | None:
    """Wait for the master, for another container to end before it, or for the user to stop the job.

    Returns the failure, None for success. After the user's word the master gets its time and no more.
    """
    master = asyncio.create_task(node.verdict(), name="master")
    other = asyncio.create_task(node.first_failure(), name="containers")
    asked = asyncio.create_task(stop.asked.wait(), name="stop")
    try:
        await asyncio.wait({master, other, asked}, return_when=asyncio.FIRST_COMPLETED)
        if stop.asked.is_set():
            node.master.signal(signal.SIGTERM)
        if not master.done():
            with suppress(TimeoutError):
                seconds = MASTER_STOP_SECONDS if stop.asked.is_set() else MASTER_VERDICT_SECONDS
                await asyncio.wait_for(asyncio.shield(master), seconds)
        if master.done() and master.result() == 0:
            return None
        if other.done():
            ended = other.result()
            return f"{ended.name}: ended while the job ran: {ended.last_words()}; see {ended.log}"
        return f"{node.master.name}: {node.master.last_words()}; see {node.master.log}"
    finally:
        for task in (master, other, asked):
            task.cancel()
