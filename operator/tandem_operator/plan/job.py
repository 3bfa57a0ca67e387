"""All objects of a job, from its spec alone."""

from dataclasses import dataclass

from tandem_api.job import RLJob
from tandem_operator.plan.account import service_account
from tandem_operator.plan.claims import claim_templates
from tandem_operator.plan.configuration import config_map, secret
from tandem_operator.plan.disruption import disruption_budget
from tandem_operator.plan.gang import pod_group
from tandem_operator.plan.kueue import not_admitted, reserved, wants_queue, workload
from tandem_operator.plan.network import network_policy
from tandem_operator.plan.objects import (
    ConfigMap,
    NetworkPolicy,
    Pod,
    PodDisruptionBudget,
    PodGroup,
    ResourceClaimTemplate,
    Secret,
    Service,
    ServiceAccount,
    SupportingObject,
    Workload,
)
from tandem_operator.plan.pods import pods
from tandem_operator.plan.services import headless_service
from tandem_operator.plan.surroundings import Surroundings
from tandem_operator.plan.template import merged_pods

__all__ = ["Plan", "Surroundings", "plan_job"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The objects of one job."""

    service_account: ServiceAccount | None
    """None where the user's template names an account."""
    config_map: ConfigMap
    secret: Secret
    services: tuple[Service, ...]
    network_policy: NetworkPolicy
    disruption_budget: PodDisruptionBudget
    claim_templates: tuple[ResourceClaimTemplate, ...]
    pod_group: PodGroup | None
    """None where no gang is asked for, or where the cluster serves none."""
    workload: Workload | None
    """What is asked of the queue before anything else is made; None where none is."""
    pods: tuple[Pod, ...]
    """Master first, then hybrid pods by ordinal, then rollout-only pods by ordinal."""

    @property
    def master(self) -> Pod:
        """Return the pod that runs the loop."""
        return self.pods[0]

    @property
    def members(self) -> tuple[Pod, ...]:
        """Return the pods with engines: hybrid pods, then rollout-only pods."""
        return self.pods[1:]

    @property
    def groundwork(self) -> tuple[SupportingObject, ...]:
        """Return what there must be before the pods: what they name, and who may connect to them."""
        accounts = () if self.service_account is None else (self.service_account,)
        groups = () if self.pod_group is None else (self.pod_group,)
        return (*accounts, self.config_map, self.secret, self.network_policy, *self.claim_templates, *groups)

    @property
    def followers(self) -> tuple[SupportingObject, ...]:
        """Return what says something only once the pods have nodes: their names in DNS, and what a drain must leave.

        Made earlier, Kubernetes would write each of them anew with every pod that starts.
        """
        return (*self.services, self.disruption_budget)

    @property
    def supporting(self) -> tuple[SupportingObject, ...]:
        """Return all objects but the pods."""
        return (*self.groundwork, *self.followers)

    @property
    def objects(self) -> tuple[SupportingObject | Pod, ...]:
        """Return all objects in the order in which they are applied.

        Of the pods the master comes last, so that where it exists all others have existed.
        """
        return (*self.groundwork, *self.members, self.master, *self.followers)


def plan_job(job: RLJob, surroundings: Surroundings) -> Plan:
    """Return every object that runs the job: equal input, equal plan.

    SpecError names the field of `spec.podTemplate` that no pod can be made with: all else was refused at parsing.
    """
    planned = merged_pods(pods(job, surroundings), job.spec.pod_template)
    sample = reserved(job)
    return Plan(
        service_account=service_account(job),
        config_map=config_map(job),
        secret=secret(job, surroundings),
        services=(headless_service(job),),
        network_policy=network_policy(job, surroundings),
        disruption_budget=disruption_budget(job),
        claim_templates=claim_templates(sample),
        pod_group=pod_group(job, surroundings, planned),
        workload=_workload(job, sample, surroundings),
        pods=planned,
    )


def _workload(job: RLJob, sample: RLJob, surroundings: Surroundings) -> Workload | None:
    """Return what is asked of the queue; the pods that show it are planned only for a job that asks."""
    if not wants_queue(job):
        return None
    asked_for = merged_pods(pods(sample, not_admitted(surroundings)), job.spec.pod_template)
    return workload(job, surroundings, asked_for)
