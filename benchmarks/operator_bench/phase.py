"""One phase: an operator is started, brings jobs up, idles perhaps, loses them and ends."""

import asyncio
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from benchmarks.operator_bench.api import Api, until
from benchmarks.operator_bench.cluster import BenchCluster
from benchmarks.operator_bench.contenders import Contender, RunningOperator
from benchmarks.operator_bench.counters import AUDITED_WRITES, quantile, writes
from benchmarks.operator_bench.manifests import PODS_PER_JOB
from benchmarks.operator_bench.pods import PodWatch, watch_pods
from benchmarks.operator_bench.proc import cpu_seconds, peak_rss_mib

FIXED_SECONDS, SECONDS_PER_JOB = 120.0, 2.0
"""Deadline of bringing up or taking down: JobSet needs 0.15 s a job on two cores."""
QUIET_CPU_SHARE = 0.2
"""Processor time a second under which all programs together count as quiet."""
QUIET_LOOKS, QUIET_SECONDS = 2, 120.0
IDLE_SECONDS = 60.0
NAMESPACE_SECONDS = 300.0
LOOK_SECONDS = 1.0
RECONCILE = "tandem_operator_reconcile_duration_seconds"


@dataclass(frozen=True, slots=True)
class Idle:
    """A minute in which nothing happens to the jobs."""

    api_requests: int
    """Of the operator, without watches and its lease."""
    cpu_seconds_per_minute: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What one phase has shown."""

    operator: str
    jobs: int
    seconds_to_all_pods: float
    seconds_to_all_ready: float
    seconds_to_all_gone: float
    cpu_ms_per_job: float
    """Of all programs, up to the moment when they are quiet; the benchmark's own time is not in it."""
    cpu_ms_per_job_by_program: Mapping[str, float]
    operator_cpu_ms_per_job: float
    client_cpu_ms_per_job: float
    """Of the benchmark, which creates the jobs and watches their pods."""
    api_writes_per_job: float
    """By all programs and the benchmark, leases left out."""
    api_writes: Mapping[str, int]
    operator_writes_per_job: float
    operator_requests: Mapping[str, int]
    peak_rss_mib: float
    reconcile_p99_ms: float | None
    idle: Idle | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """All counters at one moment."""

    cpu_seconds: Mapping[str, float]
    client_cpu_seconds: float
    writes: Counter[str]
    """By all programs and the benchmark, as `POST pods`."""
    audit_position: int


@dataclass(slots=True)
class Phase:
    """The parts that all steps of a phase need."""

    cluster: BenchCluster
    api: Api
    contender: Contender
    operator: RunningOperator
    pods: PodWatch
    namespace: str
    names: list[str] = field(default_factory=list)

    @property
    def num_pods(self) -> int:
        """Return how many pods the jobs have."""
        return PODS_PER_JOB * len(self.names)

    @property
    def deadline_seconds(self) -> float:
        """Return how long bringing up or taking down may last."""
        return FIXED_SECONDS + SECONDS_PER_JOB * len(self.names)

    def cpu_seconds(self) -> dict[str, float]:
        """Return the processor time of every program, the operator's as `operator`."""
        return {**self.cluster.cpu_seconds(), "operator": cpu_seconds(self.operator.pid)}

    async def bring_up(self, names: list[str]) -> tuple[float, float]:
        """Create the jobs; return the seconds until all pods exist, and until all are Ready."""
        self.names = names
        began = monotonic()
        collection = self.contender.collection(self.namespace)
        async with asyncio.TaskGroup() as tasks:
            exist = tasks.create_task(self._until(lambda: self.pods.num_pods == self.num_pods, "all pods exist"))
            ready = tasks.create_task(self._until(lambda: self.pods.num_ready == self.num_pods, "all pods are Ready"))
            for name in names:
                manifest = self.contender.manifest(self.namespace, name)
                tasks.create_task(self.api.send("POST", collection, manifest), name=f"create {name}")
        return exist.result() - began, ready.result() - began

    async def take_down(self) -> float:
        """Delete the jobs; return the seconds until all pods are gone."""
        began = monotonic()
        collection = self.contender.collection(self.namespace)
        async with asyncio.TaskGroup() as tasks:
            gone = tasks.create_task(self._until(lambda: self.pods.num_pods == 0, "all pods are gone"))
            for name in self.names:
                path = f"{collection}/{name}?propagationPolicy=Background"
                tasks.create_task(self.api.send("DELETE", path), name=f"delete {name}")
        self.names = []
        return gone.result() - began

    async def until_quiet(self) -> None:
        """Wait until no program has anything left to do; TimeoutError."""
        spent = [sum(self.cpu_seconds().values())]

        async def quiet() -> bool:
            spent.append(sum(self.cpu_seconds().values()))
            now, before = spent[-1], spent[max(0, len(spent) - 1 - QUIET_LOOKS)]
            return len(spent) > QUIET_LOOKS and now - before < QUIET_CPU_SHARE * QUIET_LOOKS * LOOK_SECONDS

        await until(quiet, QUIET_SECONDS, f"{self.contender.name}: all programs are quiet", LOOK_SECONDS)

    async def idle(self) -> Idle:
        """Watch a minute in which nothing happens."""
        position, cpu = self.cluster.audit.position(), cpu_seconds(self.operator.pid)
        await asyncio.sleep(IDLE_SECONDS)
        spent = cpu_seconds(self.operator.pid) - cpu
        requests = self.cluster.audit.requests(self.contender.user, position)
        return Idle(requests.total(), spent * 60 / IDLE_SECONDS)

    async def moment(self) -> Moment:
        """Read all counters. The metrics cost the API server time itself: they are read before its time is."""
        written = writes(await self.api.text("/metrics"))
        return Moment(self.cpu_seconds(), _own_cpu_seconds(), written, self.cluster.audit.position())

    async def _until(self, condition: Callable[[], bool], what: str) -> float:
        return await self.pods.until(condition, self.deadline_seconds, f"{self.contender.name}: {what}")


async def measure(
    cluster: BenchCluster,
    api: Api,
    contender: Contender,
    programs: Mapping[str, Path],
    namespace: str,
    num_jobs: int,
    with_idle: bool,
) -> Sample:
    """Return the figures of one operator with so many jobs. ProgramError, TimeoutError, ApiAnswerError."""
    await _make_namespace(api, namespace)
    with contender.run(cluster, programs) as operator:
        async with watch_pods(api, namespace) as pods:
            phase = Phase(cluster, api, contender, operator, pods, namespace)
            await phase.bring_up(["warm-up"])
            await phase.take_down()
            await phase.until_quiet()
            sample = await _measure_jobs(phase, num_jobs, with_idle)
    await _delete_namespace(api, namespace)
    return sample


async def _measure_jobs(phase: Phase, num_jobs: int, with_idle: bool) -> Sample:
    """Bring the jobs up and down and count what it costs."""
    before = await phase.moment()
    to_pods, to_ready = await phase.bring_up([f"job-{number}" for number in range(num_jobs)])
    await phase.until_quiet()
    cpu, client_cpu = phase.cpu_seconds(), _own_cpu_seconds()
    after = await phase.moment()
    idle = await phase.idle() if with_idle else None
    requests = phase.cluster.audit.requests(phase.contender.user, before.audit_position)
    metrics = await asyncio.to_thread(phase.operator.metrics) if phase.contender.has_metrics else ""
    by_program = {name: 1000 * (cpu[name] - before.cpu_seconds[name]) / num_jobs for name in cpu}
    own_writes = sum(number for words, number in requests.items() if words.split()[0] in AUDITED_WRITES)
    written = after.writes - before.writes
    return Sample(
        operator=phase.contender.name,
        jobs=num_jobs,
        seconds_to_all_pods=to_pods,
        seconds_to_all_ready=to_ready,
        seconds_to_all_gone=await phase.take_down(),
        cpu_ms_per_job=sum(by_program.values()),
        cpu_ms_per_job_by_program=by_program,
        operator_cpu_ms_per_job=by_program["operator"],
        client_cpu_ms_per_job=1000 * (client_cpu - before.client_cpu_seconds) / num_jobs,
        api_writes_per_job=written.total() / num_jobs,
        api_writes=dict(written.most_common()),
        operator_writes_per_job=own_writes / num_jobs,
        operator_requests=dict(requests.most_common()),
        peak_rss_mib=peak_rss_mib(phase.operator.pid),
        reconcile_p99_ms=_milliseconds(quantile(metrics, RECONCILE, 0.99)),
        idle=idle,
    )


async def _make_namespace(api: Api, namespace: str) -> None:
    """Create a namespace and wait for the account that its pods run as."""
    await api.send("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
    await until(lambda: api.exists(account), NAMESPACE_SECONDS, f"{namespace} has an account for pods")


async def _delete_namespace(api: Api, namespace: str) -> None:
    """Delete a namespace and wait until it is gone: what is left of a phase must not burden the next."""
    path = f"/api/v1/namespaces/{namespace}"
    await api.send("DELETE", path)

    async def gone() -> bool:
        return not await api.exists(path)

    await until(gone, NAMESPACE_SECONDS, f"{namespace} is gone")


def _own_cpu_seconds() -> float:
    return cpu_seconds(os.getpid())


def _milliseconds(seconds: float) -> float | None:
    return None if math.isnan(seconds) else 1000 * seconds
