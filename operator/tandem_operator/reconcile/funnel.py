"""One funnel a job: observe, plan, apply, write the status. Level-triggered: what woke it does not matter.

kopf tells of RLJobs, the child cache of pods, the progress mirror of the master's words; each only says which job to
look at. Nothing here asks a pod anything.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic

from tandem_api.job import RLJob
from tandem_api.job.status import ConditionType, RLJobStatus
from tandem_api.registry import Progress
from tandem_operator.kube.errors import ApiError, ConflictError, is_transient
from tandem_operator.kube.manifest import annotations_of, name_of, section, text, uid_of
from tandem_operator.kube.resources import (
    CONFIG_MAP,
    KUEUE_WORKLOAD,
    NETWORK_POLICY,
    POD,
    POD_DISRUPTION_BUDGET,
    POD_GROUP,
    POD_GROUP_BETA,
    RESOURCE_CLAIM_TEMPLATE,
    SERVICE,
    SERVICE_ACCOUNT,
    VOLCANO_POD_GROUP,
)
from tandem_operator.plan.revision import ANNOTATION_APPLIED_HASH
from tandem_operator.reconcile.admission import read_workload
from tandem_operator.reconcile.agenda import Agenda
from tandem_operator.reconcile.conditions import notes_between, refused_status
from tandem_operator.reconcile.decision import Child, Decision, Note
from tandem_operator.reconcile.lifecycle import decide
from tandem_operator.reconcile.observed import Observed
from tandem_operator.reconcile.pods import is_owned, read_pod
from tandem_operator.reconcile.record import Body, JobRecord, Place
from tandem_operator.reconcile.steps import Cluster, change_children, delete_job, tell, write_status
from tandem_operator.reconcile.survey import Surveyor

logger = logging.getLogger(__name__)

SUPPORTING_KINDS = (
    CONFIG_MAP,
    SERVICE,
    SERVICE_ACCOUNT,
    NETWORK_POLICY,
    POD_DISRUPTION_BUDGET,
    RESOURCE_CLAIM_TEMPLATE,
)
"""Children that are compared by the hash of what was applied; secrets are neither listed nor watched."""
POD_GROUP_KINDS = (POD_GROUP_BETA, POD_GROUP, VOLCANO_POD_GROUP)
OPTIONAL_KINDS = (*POD_GROUP_KINDS, KUEUE_WORKLOAD)
"""Children that a cluster may not know."""
PROGRESS_SECONDS = 5.0
"""A status that differs in the master's counts only is written no more often than this."""
UNKNOWN_POD_SECONDS = 1.0
"""Time in which the watch should have told of a pod that could not be made because it exists."""
FIRST_BACKOFF_SECONDS, LONGEST_BACKOFF_SECONDS = 0.5, 60.0

Key = tuple[str, str]
"""Namespace and name of an RLJob."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What the program wants to know of the funnels."""

    progress: Callable[[str, str], Progress | None] = lambda namespace, name: None
    """The master's newest word on a job."""
    timed: Callable[[], AbstractContextManager[object]] = nullcontext
    """Around each look at a job."""
    about: Callable[[str, str], AbstractContextManager[object]] = lambda namespace, name: nullcontext()
    """Puts the job on every log line."""
    count_error: Callable[[str], None] = lambda reason: None
    show_queue: Callable[[int], None] = lambda depth: None
    forget: Callable[[str, str], None] = lambda namespace, name: None
    """Told of a job that is gone."""
    note_conditions: Callable[[str, str, dict[str, str]], None] = lambda namespace, name, conditions: None


class Funnels:
    """All jobs of one operator, each looked at by one worker at a time."""

    def __init__(self, cluster: Cluster, place: Place, hooks: Hooks | None = None, workers: int = 8) -> None:
        self._cluster = cluster
        self._surveyor = Surveyor(cluster.client, cluster.cache)
        self._place = place
        self._hooks = hooks or Hooks()
        self._workers = workers
        self._agenda: Agenda[Key] = Agenda()
        self._records: dict[Key, JobRecord] = {}
        self._beat = monotonic()
        self._num_busy = 0
        self._idle: set[asyncio.Task[None]] = set()
        self._stopping = False

    def sink(self, namespace: str, name: str, body: Body | None) -> None:
        """Take the newest body of an RLJob, None when it is gone."""
        key = (namespace, name)
        known = self._records.get(key)
        if body is None:
            self._records.pop(key, None)
            self._agenda.forget_timer(key)
            self._hooks.forget(namespace, name)
            return
        if known is None or known.body["metadata"]["uid"] != body["metadata"]["uid"]:
            self._records[key] = JobRecord(body)
        else:
            known.renew(body)
        self.wake(namespace, name)

    def wake(self, namespace: str, name: str) -> None:
        """Look at a job soon."""
        if (namespace, name) in self._records:
            if not self._num_busy and not len(self._agenda):
                self._beat = monotonic()
            self._agenda.wake((namespace, name))
            self._hooks.show_queue(len(self._agenda))

    def heartbeat_age_seconds(self) -> float:
        """Return for how long there has been work without a look that ended; 0 while nothing is to do."""
        return monotonic() - self._beat if self._num_busy or len(self._agenda) else 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop`; looks that are under way end first. A cancellation ends them at once."""
        workers = [asyncio.create_task(self._work(), name=f"funnel-{index}") for index in range(self._workers)]
        stopped = asyncio.create_task(stop.wait(), name="funnels-stop")
        try:
            done, _ = await asyncio.wait([*workers, stopped], return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopped}:
                task.result()
            self._stopping = True
            for task in self._idle:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        finally:
            self._agenda.close()
            for task in (*workers, stopped):
                task.cancel()
            await asyncio.gather(*workers, stopped, return_exceptions=True)

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        while not self._stopping:
            self._idle.add(task)
            key = await self._agenda.take()
            self._idle.discard(task)
            self._num_busy += 1
            try:
                with self._hooks.about(*key), self._hooks.timed():
                    await self._look_safely(key)
            finally:
                self._num_busy -= 1
                self._beat = monotonic()
                self._agenda.done(key)
                self._hooks.show_queue(len(self._agenda))

    async def _look_safely(self, key: Key) -> None:
        """Look at one job; whatever goes wrong concerns this job alone and is tried again later."""
        record = self._records.get(key)
        if record is None:
            return
        try:
            await self._look(key, record)
        except ConflictError:  # somebody has changed the job meanwhile; the watch brings the newer one
            self._agenda.wake_after(key, FIRST_BACKOFF_SECONDS)
        except ApiError as error:
            if error.is_namespace_terminating:  # the job goes with its namespace, and no Event can be written there
                logger.info("its namespace is being deleted; nothing is made there")
                self._agenda.wake_after(key, LONGEST_BACKOFF_SECONDS)
                return
            self._hooks.count_error(error.reason)
            if not is_transient(error):
                tell(self._cluster, record, (Note("Warning", error.reason or "ApiError", str(error)),))
            self._later(key, record, f"the API server answers: {error}")
        except Exception as error:  # one job's surprise must not end the others' funnel
            self._hooks.count_error(type(error).__name__)
            logger.exception("internal error")
            self._later(key, record, f"internal error: {type(error).__name__}: {error}")
        else:
            record.failures = 0

    def _later(self, key: Key, record: JobRecord, why: str) -> None:
        record.failures += 1
        seconds = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2.0 ** min(record.failures, 10))
        logger.warning("%s; next try in %.1f s", why, seconds)
        self._agenda.wake_after(key, seconds)

    async def _look(self, key: Key, record: JobRecord) -> None:
        if record.body["metadata"].get("deletionTimestamp") is not None:
            return
        job = record.parse()
        if job is None:
            await self._refuse(record, record.problem or "")
            return
        has_kueue = await self._surveyor.has_queues(job)
        observed = self._observe(key, record, job, has_kueue=has_kueue)
        offer = await self._surveyor.survey(job, observed.workload, record.offer, has_kueue=has_kueue)
        decision = decide(observed, record.plan(job, observed.status.attempt, self._place, offer))
        await self._carry_out(key, record, observed, decision)

    async def _refuse(self, record: JobRecord, problem: str) -> None:
        """Say that the job cannot be read; its pods stay as they are."""
        before = record.status()
        after = refused_status(before, record.generation, problem, datetime.now(UTC))
        if after == before:
            return
        logger.warning("invalid RLJob: %s", problem)
        decision = Decision(after, notes=notes_between(before, after))
        await write_status(self._cluster, record, decision)
        tell(self._cluster, record, decision.notes)

    def _observe(self, key: Key, record: JobRecord, job: RLJob, *, has_kueue: bool) -> Observed:
        cache, status = self._cluster.cache, record.status()
        found = cache.children(*key, POD)
        owned = [pod for pod in found if is_owned(pod, job.metadata.uid)]
        pods = tuple(read_pod(pod) for pod in owned)
        master = next((pod for pod in pods if pod.role == "master" and pod.attempt == status.attempt), None)
        progress = self._hooks.progress(*key)
        if progress is not None and (master is None or master.phase == "Pending"):
            progress = progress.model_copy(update={"phase": None, "activity": "the pods are starting", "error": None})
        workloads = cache.children(*key, KUEUE_WORKLOAD)
        return Observed(
            job=job,
            generation=record.generation,
            status=status,
            pods=pods,
            applied={
                (text(child, "kind") or kind.kind, name_of(child)): annotations_of(child).get(
                    ANNOTATION_APPLIED_HASH, ""
                )
                for kind in (*SUPPORTING_KINDS, *POD_GROUP_KINDS)
                for child in cache.children(*key, kind)
            },
            progress=progress,
            now=datetime.now(UTC),
            strangers=frozenset(name_of(pod) for pod in found) - {pod.name for pod in pods},
            groups=self._groups(key),
            workload=next((read_workload(item, job.metadata.uid) for item in workloads), None),
            has_kueue=has_kueue,
        )

    def _groups(self, key: Key) -> tuple[Child, ...]:
        """Return the PodGroups of a job that nobody has deleted."""
        return tuple(
            Child(kind, name_of(child), uid_of(child))
            for kind in POD_GROUP_KINDS
            for child in self._cluster.cache.children(*key, kind)
            if "deletionTimestamp" not in section(child, "metadata")
        )

    async def _carry_out(self, key: Key, record: JobRecord, observed: Observed, decision: Decision) -> None:
        if decision.delete_job:
            await delete_job(self._cluster, record)
            return
        if decision.status_first:
            await write_status(self._cluster, record, decision)
            tell(self._cluster, record, decision.notes)
            self.wake(*key)
            return
        try:
            is_done = await change_children(self._cluster, observed.job, decision)
        except ApiError as error:
            if not is_transient(error):  # one child that is refused does not keep people from the state of the others
                await self._keep_status(key, record, observed.status, decision)
            raise
        waits = (
            await self._keep_status(key, record, observed.status, decision),
            decision.wake_after_seconds,
            None if is_done else UNKNOWN_POD_SECONDS,
        )
        seconds = min((wait for wait in waits if wait is not None), default=None)
        if seconds is not None:
            self._agenda.wake_after(key, seconds)

    async def _keep_status(self, key: Key, record: JobRecord, before: RLJobStatus, decision: Decision) -> float | None:
        """Write the status if it has changed; what only counts on waits for its turn, in the seconds returned."""
        after = decision.status
        self._hooks.note_conditions(*key, {item.type.value: item.status for item in after.conditions})
        if after == before:
            return None
        left = record.written_at + PROGRESS_SECONDS - monotonic()
        if left > 0 and is_progress_only(before, after):
            return left
        await write_status(self._cluster, record, decision)
        record.written_at = monotonic()
        tell(self._cluster, record, decision.notes)
        return None


def is_progress_only(before: RLJobStatus, after: RLJobStatus) -> bool:
    """Return whether nothing but the master's counts has changed between two statuses."""
    return _without_progress(before) == _without_progress(after)


def _without_progress(status: RLJobStatus) -> tuple[object, ...]:
    stable = [
        (item.type, item.status, item.reason, item.message)
        for item in status.conditions
        if item.type not in (ConditionType.PROGRESSING, ConditionType.ENGINES_READY)
    ]
    truths = [(item.type, item.status) for item in status.conditions]
    return (stable, truths, status.observed_generation, status.hybrid, status.elastic, status.attempt, status.restarts)
