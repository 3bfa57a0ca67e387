"""An operator over the small world: reads a copy, which may be old, decides, and carries out as the funnel does."""

from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from tandem_api.registry import Progress
from tandem_operator.kube.resources import POD_GROUP
from tandem_operator.plan.surroundings import Admission
from tandem_operator.reconcile.admission import read_workload
from tandem_operator.reconcile.decision import Child, Decision
from tandem_operator.reconcile.lifecycle import decide
from tandem_operator.reconcile.observed import Observed
from tandem_operator.reconcile.pods import is_owned, read_pod
from tandem_operator.reconcile.record import JobRecord, Place
from tandem_operator.reconcile.survey import Offer
from tests.tandem_operator.reconcile.world import AlreadyExistsError, ConflictError, CrashError, World

PLACE = Place(etcd_endpoints=("etcd:2379",))
MOST_ROUNDS = 200
MASTER, FIRST, SECOND = "math-8b-master", "math-8b-hybrid-0", "math-8b-hybrid-1"
"""The pods of the small world's job."""


@dataclass
class Operator:
    """One operator process and what it has heard of the world."""

    world: World
    gang_api: str | None = None
    """What the cluster serves of the gang that the job asks for."""
    record: JobRecord = field(init=False)
    pods: dict[str, dict[str, Any]] = field(init=False)
    progress: Progress | None = field(init=False)
    workload: dict[str, Any] | None = field(init=False)
    writes_left: int | None = None
    """Writes until it crashes; None: it does not."""

    def __post_init__(self) -> None:
        self.record = JobRecord(deepcopy(self.world.body))
        self.pods, self.progress, self.workload = {}, None, None
        self.hear()

    def hear(self) -> None:
        """Learn of everything that has happened."""
        self.hear_of_job()
        self.hear_of_pods()
        self.progress = self.world.progress
        self.workload = None if self.world.kueue is None else deepcopy(self.world.kueue.workload)

    def hear_of_job(self) -> None:
        """Learn of the newest RLJob alone."""
        self.record.renew(deepcopy(self.world.body))

    def hear_of_pods(self) -> None:
        """Learn of the newest pods alone."""
        self.pods = deepcopy(self.world.pods)

    def observe(self) -> Observed:
        """Return what it sees now."""
        job, status = self.record.parse(), self.record.status()
        assert job is not None, self.record.problem
        found = list(self.pods.values())
        pods = tuple(read_pod(pod) for pod in found if is_owned(pod, job.metadata.uid))
        names = frozenset(pod["metadata"]["name"] for pod in found)
        return Observed(
            job=job,
            generation=self.record.generation,
            status=status,
            pods=pods,
            applied=self.world.applied,
            progress=self.progress,
            now=self.world.now,
            strangers=names - {pod.name for pod in pods},
            groups=tuple(Child(POD_GROUP, name, uid) for name, uid in self.world.groups.items()),
            workload=None if self.workload is None else read_workload(self.workload, job.metadata.uid),
            has_kueue=self.world.kueue is not None,
        )

    def decide(self) -> Decision:
        """Return what it would do now."""
        observed = self.observe()
        offer = Offer(self.gang_api, 0, Admission("" if observed.workload is None else observed.workload.admission_id))
        return decide(observed, self.record.plan(observed.job, observed.status.attempt, PLACE, offer))

    def look(self) -> Decision:
        """Decide and carry it out."""
        decision = self.decide()
        try:
            self._carry_out(decision)
        except ConflictError:
            self.hear_of_job()
        return decision

    def _carry_out(self, decision: Decision) -> None:
        if decision.delete_job:
            self._write()
            self.world.gone = True
        elif decision.status_first:
            self._write_status(decision)
        else:
            self._change_children(decision)
            if decision.status != self.record.status():
                self._write_status(decision)

    def _change_children(self, decision: Decision) -> None:
        for removal in decision.remove:
            self._write()
            self.world.remove_pod(removal.name, removal.uid)
        for manifest in decision.apply:
            self._write()
            self.world.apply(manifest)
        pods = [manifest for manifest in decision.create if manifest["kind"] == "Pod"]
        for manifest in (*pods, *(() if decision.master is None else (decision.master,))):
            self._write()
            try:
                created = self.world.create_pod(manifest)
            except AlreadyExistsError:
                return
            self.pods[created["metadata"]["name"]] = created
        for child in decision.discard:
            self._write()
            self.world.discard(child.kind.kind, child.name, child.uid)
        for _, patch in decision.report:
            self._write()
            self.world.report(patch)

    def _write_status(self, decision: Decision) -> None:
        self._write()
        version = self.record.body["metadata"]["resourceVersion"]
        job = self.record.parse()
        assert job is not None
        self.record.renew(self.world.write_status(version, decision.status, job))
        self.world.events += [(note.reason, note.message) for note in decision.notes]

    def _write(self) -> None:
        """Count one write, or crash instead."""
        if self.writes_left is not None:
            if self.writes_left == 0:
                raise CrashError
            self.writes_left -= 1


def is_quiet(decision: Decision, operator: Operator) -> bool:
    """Return whether a decision writes nothing."""
    children = (decision.apply, decision.create, decision.master, decision.discard, decision.report)
    changes = (*children, decision.remove, decision.delete_job)
    return not any(changes) and not decision.status_first and decision.status == operator.record.status()


def settle(operator: Operator) -> Operator:
    """Look until nothing is left to write, with everything heard and the clock moved on for what waits for it."""
    for _ in range(MOST_ROUNDS):
        operator.hear()
        decision = operator.look()
        if operator.world.gone:
            return operator
        if is_quiet(decision, operator):
            return operator
    raise AssertionError("the operator writes and writes")


def wait_for(operator: Operator, seconds: float) -> Operator:
    """Let time pass, then settle."""
    operator.world.now += timedelta(seconds=seconds)
    return settle(operator)


def start_all(operator: Operator) -> Operator:
    """Let every pod start that has not, then settle."""
    for name, pod in operator.world.pods.items():
        if pod["status"]["phase"] == "Pending":
            operator.world.start(name)
    return settle(operator)


def finish_all(operator: Operator) -> Operator:
    """Let every pod go that was asked to and does not hang, then settle."""
    for name in [name for name, pod in operator.world.pods.items() if "deletionTimestamp" in pod["metadata"]]:
        operator.world.finish(name)
    return settle(operator)


def running(**spec: Any) -> Operator:
    """Return an operator whose job samples: all pods run and the engines have followed a switch."""
    operator = start_all(settle(Operator(World.with_job(**spec))))
    operator.world.speak(switch=True, iteration=1)
    return settle(operator)


def rules_of(*rules: tuple[dict[str, Any], str]) -> dict[str, Any]:
    """Return a failure policy with these rules."""
    return {"rules": [{"match": match, "action": action} for match, action in rules]}


ENDS_ALL = ({"container": "trainer"}, "RestartGang")
"""A rule by which the end of a trainer's container starts all pods again."""
ALL_AGAIN = rules_of(ENDS_ALL)
"""The failure policy of this rule alone."""
