"""What a funnel keeps of one job between two looks: its newest body, and what was worked out from it."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from tandem_api.job import RLJob
from tandem_api.job.operations import GangProvider
from tandem_api.job.status import Condition, RLJobStatus
from tandem_api.problems import InvalidJob, parse_job
from tandem_api.resource import Resource
from tandem_operator.plan.errors import SpecError
from tandem_operator.plan.job import Surroundings, plan_job
from tandem_operator.plan.objects import Secret
from tandem_operator.plan.revision import spec_hash
from tandem_operator.reconcile.observed import Stamped, Wanted
from tandem_operator.reconcile.survey import Offer

Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the jobs of this operator run."""

    etcd_endpoints: tuple[str, ...]
    """`address:port` of the jobs' registry."""
    master_image: str | None = None
    etcd_secret: str | None = None
    """Secret in each job's namespace with which its pods log in to the registry."""
    monitoring_namespaces: tuple[str, ...] = ()


@dataclass(slots=True)
class JobRecord:
    """The newest that is known of one RLJob."""

    body: Body
    job: RLJob | None = None
    problem: str | None = None
    """Why the body is no valid RLJob: an older version of the API may have let it in."""
    parsed_generation: int = -1
    wanted: Wanted | None = None
    wanted_for: tuple[int, int, object] = (-1, -1, None)
    """Generation and attempt of `wanted`, and the offer that it was made for."""
    offer: Offer = field(default_factory=Offer)
    """What the cluster was last found to offer."""
    written_at: float = field(default=float("-inf"))
    """When the status was written last, monotonic seconds."""
    failures: int = 0
    """Errors in a row."""

    @property
    def generation(self) -> int:
        return int(self.body["metadata"].get("generation", 0))

    def renew(self, body: Body) -> None:
        """Take a newer body; an older one, which a slow watch brings after our own write, is left out."""
        if _version(body) >= _version(self.body):
            self.body = body

    def parse(self) -> RLJob | None:
        """Return the job, parsed once a generation; None where it is invalid, with `problem` set."""
        if self.parsed_generation != self.generation:
            document = {key: value for key, value in self.body.items() if key != "status"}
            try:
                self.job, self.problem = parse_job(document), None
            except InvalidJob as error:
                self.job, self.problem = None, "; ".join(error.problems)
            self.parsed_generation = self.generation
        return self.job

    def status(self) -> RLJobStatus:
        """Return the status as it was written last, as far as this version of the operator understands it."""
        document = self.body.get("status") or {}
        try:
            return RLJobStatus.model_validate(_known(RLJobStatus, document))
        except ValidationError:
            return RLJobStatus.model_validate(_understood(document))

    def plan(self, job: RLJob, attempt: int, place: Place, offer: Offer = Offer()) -> Wanted:  # noqa: B008 - immutable
        """Return what the planner makes of the job, worked out once a generation, attempt and offer."""
        known_for = (self.generation, attempt, offer.key)
        if self.wanted is None or self.wanted_for != known_for:
            self.wanted, self.wanted_for, self.offer = _wanted(job, attempt, place, offer), known_for, offer
        return self.wanted


def _wanted(job: RLJob, attempt: int, place: Place, offer: Offer) -> Wanted:
    surroundings = Surroundings(
        etcd_endpoints=place.etcd_endpoints,
        token=secrets.token_urlsafe(32),
        attempt=attempt,
        master_image=place.master_image,
        etcd_secret=place.etcd_secret,
        monitoring_namespaces=place.monitoring_namespaces,
        gang_api=offer.gang_api,
        priority=offer.priority,
        admission=offer.admission,
    )
    try:
        plan = plan_job(job, surroundings)
    except SpecError as error:
        return Wanted(None, "", str(error))
    return Wanted(
        plan=plan,
        spec_hash=spec_hash(job),
        problem=None,
        groundwork=tuple(Stamped.of(item) for item in plan.groundwork if not isinstance(item, Secret)),
        followers=tuple(Stamped.of(item) for item in plan.followers),
        lacks_gang=job.spec.scheduling.gang is not GangProvider.NONE and offer.gang_api is None,
    )


def _understood(document: Body) -> Body:
    """Return the fields of a status that this version understands: each for itself, conditions one by one.

    Counts and the end of a job must outlive a change of versions: without them an ended job would begin anew.
    """
    conditions = [_known(Condition, item) for item in document.get("conditions") or () if isinstance(item, dict)]
    parts = _known(RLJobStatus, document) | {"conditions": [item for item in conditions if _fits(Condition, item)]}
    return {name: value for name, value in parts.items() if _fits(RLJobStatus, {name: value})}


def _known(model: type[Resource], document: Body) -> Body:
    """Return the fields of a document that a model has."""
    names = {info.alias or name for name, info in model.model_fields.items()}
    return {name: value for name, value in document.items() if name in names}


def _fits(model: type[Resource], document: Body) -> bool:
    try:
        model.model_validate(document)
    except ValidationError:
        return False
    return True


def _version(body: Body) -> int:
    """Return the resource version as the number that it is in every API server on etcd."""
    text = str(body["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdecimal() else 0
